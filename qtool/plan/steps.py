"""Scales that follow the step of a model that is run step after step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.calibration.buckets import Buckets
from qtool.calibration.estimators import Estimator
from qtool.calibration.ranges import Ranges
from qtool.graph.grids import Grids
from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import bias_scale
from qtool.numerics.weights import bias_scale_floor
from qtool.plan.model import Kind, Plan, Site, Steps
from qtool.plan.resolve import activation_scales


def with_steps(
    plan: Plan,
    buckets: Buckets,
    ranges: Sequence[Ranges],
    view: View,
    estimator: Estimator,
    grids: Grids,
) -> Plan:
    """Return a resolved plan with scales of its activations for each bucket of steps.

    Args:
        plan: resolved by the ranges of all samples.
        buckets: of steps.
        ranges: of all planned activations in each bucket.
        view: of the prepared model.
        estimator: reduces a range to its ends.
        grids: the quantization that the model came with.
    """
    scales = [activation_scales(plan, each, view, estimator, grids) for each in ranges]
    by_value = {value: tuple(each[value] for each in scales) for value in scales[0]}
    steps = Steps(buckets.input, buckets.bounds, _told_apart(by_value))
    overflowing = {
        site.scale_from[0]
        for index in range(len(ranges))
        for site in at_bucket(replace(plan, steps=steps), index).sites
        if site.kind is Kind.BIAS and site.scale_from and not _fits(site, view)
    }
    groups = {s.group for s in plan.sites if s.value in overflowing}
    own = (s.value for s in plan.sites if s.kind is Kind.ACTIVATION and s.group not in groups)
    return replace(plan, steps=replace(steps, qparams={value: steps.qparams[value] for value in own}))


def _told_apart(qparams: Mapping[str, tuple[QParams, ...]]) -> dict[str, tuple[QParams, ...]]:
    """Return the scales; those that equal another value's in some buckets only are changed by a last bit.

    Operators that move values take the integers where both scales are equal: in all buckets, or in none.
    """
    distinct = dict.fromkeys(qparams.values())
    taken: list[set[QParams]] = [set() for _ in next(iter(distinct), ())]
    told = {profile: tuple(map(_unlike, profile, taken)) for profile in distinct}
    return {value: told[profile] for value, profile in qparams.items()}


def _unlike(params: QParams, taken: set[QParams]) -> QParams:
    """Return a scale that is not taken, the same or just above, and take it."""
    while params in taken:
        params = QParams(np.nextafter(params.scale, np.float32(np.inf)), params.zero_point)
    taken.add(params)
    return params


def _fits(bias: Site, view: View) -> bool:
    """Whether a bias fits int32 at its scale."""
    array = float_constant(view.values[bias.value])
    if array is None or bias.qparams is None:
        return False
    return bool((bias_scale_floor(array.reshape(-1), np.ones((), np.float32)) <= bias.qparams.scale).all())


def at_bucket(plan: Plan, index: int) -> Plan:
    """Return the plan with the scales of one bucket of steps, for every run alike."""
    if plan.steps is None:
        return plan
    own = {value: params[index] for value, params in plan.steps.qparams.items()}
    weights = {use: s for s in plan.sites if s.kind is Kind.WEIGHT for use in s.uses or ()}

    def one(site: Site) -> Site:
        if site.kind is Kind.ACTIVATION:
            return replace(site, qparams=own.get(site.value, site.qparams))
        if site.kind is not Kind.BIAS or site.scale_from is None or site.scale_from[0] not in own:
            return site
        value, node = site.scale_from
        weight, before = weights[node, 1].qparams, site.qparams
        if weight is None or before is None:
            raise KeyError(f"site '{site.value}' is not resolved")
        scale = bias_scale(own[value].scale, weight.scale, before.scale.size // max(weight.scale.size, 1))
        return replace(site, qparams=QParams(scale, np.zeros(scale.shape, np.int64)))

    return replace(plan, sites=tuple(map(one, plan.sites)), steps=None)
