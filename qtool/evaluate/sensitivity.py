"""Sensitivity: the error at the outputs when one tensor alone is quantized, for every tensor, in one session.

The errors of tensors are close to uncorrelated, so their powers add up: the error of any choice of tensors is
predicted by a sum (plan/predict.py). Few tensors carry most of the error, so within a number of inferences
groups of tensors are measured first, then the members of the groups that matter, and those on more samples.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, evenly
from qtool.evaluate.rows import Rows, matches, row_outputs
from qtool.graph.for_session import model_for_session
from qtool.graph.parcel import Parcel
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import TensorNoise, key_of, keys_of, relative_noise
from qtool.plan.resolve import dequantized
from qtool.rewrite.simulate.switched import switched
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.runtime.pool import Pool, all_results
from qtool.runtime.session import Session, running

# The power of an error is a sum over all elements of an output: more samples change it by tenths of a dB.
SAMPLES = 8
# Samples for a first look at every tensor.
_FIRST = 2
# Of the inferences, the share for the first look at groups; the others split the loud ones.
_GROUPS_SHARE = 0.4
# Tensors, or groups, with less than this share of all noise are not looked at again.
_QUIET = 0.005

_NAME = "the model with switches"

Progress = Callable[[str, int, int], None]

Powers = NDArray[np.float64]
"""The sum of squares of each output: [outputs]."""


def sensitivity(
    model: ir.Model,
    plans: Sequence[Plan],
    source: Samples,
    threads: int = 0,
    progress: StepProgress = no_progress,
    keys: Collection[str] | None = None,
    most: int = SAMPLES,
    passes: int | None = None,
    pool: Pool | None = None,
) -> TensorNoise:
    """Return the error of each tensor that resolved plans quantize, quantized alone.

    Args:
        model: prepared.
        plans: plans of that model; where several quantize a tensor in the same way, the first one's scales
            count.
        source: the select set.
        threads: of the runtime.
        progress: called with the inferences done and their greatest number.
        keys: the tensors to measure, as plan/predict.py names them; None: all.
        most: samples to run.
        passes: the most inferences. With fewer than one for each tensor and sample, tensors that matter
            little are run on two samples, or in groups whose members are assumed to be equally noisy. None:
            every tensor on every sample.
        pool: of workers, among which the tensors are divided; None: this process runs all.

    Raises:
        DataError: a sample does not fit.
        RuntimeFailure: the model fails on a sample.
    """
    joined = _joined(plans)
    if keys is not None:  # the others need no switch
        joined = replace(joined, sites=tuple(s for s in joined.sites if key_of(s) in keys))
    switches = switched(model, joined)
    # Of several sites with one key the first.
    weights = {key_of(s): s for s in reversed(joined.sites) if s.kind in WEIGHTS}
    # Values inside an If or Loop have no switch.
    able = [key for key in keys_of(joined) if key in switches.switches or key in weights]
    measured = [key for key in able if keys is None or key in keys]
    outputs = [v.name or "" for v in model.graph.outputs if is_float32(v)]
    if not outputs or not measured:
        return TensorNoise((), np.zeros(0), {key: np.zeros(0) for key in measured}, 0, 0)
    rows = row_outputs(model)
    with model_for_session(switches.model) as loadable:
        session = Session(loadable, threads=threads, name=_NAME)
        own = {i.name for i in model.graph.inputs}
        inputs = {n: i for n, i in session.inputs.items() if n in own}
        samples = [
            fit(sample, inputs, session.input_dtypes, source.name)
            for sample in source.read(evenly(len(source), most))
        ]
        spec = _Spec(
            next(_numbers),
            Parcel() if pool is None else Parcel.of(loadable, local=pool.local),
            threads,
            switches.switches,
            switches.fed,
            switches.weights,
            weights,
            tuple(outputs),
            rows,
            tuple(samples),
        )
        with running(session):
            return _noise_of(measured, _Bench(spec, session, len(measured), passes, progress, pool))


_numbers = itertools.count()


@dataclass(frozen=True)
class _Spec:
    """All that a worker needs to measure tensors.

    Args:
        number: that tells it from others of this process.
        model: with switches.
        threads: of the runtime.
        switches, fed, arrays: see Switched, whose `weights` are `arrays`.
        weights: key -> the site of a weight.
        outputs: names of the float outputs.
        rows: those whose number of rows depends on data.
        samples: arrays by input name.
    """

    number: int
    model: Parcel
    threads: int
    switches: Mapping[str, str]
    fed: Mapping[str, str]
    arrays: Mapping[str, NDArray[np.float32]]
    weights: Mapping[str, Site]
    outputs: tuple[str, ...]
    rows: Mapping[str, Rows]
    samples: tuple[Arrays, ...]


class _Runner:
    """Runs the model with switches.

    Args:
        spec: of the model.
        session: of it.
        ran: called after each inference.
    """

    def __init__(self, spec: _Spec, session: Session, ran: Callable[[], None]) -> None:
        self.spec = spec
        self.ran = ran
        self.session = session
        self._off: Arrays = {n: np.asarray(False) for n in spec.switches.values()}
        self._off |= dict.fromkeys(spec.fed.values(), np.zeros((), np.float32))
        self.references = [self._run(sample, {}) for sample in spec.samples]

    def noise(self, keys: Collection[str], positions: Sequence[int]) -> Powers:
        """Return the power of the errors over some samples, with these tensors quantized."""
        spec, extra = self.spec, Arrays()
        for key in keys:
            if key in spec.switches:
                extra[spec.switches[key]] = np.asarray(True)
            else:
                site = spec.weights[key]
                extra[spec.switches[site.value]] = np.asarray(True)
                extra[spec.fed[site.value]] = dequantized(site, spec.arrays[site.value])
        powers = [
            _error_power(spec.rows, spec.outputs, self.references[i], self._run(spec.samples[i], extra))
            for i in positions
        ]
        return np.asarray(np.sum(powers, axis=0))

    def _run(self, sample: Arrays, extra: Arrays) -> list[NDArray[np.float64]]:
        arrays = self.session.run(sample | self._off | extra, self.spec.outputs)
        self.ran()
        beat()
        return [np.asarray(a, np.float64) for a in arrays]


# The runner of the last spec, and its temporary files.
_opened: dict[int, tuple[_Runner, ExitStack]] = {}


def noise_of(spec: _Spec, keys: Sequence[str], positions: Sequence[int], progress: Progress) -> Powers:
    """Return the power of the errors over some samples, with these tensors quantized: a worker's work."""
    if spec.number not in _opened:
        for _, stack in _opened.values():
            stack.close()
        _opened.clear()
        stack = ExitStack()
        loadable = stack.enter_context(spec.model.opened())
        session = Session(loadable, threads=spec.threads, name=_NAME)
        with running(session):
            _opened[spec.number] = _Runner(spec, session, beat), stack
    runner, _ = _opened[spec.number]
    counts = itertools.count(1)
    runner.ran = lambda: progress("sensitivity", next(counts), len(positions))
    with running(runner.session):
        return runner.noise(keys, positions)


