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
from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import QParams, activation_qparams, midpoint
from qtool.numerics.quantize import bias_scale, dequantize, quantize
from qtool.numerics.weights import bias_scale_floor, weight_qparams
from qtool.plan.eligible import rule_of
from qtool.plan.model import WEIGHTS, Kind, Plan, Site, Use
from qtool.runtime.heartbeat import beat
from qtool.tables.qtypes import PerChannel, TensorSpec


def resolve(plan: Plan, ranges: Ranges, view: View, estimator: Estimator = minmax) -> Plan:
    """Return a plan with the scale and zero point of every site; `estimator` reduces a range to its ends.

    Raises:
        KeyError: a planned activation has no range. `fallback_nodes` finds those beforehand.
    """
    activations = _activations(plan, ranges, view, estimator)
    weight_of = {(n, i): s for s in reversed(plan.sites) if s.kind is Kind.WEIGHT for n, i in s.uses or ()}
    floors = _floors(plan, activations, view, weight_of)
    weights: dict[tuple[str, TensorSpec], QParams] = {}
    for site in plan.sites:
        key = site.value, site.spec
        if site.kind in WEIGHTS and key not in weights:
            weights[key] = weight_qparams(_array(view, site), site.spec, floors.get(key))
            beat()

    def params(site: Site) -> QParams | None:
        if not site.scaled:
            return None
        if site.kind is Kind.ACTIVATION:
            return activations[site.value]
        if site.kind is Kind.BIAS:
            source, weight = _scales_of(weight_of, site)
            step = weights[weight.value, weight.spec].scale
            groups = _array(view, site).size // step.size if step.ndim else 1
            scale = bias_scale(activations[source].scale, step, groups)
            return QParams(scale, np.zeros(scale.shape, np.int64))
        return weights[site.value, site.spec]

    return replace(plan, sites=tuple(replace(s, qparams=params(s)) for s in plan.sites))


def _scales_of(weight_of: Mapping[Use, Site], bias: Site) -> tuple[str, Site]:
    """Return the input value and the weight's site whose scales a bias multiplies."""
    source, node = bias.scale_from or ("", "")
    return source, weight_of[node, 1]


def _activations(plan: Plan, ranges: Ranges, view: View, estimator: Estimator) -> dict[str, QParams]:
    """Return the scales of activations. A group shares the range that covers all its sites."""
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
    return {s.value: activation_qparams(*shared[s.group], s.spec) for s in sites}


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


def integers_of(site: Site, weight: NDArray[np.floating]) -> NDArray[np.integer]:
    """Return the integers of a weight, those of the plan or else the nearest. Same shape, qtype.dtype.

    Raises:
        KeyError: the site is not resolved.
    """
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    if site.integers is not None:
        return site.integers
    return quantize(weight, site.qparams, site.spec.qtype, site.spec.granularity)


def dequantized(site: Site, weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a weight after quantization, as floats. Same shape, float32.

    Raises:
        KeyError: the site is not resolved.
    """
    q = integers_of(site, weight)
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    return dequantize(q, site.qparams, site.spec.granularity)
