"""Sensitivity: the error at the outputs when one tensor alone is quantized, for every tensor, in one session.

The errors of tensors are close to uncorrelated, so their powers add up: the error of any choice of tensors is
predicted by a sum (plan/predict.py). Few tensors carry most of the error, so within a number of inferences
groups of tensors are measured first, then the members of the groups that matter, and those on more samples.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, evenly
from qtool.evaluate.rows import Rows, matches, row_outputs
from qtool.graph.save import model_for_session
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import TensorNoise, key_of, keys_of, relative_noise
from qtool.plan.resolve import dequantized
from qtool.rewrite.simulate.switched import Switched, switched
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.runtime.session import Session, running

# The power of an error is a sum over all elements of an output: more samples change it by tenths of a dB.
SAMPLES = 8
# Samples for a first look at every tensor.
_FIRST = 2
# Of the inferences, the share for the first look at groups; the others split the loud ones.
_GROUPS_SHARE = 0.4
# Tensors, or groups, with less than this share of all noise are not looked at again.
_QUIET = 0.005

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
        session = Session(loadable, threads=threads, name="the model with switches")
        own = {i.name for i in model.graph.inputs}
        inputs = {n: i for n, i in session.inputs.items() if n in own}
        samples = [
            fit(sample, inputs, session.input_dtypes, source.name)
            for sample in source.read(evenly(len(source), most))
        ]
        with running(session):
            bench = _Bench(
                session, switches, weights, outputs, rows, samples, len(measured), passes, progress
            )
            return _noise_of(measured, bench)


class _Bench:
    """Runs the model with switches, and counts the inferences.

    Args:
        session: of the model with switches.
        switches: its inputs.
        weights: key -> the site of a weight.
        outputs: names of the float outputs.
        rows: those whose number of rows depends on data.
        samples: arrays by input name.
        tensors: the number of tensors to measure.
        passes: the most inferences; None: one for each tensor and sample.
        progress: called with the inferences done and their greatest number.
    """

    def __init__(
        self,
        session: Session,
        switches: Switched,
        weights: Mapping[str, Site],
        outputs: Sequence[str],
        rows: Mapping[str, Rows],
        samples: Sequence[Arrays],
        tensors: int,
        passes: int | None,
        progress: StepProgress,
    ) -> None:
        self._session, self._switches, self._weights = session, switches, weights
        self.outputs, self._rows = outputs, rows
        self._samples = samples
        self._progress = progress
        self._off: Arrays = {n: np.asarray(False) for n in switches.switches.values()}
        self._off |= dict.fromkeys(switches.fed.values(), np.zeros((), np.float32))
        full = (tensors + 1) * len(samples)
        self._most = full if passes is None else min(passes, full)
        self.done = 0
        self._references = [self._run(sample, {}) for sample in samples]
        squares = [[np.square(a[np.isfinite(a)]).sum() for a in arrays] for arrays in self._references]
        self._signals = np.asarray(squares, np.float64)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._samples)

    @property
    def left(self) -> int:
        """The inferences that are left."""
        return self._most - self.done

    @property
    def signal(self) -> Powers:
        """The power of the outputs over all samples."""
        return np.asarray(self._signals.sum(axis=0))

    def noise(self, keys: Collection[str], positions: Sequence[int]) -> Powers:
        """Return the power of the errors with these tensors quantized, over some samples."""
        extra: Arrays = {}
        for key in keys:
            if key in self._switches.switches:
                extra[self._switches.switches[key]] = np.asarray(True)
            else:
                site = self._weights[key]
                extra[self._switches.switches[site.value]] = np.asarray(True)
                rounded = dequantized(site, self._switches.weights[site.value])
                extra[self._switches.fed[site.value]] = rounded
        powers = [
            _error_power(self._rows, self.outputs, self._references[i], self._run(self._samples[i], extra))
            for i in positions
        ]
        return np.asarray(np.sum(powers, axis=0))

    def scaled(self, noise: Powers, positions: Sequence[int]) -> Powers:
        """Return the noise over some samples as that over all of them."""
        part = self._signals[list(positions)].sum(axis=0)
        return np.asarray(noise * np.divide(self.signal, part, out=np.ones_like(part), where=part > 0))

    def _run(self, sample: Arrays, extra: Arrays) -> list[NDArray[np.float64]]:
        arrays = self._session.run(sample | self._off | extra, self.outputs)
        self.done += 1
        self._progress(self.done, self._most)
        beat()
        return [np.asarray(a, np.float64) for a in arrays]


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
    measure = partial(_group, bench=bench, positions=first)
    everything = len(keys) * bench.count <= bench.left
    if everything or len(keys) * len(first) <= bench.left:
        size = 1
    else:
        size = -(-len(keys) * len(first) // max(int(bench.left * _GROUPS_SHARE), len(first)))
    groups = [measure(tuple(keys[i : i + size])) for i in range(0, len(keys), size)]
    groups = _split_loud(groups, measure, lambda: bench.left >= 2 * len(first))
    total = sum(group.share for group in groups)
    noise: dict[str, Powers] = {}
    for group in sorted(groups, key=lambda g: -g.share):
        own, positions = group.noise, first
        loud = everything or (len(group.keys) == 1 and group.share > _QUIET * total)
        if rest and loud and bench.left >= len(rest):
            own, positions = own + bench.noise(group.keys, rest), [*first, *rest]
        noise |= dict.fromkeys(group.keys, bench.scaled(own, positions) / len(group.keys))
    ordered = {key: noise[key] for key in keys}
    return TensorNoise(tuple(bench.outputs), bench.signal, ordered, bench.count, bench.done)


def _group(keys: tuple[str, ...], bench: _Bench, positions: Sequence[int]) -> _Group:
    noise = bench.noise(keys, positions)
    return _Group(keys, noise, relative_noise(bench.scaled(noise, positions), bench.signal))


def _split_loud(
    groups: Sequence[_Group], measure: Callable[[tuple[str, ...]], _Group], affordable: Callable[[], bool]
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
        for half in (group.keys[:middle], group.keys[middle:]):
            part, number = measure(half), number + 1
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
