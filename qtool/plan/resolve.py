"""Ranges to scales: the plan becomes complete."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qtool.calibrate.ranges import Range, Ranges
from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import QParams, activation_qparams, bias_scale_floor, weight_qparams
from qtool.numerics.quantize import quantize_bias
from qtool.plan.model import Kind, Plan, Site


def resolve(plan: Plan, ranges: Ranges, view: View) -> Plan:
    """Give every site its scale and zero point.

    Raises:
        KeyError: a planned activation has no range; `unfit.unfit_nodes` finds those beforehand.
    """
    activations = _activations(plan, ranges)
    weights = {
        (s.value, s.spec.granularity): weight_qparams(
            _array(view, s), s.spec, _floor(plan, s, activations, view)
        )
        for s in plan.sites
        if s.kind in (Kind.WEIGHT, Kind.STORED, Kind.FUSED)
    }
    by_value = {value: params for (value, _), params in weights.items()}

    def params(site: Site) -> QParams | None:
        if site.kind is Kind.LIFTED:
            return None
        if site.kind is Kind.ACTIVATION:
            return activations[site.value]
        if site.kind is Kind.BIAS:
            source, weight = site.scale_from or ("", "")
            _, scale = quantize_bias(
                _array(view, site).reshape(-1), activations[source].scale, by_value[weight].scale
            )
            return QParams(scale, np.zeros(scale.shape, np.int64))
        return weights[site.value, site.spec.granularity]

    return replace(plan, sites=tuple(replace(s, qparams=params(s)) for s in plan.sites))


def _activations(plan: Plan, ranges: Ranges) -> dict[str, QParams]:
    """Sites of one group share the range that covers them all, within what each can be."""
    sites = [s for s in plan.sites if s.kind is Kind.ACTIVATION]
    shared: dict[str, Range] = {}
    for site in sites:
        seen = ranges[site.value]
        lo, hi = site.bounds
        seen = replace(seen, lo=max(seen.lo, lo), hi=min(seen.hi, hi))
        shared[site.group] = shared[site.group].merge(seen) if site.group in shared else seen
    return {s.value: activation_qparams(shared[s.group].lo, shared[s.group].hi, s.spec) for s in sites}


def _floor(plan: Plan, site: Site, activations: dict[str, QParams], view: View) -> np.ndarray | None:
    """The least scale at which every bias that goes with a weight still fits int32."""
    floors = [
        bias_scale_floor(_array(view, bias).reshape(-1), activations[bias.scale_from[0]].scale)
        for bias in plan.sites
        if bias.kind is Kind.BIAS and bias.scale_from is not None and bias.scale_from[1] == site.value
    ]
    return np.maximum.reduce(floors) if site.kind is Kind.WEIGHT and floors else None


def _array(view: View, site: Site) -> np.ndarray:
    array = float_constant(view.values[site.value])
    if array is None:
        raise KeyError(f"'{site.value}' is no float constant")
    return array
