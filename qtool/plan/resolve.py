"""Resolve a plan: from ranges to scales, and from scales to the integers of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.estimators import Estimator, minmax
from qtool.calibration.ranges import Ranges
from qtool.graph.grids import NO_GRIDS, Grid, Grids, shared_grid
from qtool.graph.view import View, float_constant, in_side_file
from qtool.numerics.qparams import QParams, activation_qparams, midpoint
from qtool.numerics.quantize import bias_scale, dequantize, quantize
from qtool.numerics.weights import bias_scale_floor, weight_qparams
from qtool.plan.eligible import rule_of
from qtool.plan.model import WEIGHTS, Kind, Plan, Site, Use
from qtool.runtime.heartbeat import beat
from qtool.tables.qtypes import INT8, PerChannel, TensorSpec


def resolve(
    plan: Plan, ranges: Ranges, view: View, estimator: Estimator = minmax, grids: Grids = NO_GRIDS
) -> Plan:
    """Return a plan with the scale and zero point of every site.

    Args:
        plan: drafted.
        ranges: of its activations.
        view: of the prepared model.
        estimator: reduces a range to its ends.
        grids: the quantization that the model came with. Its scales and integers are kept where the type and
            granularity of the site can hold them.

    A weight in a side file whose scale follows from it alone gets none (`weight_params`): the scales of all
    blocks of a large model take a sixth of the memory of its weights.

    Raises:
        KeyError: a planned activation has no range. `fallback_nodes` finds those beforehand.
    """
    activations = activation_scales(plan, ranges, view, estimator, grids)
    weight_of = {(n, i): s for s in reversed(plan.sites) if s.kind is Kind.WEIGHT for n, i in s.uses or ()}
    floors = _floors(plan, activations, view, weight_of)
    weights: dict[tuple[str, TensorSpec], QParams] = {}
    integers: dict[tuple[str, TensorSpec], NDArray[np.integer]] = {}
    derived = {
        (s.value, s.spec) for s in plan.sites if s.kind in WEIGHTS and in_side_file(view.values[s.value])
    }
    derived -= {(s.value, s.spec) for s in weight_of.values()}
    for site in plan.sites:
        key = site.value, site.spec
        if site.kind in WEIGHTS and key not in weights and key not in derived:
            array, floor = _array(view, site), floors.get(key)
            weights[key] = weight_qparams(array, site.spec, floor)
            if (kept := _kept_weight(site, array, floor, grids)) is not None:
                weights[key], integers[key] = kept
            beat()

    def params(site: Site) -> QParams | None:
        if not site.scaled:
            return None
        if site.kind is Kind.ACTIVATION:
            return activations[site.value]
        if site.kind is Kind.BIAS:
            source, weight = _scales_of(weight_of, site)
            size = _array(view, site).size
            return _bias_params(activations[source], weights[weight.value, weight.spec], size)
        return weights.get((site.value, site.spec))

    return replace(
        plan,
        sites=tuple(
            replace(s, qparams=params(s), integers=integers.get((s.value, s.spec))) for s in plan.sites
        ),
    )


def with_bias_scales(plan: Plan) -> Plan:
    """Return a resolved plan whose biases have the scales that its activations and weights have now."""
    activations = {s.value: s.qparams for s in plan.sites if s.kind is Kind.ACTIVATION}
    weight_of = {(n, i): s for s in reversed(plan.sites) if s.kind is Kind.WEIGHT for n, i in s.uses or ()}

    def one(site: Site) -> Site:
        if site.kind is not Kind.BIAS or site.qparams is None:
            return site
        source, weight = _scales_of(weight_of, site)
        step, own = activations.get(source), weight.qparams
        if step is None or own is None:
            return site
        return replace(site, qparams=_bias_params(step, own, site.qparams.scale.size))

    return replace(plan, sites=tuple(map(one, plan.sites)))


def _bias_params(activation: QParams, weight: QParams, size: int) -> QParams:
    """Return the scales of a bias of this many values."""
    groups = size // weight.scale.size if weight.scale.ndim else 1
    scale = bias_scale(activation.scale, weight.scale, groups)
    return QParams(scale, np.zeros(scale.shape, np.int64))


def _kept_weight(
    site: Site, array: NDArray[np.floating], floor: NDArray[np.float64] | None, grids: Grids
) -> tuple[QParams, NDArray[np.integer]] | None:
    """Return the scales and integers that a weight came with; None where the site can't have them.

    The integers include -128, which qtool's own rounding leaves out.
    """
    granularity = site.spec.granularity
    scale = grids.weight_scale(site.value, array, granularity)
    if site.kind is not Kind.WEIGHT or site.spec.qtype is not INT8 or scale is None:
        return None
    if floor is not None and (np.asarray(floor) > scale).any():
        return None  # a bias would not fit int32
    if isinstance(granularity, PerChannel) and not scale.ndim:
        scale = np.broadcast_to(scale, array.shape[granularity.axis]).copy()
    qparams = QParams(scale, np.zeros(scale.shape, np.int64))
    steps = np.asarray(array, np.float64) / dequantize(np.ones(array.shape, np.int8), qparams, granularity)
    return qparams, np.rint(steps).astype(np.int8)


def _scales_of(weight_of: Mapping[Use, Site], bias: Site) -> tuple[str, Site]:
    """Return the input value and the weight's site whose scales a bias multiplies."""
    source, node = bias.scale_from or ("", "")
    return source, weight_of[node, 1]


