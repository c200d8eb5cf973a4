"""The cost model of placement: errors of all tensors, costs of all regions, and the Pareto front of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from qtool.evaluate.evaluator import Evaluator
from qtool.placement.build_network import RegionCosts, build_network
from qtool.placement.network import Network, noise_db
from qtool.placement.pareto import ParetoPoint, between, envelope
from qtool.placement.region_reasons import restricted
from qtool.placement.timing import Timing, edges, extra_seconds
from qtool.plan.assignment import Assignment, assigned_graph
from qtool.plan.candidate import Candidate
from qtool.plan.predict import TensorNoise
from qtool.recover.outlier_columns import choose_columns
from qtool.tables.reasons import Code, Reason


@dataclass(frozen=True)
class CostModel:
    """The time and noise of every assignment of a model's regions.

    Args:
        timing: of these regions.
        base: the candidate with every region in int8 that can pay, with its outlier columns.
        network: the cost of each assignment.
        errors: of every tensor that any assignment quantizes.
        front: the predicted Pareto front, fastest first.
    """

    timing: Timing
    base: Candidate
    network: Network
    errors: TensorNoise
    front: tuple[ParetoPoint, ...]

    def assignment(self, point: ParetoPoint) -> Assignment:
        """Return the assignment with a point's regions in int8, and the reasons of the others."""
        return restricted(self.base.assignment, self.network, point.int8, point.weight)

    def speed(self, candidate: Candidate) -> float:
        """Return the predicted speed of a candidate against optimized FP32."""
        return self.timing.speed(self.network, self.network.int8_regions(candidate.plan))


def build_cost_model(base: Candidate, timing: Timing, evaluator: Evaluator) -> CostModel:
    """Measure the errors of all tensors, choose outlier columns, and return the cost model.

    Args:
        base: the candidate with every region in int8 that can pay.
        timing: of these regions.
        evaluator: with a select set.
    """
    model = base.model
    floats = base.changed(assignment=_in_float(base))
    errors = evaluator.errors_of(base, floats)
    columns, quieter = choose_columns(base, evaluator, errors)
    times = dict(timing.times)
    if columns:
        extra = extra_seconds(timing, base, base.changed(outlier_columns=columns))
        readers = {value: _regions_reading(value, base, timing) for value in columns}
        columns = {
            value: split
            for value, split in columns.items()
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
    network = build_network(model.view, assigned, base.plan, floats.plan, timing.regions, costs)
    timing = replace(timing, times=times)
    return CostModel(timing, base, network, errors, _front(network, evaluator.criteria.floor_db))


def _front(network: Network, floor_db: float) -> tuple[ParetoPoint, ...]:
    """The envelope, with the fastest assignment between two of its points that reaches the floor."""
    points = envelope(network)
    for fast, accurate in pairwise(points):
        if noise_db(fast.noise) < floor_db <= noise_db(accurate.noise):
            inner = between(network, fast, accurate).fastest_within(10 ** (-floor_db / 10))
            points += [inner] if inner is not None else []
    return tuple(sorted(points, key=lambda p: p.seconds))


def _in_float(base: Candidate) -> Assignment:
    """The assignment with every region in float."""
    reason = Reason(Code.NOT_FASTER, "for comparison")
    return replace(
        base.assignment,
        forms={},
        reasons={**base.assignment.reasons} | dict.fromkeys(base.assignment.forms, reason),
    )


def with_assignment(base: Candidate, assignment: Assignment) -> Candidate:
    """Return the base candidate, with its recovery steps, under another assignment."""
    own = base.assignment
    typed = replace(assignment, weight_types=own.weight_types, product_types=own.product_types)
    return base.changed(assignment=typed)


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
