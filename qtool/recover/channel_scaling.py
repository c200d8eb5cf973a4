"""Channel scaling: move factors from one layer into the next, chosen by the expected error of the layer.

With factors s a layer multiplies x / s with W s. The errors of rounding both are known before anything is
run: uniform noise of a step's width for x (Widrow and Kollar 2008), the rounded weights themselves for W. A
technique (equalize.py, smoothquant.py, awq.py) names the layers and the factors to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.qparams import F32, F64
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Scaled, Site
from qtool.plan.prepared import laid_along
from qtool.recover.channel_statistics import ChannelStatistics, channel_statistics
from qtool.recover.equalization_pairs import EqualizationPair, find_pairs
from qtool.rewrite.writer import float_array
from qtool.tables.qtypes import TensorSpec

_SAMPLES = 32
# A smaller gain is not worth a change: other samples would reverse it.
_WORTH = 0.9

Scalings = Mapping[str, tuple[Scaled, ...]]
"""Constant -> its factors, in order."""


@dataclass(frozen=True)
class PairedLayers:
    """An equalization pair with the weights after it, and their quantization.

    Args:
        pair: where factors can be moved.
        channels: statistics of its value.
        weights: the weights as they are now, with the axis of the channels and the site; None in float.
        site: the quantization of the value; None in float.
    """

    pair: EqualizationPair
    channels: ChannelStatistics
    weights: tuple[tuple[F32, int, Site | None], ...]
    site: Site | None

    @property
    def weight_absmax(self) -> F64:
        """The greatest |w| of each channel: [C]."""
        rows = (np.moveaxis(w, axis, 0).reshape(len(self.channels.lo), -1) for w, axis, _ in self.weights)
        return np.asarray(np.max([np.abs(r).max(axis=1) for r in rows], axis=0), np.float64)

    def noise(self, s: NDArray[np.floating]) -> float:
        """Return the expected squared error of the layers' outputs with factors s, [C], up to a constant."""
        total = 0.0
        for w, axis, site in self.weights:
            factors = laid_along(np.asarray(s, np.float32), axis, w.ndim)
            scaled = w * factors
            if self.site is not None:
                steps = self.site.spec.qtype.qmax - self.site.spec.qtype.qmin
                step = (
                    max(0.0, (self.channels.hi / s).max()) - min(0.0, (self.channels.lo / s).min())
                ) / steps
                total += step**2 / 12 * float(np.square(scaled, dtype=np.float64).sum())
            if site is not None:
                size = laid_along(np.sqrt(self.channels.square), axis, w.ndim)
                error = (rounded_weight(scaled, site.spec) - scaled) / factors * size
                total += float(np.square(error, dtype=np.float64).sum())
        return total


@dataclass(frozen=True)
class Technique:
    """A way to choose factors.

    Args:
        factors: the factors to try for layers, [C] each, of any size.
        applies: whether to try any.
    """

    factors: Callable[[PairedLayers], Iterable[F64]]
    applies: Callable[[PairedLayers], bool]


def scale_channels(
    technique: Technique, view: View, plan: Plan, samples: Samples, threads: int = 0
) -> Scalings:
    """Return the factors with the least expected error of each layer; in float they change nothing.

    Args:
        technique: the factors to try.
        view: of the prepared model.
        plan: resolved.
        samples: for statistics; 32 are run.
        threads: of the runtime.

    Raises:
        DataError: a sample does not fit the model.
        RuntimeFailure: the model fails on a sample.
    """
    nodes = {name for s in plan.sites if s.kind in WEIGHTS for name, _ in s.uses or ()}
    values = {v.name or "" for n in nodes if (v := view.node_by_name[n].inputs[0]) is not None}
    pairs = find_pairs(view, values - plan.outlier_columns.keys())
    axes = {pair.value: pair.axis for pair in pairs}
    channels = channel_statistics(view.model, axes, samples, _SAMPLES, threads)
    scalings: dict[str, tuple[Scaled, ...]] = {}
    now: dict[str, F32] = {}  # weights after earlier pairs: many lie after one value and before another
    for pair in pairs:
        if pair.value not in channels:
            continue
        layers = paired_layers(view, plan, pair, channels[pair.value], now)
        best = best_factors(layers, technique.factors(layers)) if technique.applies(layers) else None
        if best is None:
            continue
        before = [(constant, 1 / best) for constant in pair.before]
        for (name, axis), factors in (*before, *((weight, best) for _, weight in pair.after)):
            array = _constant(view, name, now)
            now[name] = array * laid_along(np.asarray(factors, np.float32), axis, array.ndim)
            scalings[name] = (*scalings.get(name, ()), Scaled(axis, tuple(factors.tolist())))
    return scalings


def paired_layers(
    view: View, plan: Plan, pair: EqualizationPair, channels: ChannelStatistics, now: Mapping[str, F32]
) -> PairedLayers:
    """Return the layers of a pair.

    Args:
        view: of the prepared model.
        plan: resolved.
        pair: at a value of the model.
        channels: statistics of the value.
        now: constants that earlier factors have changed.
    """
    quantized = {use: s for s in plan.sites if s.kind in WEIGHTS for use in s.uses or ()}
    weights = ((_constant(view, name, now), axis, quantized.get((n, 1))) for n, (name, axis) in pair.after)
    site = next((s for s in plan.sites if s.value == pair.value and s.kind in OBSERVED), None)
    return PairedLayers(pair, channels, tuple(weights), site)


def _constant(view: View, name: str, now: Mapping[str, F32]) -> F32:
    return now[name] if name in now else float_array(view.values[name])


def rounded_weight(w: F32, spec: TensorSpec) -> F32:
    """Return a weight rounded to nearest with scales of its own."""
    params = weight_qparams(w, spec)
    return dequantize(quantize(w, params, spec.qtype, spec.granularity), params, spec.granularity)


def powers_of_two(s: NDArray[np.floating]) -> F64:
    """Return the powers of two nearest to factors whose geometric mean is scaled to 1: exact in float."""
    ok = np.isfinite(s) & (s > 0)
    logs = np.log2(np.where(ok, s, 1.0))
    logs -= logs[ok].mean() if ok.any() else 0.0
    return np.asarray(np.exp2(np.clip(np.rint(np.where(ok, logs, 0.0)), -12, 12)))


def best_factors(layers: PairedLayers, candidates: Iterable[F64]) -> F64 | None:
    """Return the factors with the least noise, as powers of two; None where none lowers it by 10%."""
    before = layers.noise(np.ones_like(layers.channels.lo))
    tried = [(layers.noise(s), s) for s in map(powers_of_two, candidates)]
    least, best = min(tried, key=lambda t: t[0], default=(before, None))
    return best if least < _WORTH * before else None