class _Bench:
    """Measures tensors here or by workers, and counts the inferences.

    Args:
        spec, session: of the model with switches.
        tensors: the number of tensors to measure.
        passes: the most inferences; None: one for each tensor and sample.
        progress: called with the inferences done and their greatest number.
        pool: of workers; None: this process runs all.
    """

    def __init__(
        self,
        spec: _Spec,
        session: Session,
        tensors: int,
        passes: int | None,
        progress: StepProgress,
        pool: Pool | None,
    ) -> None:
        self._pool, self._progress = pool, progress
        self._spec = None if pool is None else pool.share(spec)
        self.outputs, self.count = spec.outputs, len(spec.samples)
        full = (tensors + 1) * self.count
        self._most = full if passes is None else min(passes, full)
        self.done = 0
        self._runner = _Runner(spec, session, lambda: self._add(1))
        references = self._runner.references
        squares = [[np.square(a[np.isfinite(a)]).sum() for a in arrays] for arrays in references]
        self._signals = np.asarray(squares, np.float64)

    @property
    def left(self) -> int:
        """The inferences that are left."""
        return self._most - self.done

    @property
    def signal(self) -> Powers:
        """The power of the outputs over all samples."""
        return np.asarray(self._signals.sum(axis=0))

    def noises(self, groups: Sequence[Sequence[str]], positions: Sequence[int]) -> list[Powers]:
        """Return the power of the errors over some samples, with the tensors of each group quantized."""
        if self._pool is None or len(groups) < 2:
            return [self._runner.noise(keys, positions) for keys in groups]
        calls = [(self._spec, tuple(keys), tuple(positions)) for keys in groups]
        before = self.done
        powers = all_results(
            self._pool, noise_of, calls, lambda done, total: self._progress(before + done, self._most)
        )
        self._add(len(calls) * len(positions))
        return powers

    def scaled(self, noise: Powers, positions: Sequence[int]) -> Powers:
        """Return the noise over some samples as that over all of them."""
        part = self._signals[list(positions)].sum(axis=0)
        return np.asarray(noise * np.divide(self.signal, part, out=np.ones_like(part), where=part > 0))

    def _add(self, inferences: int) -> None:
        self.done += inferences
        self._progress(self.done, self._most)