def activation_scales(
    plan: Plan, ranges: Ranges, view: View, estimator: Estimator, grids: Grids
) -> dict[str, QParams]:
    """Return the scales of activations. A group shares the grid, or the range, that covers all its sites."""
    sites = [s for s in plan.sites if s.kind is Kind.ACTIVATION]
    shared: dict[str, tuple[float, float]] = {}
    for site in sites:
        lo, hi = site.bounds
        observed = ranges[site.value]
        least, greatest = estimator(observed, site.spec)
        ends = max(least, lo), min(greatest, hi)
        if (room := _room(view.values[site.value])) > 1:  # no estimator may cut that range
            ends = max(observed.lo, lo), _roomy(min(observed.hi * room, hi), site.spec)
        others = shared.get(site.group, ends)
        shared[site.group] = min(ends[0], others[0]), max(ends[1], others[1])
    own: dict[str, list[Grid]] = {}
    for site in sites:
        if (grid := grids.activations.get(site.value)) is not None:
            own.setdefault(site.group, []).append(grid.within(site.bounds))

    def params(site: Site) -> QParams:
        kept = shared_grid(own.get(site.group, []), site.spec, site.bounds)
        return kept or activation_qparams(*shared[site.group], site.spec)

    by_group = {s.group: params(s) for s in sites}
    return {s.value: by_group[s.group] for s in sites}


def _roomy(hi: float, spec: TensorSpec) -> float:
    """Return a bound near `hi` for which 1 / scale is just above an integer: 256 for 0..1 in 8 bits.

    onnxruntime's QLinearSoftmax (1.31) rounds 1 / scale down to an integer.
    """
    steps = spec.qtype.qmax - (midpoint(spec.qtype) if spec.symmetric else spec.qtype.qmin)
    return steps / (math.floor((steps + 1) / hi) + 0.01) if hi > 0 else hi


def _room(value: ir.Value) -> float:
    """Return the factor by which a value may exceed its observed range."""
    producer = value.producer()
    rule = rule_of(producer) if producer is not None else None
    return rule.room if rule is not None else 1.0


def _floors(
    plan: Plan, activations: dict[str, QParams], view: View, weight_of: Mapping[Use, Site]
) -> dict[tuple[str, TensorSpec], NDArray[np.float64]]:
    """Return the least scales [C] of each weight at which every bias behind it fits int32."""
    floors: dict[tuple[str, TensorSpec], NDArray[np.float64]] = {}
    for bias in plan.sites:
        if bias.kind is not Kind.BIAS:
            continue
        source, weight = _scales_of(weight_of, bias)
        floor = bias_scale_floor(_array(view, bias).reshape(-1), activations[source].scale)
        if isinstance(weight.spec.granularity, PerChannel):
            channels = _array(view, weight).shape[weight.spec.granularity.axis]
            floor = floor.reshape(-1, channels).max(axis=0)  # several channels a scale: see bias_scale
        else:
            floor = floor.max(initial=0.0)
        key = weight.value, weight.spec
        floors[key] = np.maximum(floors.get(key, floor), floor)
    return floors


def _array(view: View, site: Site) -> np.ndarray:
    array = float_constant(view.values[site.value])
    if array is None:
        raise KeyError(f"'{site.value}' is no float constant")
    return array


def weight_params(site: Site, weight: NDArray[np.floating]) -> QParams:
    """Return the scales of a weight: those of the plan, or else those that follow from the weight."""
    return weight_qparams(weight, site.spec) if site.qparams is None else site.qparams


def integers_of(site: Site, weight: NDArray[np.floating]) -> NDArray[np.integer]:
    """Return the integers of a weight, those of the plan or else the nearest. Same shape, qtype.dtype."""
    if site.integers is not None:
        return site.integers
    return quantize(weight, weight_params(site, weight), site.spec.qtype, site.spec.granularity)


def dequantized(site: Site, weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a weight after quantization, as floats. Same shape, float32."""
    params = weight_params(site, weight)
    return dequantize(integers_of(replace(site, qparams=params), weight), params, site.spec.granularity)
