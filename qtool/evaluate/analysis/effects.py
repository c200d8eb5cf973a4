"""The error at the outputs of each tensor and region alone, within a number of inferences.

The model with switches (rewrite/simulate/switched.py) has one session for all of them. Every tensor is run on
two samples first: that with the largest error, and a middling one. Regions are then run on all, the loudest
first, and with what is left tensors are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.samples import Arrays
from qtool.evaluate.analysis.pieces import Pieces, split
from qtool.evaluate.analysis.subject import Subject
from qtool.evaluate.rows import Rows, matches
from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner
from qtool.graph.for_session import model_for_session
from qtool.numerics.metrics import sqnr_db
from qtool.plan.model import WEIGHTS
from qtool.rewrite.simulate.switched import Switched, switched
from qtool.runtime.heartbeat import StepProgress, beat
from qtool.runtime.session import Model, Session, running

Powers = NDArray[np.float64]
"""The sum of squares of each output: [outputs]; or also of each sample: [samples, outputs]."""

# An error of more dB is that of float32 itself.
_EXACT_DB = 100.0


@dataclass
class Outputs:
    """The FP32 outputs of some samples, to measure errors against.

    Args:
        names: of the float outputs.
        rows: outputs whose number of rows depends on data.
        samples: the inputs of each sample.
        arrays: for each sample its outputs.
        runs: the inferences so far, of any form of the model.
    """

    names: list[str]
    rows: Mapping[str, Rows]
    samples: Sequence[Arrays]
    arrays: list[list[NDArray[np.float64]]] = field(default_factory=list)
    runs: int = 0

    @property
    def signal(self) -> Powers:
        """The power of the outputs over all samples."""
        return self.signal_of(range(len(self.samples)))

    def signal_of(self, positions: Collection[int]) -> Powers:
        """Return the power of the outputs over some samples."""
        squares = [[np.square(a[np.isfinite(a)]).sum() for a in self.arrays[i]] for i in positions]
        return np.asarray(np.sum(squares, axis=0), np.float64)

    def error(self, position: int, actual: Sequence[NDArray[np.float64]]) -> Powers:
        """Return the power of the error of each output on a sample."""
        powers = []
        reference = self.arrays[position]
        matched = matches(self.rows, self.names, reference, actual)
        for name, a, b in zip(self.names, reference, actual, strict=True):
            if name in matched:
                a, b = matched[name].take(a, b)
            with np.errstate(invalid="ignore"):  # infinities of both
                d = a - b if a.shape == b.shape else a
            powers.append(float(np.square(d[np.isfinite(d)]).sum()))
        return np.asarray(powers)

    def sqnr(self, noise: Powers) -> float:
        """Return the SQNR of the worst output over all samples in dB."""
        return _worst_sqnr(self.signal, noise)

    def errors_of(self, model: Model, names: Sequence[str]) -> Powers:
        """Run a model on every sample; return [samples, outputs] the power of its error.

        Args:
            model: any form of the model.
            names: its names of these outputs.
        """
        powers = []
        with running(model):
            for position, sample in enumerate(self.samples):
                actual = [np.asarray(a, np.float64) for a in model.run(sample, names)]
                powers.append(self.error(position, actual))
                self.runs += 1
        return np.asarray(powers)

    def levels(self, noise: Powers) -> Powers:
        """Return [samples] the SQNR of the worst output in dB; of [samples, outputs] powers."""
        levels = [_worst_sqnr(self.signal_of([i]), row) for i, row in enumerate(noise)]
        return np.clip(levels, -_EXACT_DB, _EXACT_DB)


def _worst_sqnr(signal: Powers, noise: Powers) -> float:
    """Return the SQNR of the worst output in dB, of the powers of each."""
    levels = map(sqnr_db, signal.tolist(), noise.tolist())
    return min((db for db in levels if not math.isnan(db)), default=math.inf)


@dataclass(frozen=True)
class Effect:
    """The power of the error at each output over all samples, and the number of samples that were run."""

    noise: Powers
    samples: int


def measure_effects(
    subject: Subject,
    outputs: Outputs,
    simulated: Powers,
    faulty_biases: Mapping[str, str],
    passes: int,
    threads: int,
    progress: StepProgress,
) -> tuple[dict[str, Effect], list[Effect]]:
    """Return the effect of each tensor, and of each region.

    Args:
        subject: the model.
        outputs: FP32's.
        simulated: [samples, outputs] the power of the error with everything quantized.
        faulty_biases: bias -> the tensor whose scale makes it wrong, and whose switch it follows.
        passes: the most inferences.
        threads: of the runtime.
        progress: called with the inferences done and their greatest number.
    """
    pieces = split(subject)
    switches = switched(subject.model, pieces.plan)
    _switch_biases(subject, pieces, switches, faulty_biases)
    with model_for_session(switches.model) as loadable:
        session = Session(loadable, threads=threads, name="the model with switches")
    home = {part: key for key, parts in pieces.tensors.items() for part in parts}
    bench = _Bench(subject, outputs, home, switches, session, outputs.runs + passes, progress)
    with running(session):
        return _effects(bench, pieces, simulated)


class _Bench:
    """Runs the model with switches.

    Args:
        subject, outputs: as above.
        home: part -> its tensor.
        switches, session: the model with switches.
        most: the most inferences, with those that `outputs` has counted.
        progress: called with the inferences done and their greatest number.
    """

    def __init__(
        self,
        subject: Subject,
        outputs: Outputs,
        home: Mapping[str, str],
        switches: Switched,
        session: Session,
        most: int,
        progress: StepProgress,
    ) -> None:
        self.subject, self.outputs, self.home = subject, outputs, home
        self._switches, self._session, self._most, self._progress = switches, session, most, progress
        self._off: Arrays = {n: np.asarray(False) for n in switches.switches.values()}
        self._off |= dict.fromkeys(switches.fed.values(), np.zeros((), np.float32))
        self._start = outputs.runs

    @property
    def left(self) -> int:
        """The inferences that are left."""
        return self._most - self.outputs.runs

    def able(self, part: str) -> bool:
        """Whether a part of a tensor has a switch; values inside an If or Loop have none."""
        return self._switch(part) in self._switches.switches

    def _switch(self, part: str) -> str:
        sites = self.subject.tensors.get(part, ())
        return sites[0].value if sites and sites[0].kind in WEIGHTS else part

    def noise(self, parts: Collection[str], positions: Collection[int]) -> Powers:
        """Return the power of the errors with these parts quantized, over some samples."""
        extra: Arrays = {}
        for part in parts:
            if self.able(part):
                extra |= self._on(part)
        total = np.zeros(len(self.outputs.names))
        for i in positions:
            actual = self._session.run({**self.outputs.samples[i], **self._off, **extra}, self.outputs.names)
            self.outputs.runs += 1
            self._progress(self.outputs.runs - self._start, self._most - self._start)
            beat()
            total += self.outputs.error(i, [np.asarray(a, np.float64) for a in actual])
        return total

    def _on(self, part: str) -> Arrays:
        """Return the inputs that quantize a part."""
        switches, on = self._switches, np.asarray(True)
        name = self._switch(part)
        if name not in switches.fed:
            return {switches.switches[name]: on}
        site = self.subject.tensors[self.home[part]][0]
        restored = self.subject.restored(site, switches.weights[site.value]).array
        return {switches.switches[name]: on, switches.fed[name]: restored}


def _effects(bench: _Bench, pieces: Pieces, simulated: Powers) -> tuple[dict[str, Effect], list[Effect]]:
    outputs, regions = bench.outputs, pieces.regions
    everything = range(len(outputs.samples))
    keys = [key for key, parts in pieces.tensors.items() if any(map(bench.able, parts))]
    first = _first_samples(outputs, simulated)
    if len(keys) * len(first) > bench.left * 2 // 3:
        first = first[:1]
    rest = [i for i in everything if i not in first]

    def loudness(noise: Powers) -> float:
        return float(np.max(_ratio(noise, outputs.signal), initial=0.0))

    part, total = simulated[first].sum(axis=0), simulated.sum(axis=0)
    growth = np.where(part > 0, _ratio(total, part), len(everything) / len(first))
    looks = {key: bench.noise(pieces.tensors[key], first) for key in keys if bench.left >= len(first)}
    tensors = {key: Effect(noise * growth, len(first)) for key, noise in looks.items()}
    nothing = np.zeros(len(outputs.names))
    inside = [dict.fromkeys(bench.home[part] for part in parts) for parts in regions]
    sums = [sum((tensors[k].noise for k in keys if k in tensors), nothing) for keys in inside]
    effects = [Effect(noise, 0) for noise in sums]
    while bench.left >= len(everything):  # the loudest first
        order = sorted(range(len(regions)), key=lambda i: -loudness(effects[i].noise))
        index = next((i for i in order if not effects[i].samples and regions[i]), None)
        if index is None:
            break
        effects[index] = Effect(bench.noise(regions[index], everything), len(everything))
    for key in sorted(tensors, key=lambda k: -loudness(tensors[k].noise)):
        if rest and bench.left >= len(rest):
            noise = looks[key] + bench.noise(pieces.tensors[key], rest)
            tensors[key] = Effect(noise, len(everything))
    return tensors, effects


def _first_samples(outputs: Outputs, simulated: Powers) -> list[int]:
    """Return the samples that every tensor is run on: one with the largest error, and a middling one."""
    loudness = _ratio(simulated, outputs.signal).max(axis=1, initial=0.0)
    order = np.argsort(-loudness, kind="stable").tolist()
    return list(dict.fromkeys((order[0], order[len(order) // 2])))


def _ratio(a: Powers, b: Powers) -> Powers:
    """Return a / b; 0 where b is 0."""
    return np.asarray(np.divide(a, b, out=np.zeros_like(a), where=b > 0))


def _switch_biases(subject: Subject, pieces: Pieces, switches: Switched, faulty: Mapping[str, str]) -> None:
    """Let a bias that a tensor's scale makes wrong be wrong where that tensor is quantized."""
    model = switches.model
    namer = Namer(model)
    inputs = {v.name: v for v in model.graph.inputs}
    constants = {v.name: v for v in model.graph.initializers.values()}
    for name, key in faulty.items():
        site = subject.tensors[key][0]
        readers = {use.node.name for use in constants[name].uses()} if name in constants else set()
        part = _part_read_by(subject, pieces, key, readers)
        switch = inputs.get(switches.switches.get(site.value if site.kind in WEIGHTS else part, ""))
        bias = constants.get(name)
        if switch is None or bias is None:
            continue
        wrong = add_initializer(owner(bias), namer(f"{name}_wrong"), subject.biases[name].array)
        chosen = new_node(
            "Where", [switch, wrong, bias], name=namer(f"{name}_Where"), outputs=[namer(f"{name}_chosen")]
        )
        result = chosen.outputs[0]
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), bias.shape
        bias.replace_all_uses_with(result)
        chosen.replace_input_with(2, bias)
        insert_after_value(bias, [chosen], owner(bias))


def _part_read_by(subject: Subject, pieces: Pieces, key: str, readers: Collection[str | None]) -> str:
    """Return the part of a tensor that some nodes read."""
    own = [s for s in pieces.plan.sites if s.group in pieces.tensors[key]]
    near = (s.group for s in own if any(node in readers for node, _ in subject.uses(s)))
    return next(near, key)