@dataclass(frozen=True)
class _Group:
    """Tensors that were measured together.

    Args:
        keys: neighbours in the graph.
        noise: over the first samples.
        share: its noise as a share of the signal, summed over the outputs.
    """

    keys: tuple[str, ...]
    noise: Powers
    share: float


def _noise_of(keys: Sequence[str], bench: _Bench) -> TensorNoise:
    """Measure groups of tensors, split the loud ones, and run the loudest tensors on all samples."""
    first = sorted(evenly(bench.count, _FIRST))
    rest = [i for i in range(bench.count) if i not in first]
    measure = partial(_groups, bench=bench, positions=first)
    everything = len(keys) * bench.count <= bench.left
    if everything or len(keys) * len(first) <= bench.left:
        size = 1
    else:
        size = -(-len(keys) * len(first) // max(int(bench.left * _GROUPS_SHARE), len(first)))
    groups = measure([tuple(keys[i : i + size]) for i in range(0, len(keys), size)])
    groups = _split_loud(groups, measure, lambda: bench.left >= 2 * len(first))
    total = sum(group.share for group in groups)
    loudest: list[_Group] = []  # loud tensors, which the other samples are run for as well
    for group in sorted(groups, key=lambda g: -g.share):
        loud = everything or (len(group.keys) == 1 and group.share > _QUIET * total)
        if rest and loud and bench.left >= (len(loudest) + 1) * len(rest):
            loudest.append(group)
    names = [group.keys for group in loudest]
    more = dict(zip(names, bench.noises(names, rest), strict=True))
    noise: dict[str, Powers] = {}
    for group in groups:
        own, positions = group.noise, first
        if group.keys in more:
            own, positions = own + more[group.keys], [*first, *rest]
        noise |= dict.fromkeys(group.keys, bench.scaled(own, positions) / len(group.keys))
    ordered = {key: noise[key] for key in keys}
    return TensorNoise(tuple(bench.outputs), bench.signal, ordered, bench.count, bench.done)


def _groups(keys: Sequence[tuple[str, ...]], bench: _Bench, positions: Sequence[int]) -> list[_Group]:
    noises = zip(keys, bench.noises(keys, positions), strict=True)
    return [_Group(k, n, relative_noise(bench.scaled(n, positions), bench.signal)) for k, n in noises]


def _split_loud(
    groups: Sequence[_Group],
    measure: Callable[[Sequence[tuple[str, ...]]], list[_Group]],
    affordable: Callable[[], bool],
) -> list[_Group]:
    """Split groups in halves, the loudest first, while another split is affordable."""
    heap = [(-group.share, number, group) for number, group in enumerate(groups)]
    heapq.heapify(heap)
    total, number, done = sum(group.share for group in groups), len(groups), []
    while heap:
        _, _, group = heapq.heappop(heap)
        if len(group.keys) == 1 or group.share <= _QUIET * total or not affordable():
            done.append(group)
            continue
        middle = len(group.keys) // 2
        for part in measure([group.keys[:middle], group.keys[middle:]]):
            number += 1
            heapq.heappush(heap, (-part.share, number, part))
    return done


def _joined(plans: Sequence[Plan]) -> Plan:
    """A plan with the sites of all plans; of equal sites the first."""
    first, *others = plans
    sites: dict[str, Site] = {}
    for plan in plans:
        for site in plan.sites:
            sites.setdefault(f"{key_of(site)} {site.value} {site.kind}", site)
    return replace(first, sites=tuple(sites.values())) if others else first


def _error_power(
    rows: Mapping[str, Rows],
    names: Sequence[str],
    reference: Sequence[NDArray[np.float64]],
    actual: Sequence[NDArray[np.float64]],
) -> list[float]:
    """The sum of squares of each output's error: of its matching rows, where data decides their number.

    Where shapes differ otherwise, that of the reference.
    """
    powers = []
    matched = matches(rows, names, reference, actual)
    for name, a, b in zip(names, reference, actual, strict=True):
        if name in matched:
            a, b = matched[name].take(a, b)
        with np.errstate(invalid="ignore"):  # infinities of both
            d = a - b if a.shape == b.shape else a
        powers.append(float(np.square(d[np.isfinite(d)]).sum()))
    return powers
