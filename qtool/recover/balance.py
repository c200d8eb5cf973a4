"""Factors between layers, chosen by what the scaled layer is expected to err: what its techniques share.

With factors s a layer multiplies x / s with W s. What rounding does to the one and to the other is known
before anything is run (uniform noise of a step's width, Widrow and Kollar 2008; weights are simply rounded),
so each technique only says which factors are worth looking at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.runner import groups_of, value_reader
from qtool.data.samples import Samples, evenly
from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import F32, F64
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Scaled, Site
from qtool.plan.prepared import along
from qtool.recover.joints import Joint, joints
from qtool.tables.qtypes import TensorSpec

_SAMPLES = 32
_VALUES = 64 << 20
# Less than that is not worth a change: another choice of samples would turn it round.
_WORTH = 0.9

Balances = Mapping[str, tuple[Scaled, ...]]


@dataclass(frozen=True)
class Seen:
    """What samples show of each channel of a value, float64 [C] each: its ends, E|x| and E[x^2]."""

    lo: F64
    hi: F64
    mean: F64
    square: F64

    @property
    def reach(self) -> F64:
        return np.maximum(np.abs(self.lo), np.abs(self.hi))


@dataclass(frozen=True)
class Layers:
    """A joint with the weights behind it, and what quantizes them.

    Args:
        joint: where factors can be moved.
        seen: of its value.
        weights: as they are, each with how it is quantized, or None where it stays in float.
        rounded: how the value is quantized; None: it is not.
    """

    joint: Joint
    seen: Seen
    weights: tuple[tuple[F32, int, Site | None], ...]
    rounded: Site | None

    @property
    def weight_reach(self) -> F64:
        """The greatest weight of each channel: [C]."""
        rows = (np.moveaxis(w, axis, 0).reshape(len(self.seen.lo), -1) for w, axis, _ in self.weights)
        return np.asarray(np.max([np.abs(r).max(axis=1) for r in rows], axis=0), np.float64)

    def noise(self, s: NDArray[np.floating]) -> float:
        """The expected squared error of all that the layers give out, but for a factor. s: [C]."""
        total = 0.0
        for w, axis, site in self.weights:
            factors = along(np.asarray(s, np.float32), axis, w.ndim)
            scaled = w * factors
            if self.rounded is not None:
                steps = self.rounded.spec.qtype.qmax - self.rounded.spec.qtype.qmin
                step = (max(0.0, (self.seen.hi / s).max()) - min(0.0, (self.seen.lo / s).min())) / steps
                total += step**2 / 12 * float(np.square(scaled, dtype=np.float64).sum())
            if site is not None:
                back = _nearest(scaled, site.spec)
                size = along(np.sqrt(self.seen.square), axis, w.ndim)
                total += float(np.square((back - scaled) / factors * size, dtype=np.float64).sum())
        return total


def _nearest(w: F32, spec: TensorSpec) -> F32:
    """A weight rounded on a grid of its own."""
    params = weight_qparams(w, spec)
    return dequantize(quantize(w, params, spec.qtype, spec.granularity), params, spec.granularity)


Candidates = Callable[[Layers], Iterable[F64]]


def balanced(
    view: View,
    plan: Plan,
    source: Samples,
    candidates: Candidates,
    able: Callable[[Layers], bool],
    threads: int = 0,
) -> Balances:
    """What to scale so that layers err least, as far as can be told from each alone.

    Args:
        view: of the prepared model.
        plan: resolved.
        source: of which 32 samples are taken; not those that the result is judged on.
        candidates: the factors to look at, of any size.
        able: which layers to look at.
        threads: of the runtime.

    Raises:
        DataError: samples that do not fit the model.
        RuntimeFailure: the model fails on one.
    """
    nodes = {name for s in plan.sites if s.kind in WEIGHTS for name, _ in s.uses or ()}
    values = {v.name or "" for n in nodes if (v := view.node_by_name[n].inputs[0]) is not None}
    found = joints(view, values - plan.outlier_columns.keys())
    seen = _looked_at(view.model, found, source, threads)
    found = [joint for joint in found if joint.value in seen]
    scaled: dict[str, tuple[Scaled, ...]] = {}
    now: dict[str, F32] = {}  # weights as they are by then: many lie behind one value, and before another
    for joint in found:
        layers = _layers(view, plan, joint, seen[joint.value], now)
        best = _best(layers, candidates(layers)) if able(layers) else None
        if best is None:
            continue
        ports = [(port, 1 / best) for port in joint.before] + [(port, best) for _, port in joint.after]
        for (name, axis), factors in ports:
            array = now.get(name, float_constant(view.values[name]))
            assert array is not None  # a joint has constants alone
            now[name] = array * along(np.asarray(factors, np.float32), axis, array.ndim)
            scaled[name] = (*scaled.get(name, ()), Scaled(axis, tuple(factors.tolist())))
    return scaled


def _layers(view: View, plan: Plan, joint: Joint, seen: Seen, now: Mapping[str, F32]) -> Layers:
    quantized = {use: s for s in plan.sites if s.kind in WEIGHTS for use in s.uses or ()}
    weights = []
    for node, (name, axis) in joint.after:
        array = now.get(name, float_constant(view.values[name]))
        assert array is not None
        weights.append((array, axis, quantized.get((node, 1))))
    rounded = next((s for s in plan.sites if s.value == joint.value and s.kind in OBSERVED), None)
    return Layers(joint, seen, tuple(weights), rounded)


def _looked_at(
    model: ir.Model, found: Collection[Joint], source: Samples, threads: int
) -> Mapping[str, Seen]:
    """What 32 samples show of the joints."""
    axes = {joint.value: joint.axis for joint in found}
    tallies: dict[str, _Tally] = {}
    for group in groups_of(model, list(axes), source, _VALUES, threads):
        with value_reader(model, group, threads, "the model whose channels are looked at") as look:
            for sample in source.read(evenly(len(source), _SAMPLES)):
                for name, array in zip(group, look(sample, source.name), strict=True):
                    if not array.size:
                        continue
                    x = np.moveaxis(np.asarray(array, np.float32), axes[name], -1)
                    new = _Tally.of(x.reshape(-1, x.shape[-1]))
                    tallies[name] = tallies[name].plus(new) if name in tallies else new
    return {name: tally.seen() for name, tally in tallies.items()}


@dataclass(frozen=True)
class _Tally:
    """Of rows, each channel: [C] float64 each."""

    lo: F64
    hi: F64
    total: F64
    squares: F64
    rows: int

    @classmethod
    def of(cls, x: F32) -> _Tally:
        total, squares = (f(x).sum(axis=0, dtype=np.float64) for f in (np.abs, np.square))
        return cls(x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64), total, squares, len(x))

    def plus(self, other: _Tally) -> _Tally:
        lo, hi = np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi)
        total, squares = self.total + other.total, self.squares + other.squares
        return _Tally(lo, hi, total, squares, self.rows + other.rows)

    def seen(self) -> Seen:
        return Seen(self.lo, self.hi, self.total / self.rows, self.squares / self.rows)


def rounded_off(s: NDArray[np.floating]) -> F64:
    """Powers of two next to factors whose geometric mean is taken to 1: floats lose nothing by those."""
    ok = np.isfinite(s) & (s > 0)
    logs = np.log2(np.where(ok, s, 1.0))
    logs -= logs[ok].mean() if ok.any() else 0.0
    return np.asarray(np.exp2(np.clip(np.rint(np.where(ok, logs, 0.0)), -12, 12)))


def _best(layers: Layers, candidates: Iterable[F64]) -> F64 | None:
    """The factors of least noise; None where they hardly change it."""
    before = layers.noise(np.ones_like(layers.seen.lo))
    tried = [(layers.noise(s), s) for s in map(rounded_off, candidates)]
    least, best = min(tried, key=lambda t: t[0], default=(before, None))
    return best if least < _WORTH * before else None
