"""What placement decides by: the errors of all tensors, the costs of all regions, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.placement.explain import decibels, int8_regions, why_float
from qtool.placement.network import Network, RegionCosts, network
from qtool.placement.pareto import ParetoPoint, between, envelope
from qtool.placement.timing import Timing, edges, extra_seconds
from qtool.plan.assignment import Assignment, assigned_graph
from qtool.plan.candidate import Candidate
from qtool.plan.predict import Errors
from qtool.plan.rules import rule_based
from qtool.recover.outlier_columns import choose_columns
from qtool.tables.reasons import Code, Reason


@dataclass(frozen=True)
class Costs:
    """What placement decides by.

    Args:
        timing: of the regions.
        base: the candidate with every region in int8, with its outlier columns.
        network: what an assignment of the regions costs.
        errors: of everything that any assignment quantizes.
        front: assignments that trade time against noise best, fastest first, as predicted.
    """

    timing: Timing
    base: Candidate
    network: Network
    errors: Errors
    front: tuple[ParetoPoint, ...]

    def assignment(self, point: ParetoPoint) -> Assignment:
        """Return the assignment with exactly a point's regions in int8, and the reasons of the others."""
        before = self.base.assignment
        floats = {
            node: why_float(region, self.network, point.weight)
            for region in self.network.regions
            if region.name not in point.int8
            for node in region.nodes
        }
        forms = {name: form for name, form in before.forms.items() if name not in floats}
        return replace(before, forms=forms, reasons={**before.reasons, **floats})

    def speed(self, candidate: Candidate) -> float:
        """Return the predicted speed of a candidate against prepared FP32."""
        return self.timing.speed(self.network, int8_regions(self.network, candidate.plan))


def measure_costs(base: Candidate, timing: Timing, evaluator: Evaluator) -> Costs:
    """Return the errors of all tensors, the outlier columns that pay, and the network of all costs."""
    model, samples = base.model, evaluator.select
    if samples is None:
        raise ValueError("there is no select set")
    rules = like_base(base, rule_based(model.task))
    floats = base.changed(assignment=_in_float(base))
    errors = sensitivity(
        model.model,
        [base.plan, floats.plan, rules.plan],
        samples,
        model.threads,
        lambda done, total: evaluator.progress("sensitivity", done, total),
    )
    columns, quieter = choose_columns(base, evaluator, errors)
    times = dict(timing.times)
    if columns:
        extra = extra_seconds(timing, base.changed(outlier_columns=columns))
        readers = {value: _regions_reading(value, base, timing) for value in columns}
        columns = {
            value: found
            for value, found in columns.items()
            if model.constraints.quantize & _readers(value, base)
            or _pays(timing, extra, readers[value], errors.relative(value), quieter.relative(value))
        }
        for name in {r for value in columns for r in readers[value]}:
            times[name] = (times[name][0], max(times[name][1] + extra[name], 0.0))
    if columns:
        base = base.changed(outlier_columns=columns)
        errors = replace(errors, noise={**errors.noise, **{v: quieter.noise[v] for v in columns}})
    costs = RegionCosts(times, *edges(model.view, base.plan, timing.table), errors)
    assigned = assigned_graph(model.task, base.assignment)
    found = network(model.view, assigned, base.plan, floats.plan, timing.regions, costs)
    timing = replace(timing, times=times)
    return Costs(timing, base, found, errors, _front(found, evaluator.criteria.floor_db))


def _front(net: Network, floor_db: float) -> tuple[ParetoPoint, ...]:
    """The envelope, and between two of its points the fastest assignment that reaches the floor."""
    points = envelope(net)
    for fast, accurate in pairwise(points):
        if decibels(fast.noise) < floor_db <= decibels(accurate.noise):
            inner = between(net, fast, accurate).fastest_within(10 ** (-floor_db / 10))
            points += [inner] if inner is not None else []
    return tuple(sorted(points, key=lambda p: p.seconds))


def _in_float(base: Candidate) -> Assignment:
    """Every region in float, for comparison."""
    reason = Reason(Code.NOT_FASTER, "for comparison")
    return replace(
        base.assignment,
        forms={},
        reasons={**base.assignment.reasons} | dict.fromkeys(base.assignment.forms, reason),
    )


def like_base(base: Candidate, assignment: Assignment) -> Candidate:
    """Return a candidate with another assignment and what recovery won for the base."""
    return base.changed(assignment=replace(assignment, weight_types=base.assignment.weight_types))


def _readers(value: str, base: Candidate) -> set[str]:
    return {use.node.name or "" for use in base.model.view.values[value].uses()}


def _regions_reading(value: str, base: Candidate, timing: Timing) -> list[str]:
    readers = _readers(value, base)
    return [r.name for r in timing.regions if readers & {*r.nodes}]


def _pays(
    timing: Timing, extra: Mapping[str, float], readers: list[str], before: float, after: float
) -> bool:
    """Whether outlier columns take less time than the same accuracy would cost with the readers in float."""
    more = math.fsum(extra[name] for name in readers)
    saved = math.fsum(timing.times[name][0] - timing.times[name][1] for name in readers)
    return more < saved * (before - after) / before
