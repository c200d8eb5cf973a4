"""The times of regions from whole inferences, for a runtime that does not tell those of nodes.

The all-int8 candidate is raced against the same one with the regions of one kind in float: kernels of a kind
gain alike. What a kind gains, borders and layouts included, is shared out by the work of its regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from qtool.evaluate.latency import Limits, race_models
from qtool.graph.for_session import model_for_session
from qtool.placement.regions import Region
from qtool.plan.candidate import Candidate
from qtool.plan.rules import to_float
from qtool.plan.variants import variant
from qtool.rewrite.write import written
from qtool.tables.reasons import Code, Reason

FLOAT, INT8 = "float", "int8"
# Kinds that are timed each: those with most of the work. The others are timed together.
_MOST_KINDS = 6
_REST = "the rest"
# The race of first_race.py decides; this one names what to race.
_LIMITS = Limits(least_rounds=8, most_rounds=30, seconds=8.0, half_width=0.02)


def whole_times(
    all_int8: Candidate, regions: Sequence[Region], work: Mapping[str, float], inference: float
) -> tuple[dict[str, tuple[float, float]], float]:
    """Return region -> seconds in float and in int8, and the seconds of an inference in float.

    Args:
        all_int8: the candidate with every node in int8 that could be faster.
        regions: of its nodes.
        work: region -> its work, in any unit.
        inference: the work of the model, in the same unit.
    """
    model = all_int8.model
    kinds = _kinds(all_int8, regions, work)
    candidates = {INT8: all_int8} | {kind: _without(all_int8, own) for kind, own in kinds.items()}
    with ExitStack() as stack:
        models: dict[str, Path | bytes] = {
            FLOAT: stack.enter_context(model_for_session(model.model, in_file=True))
        }
        for name, candidate in candidates.items():
            graph = written(candidate.model.model, candidate.plan)
            models[name] = stack.enter_context(model_for_session(graph, in_file=True))
        stack.enter_context(model.budget.timed())
        runtimes = dict.fromkeys(models, model.runtime)
        race = race_models(models, model.timing_samples, model.threads, runtimes=runtimes, limits=_LIMITS)
    seconds = {name: median(own) for name, own in race.seconds.items()}
    total = max(inference, math.fsum(work.values()))
    times: dict[str, tuple[float, float]] = {}
    for kind, own in kinds.items():
        gain = seconds[kind] - seconds[INT8]
        shared = math.fsum(work[r.name] for r in own)
        for region in own:
            floats = seconds[FLOAT] * work[region.name] / total
            times[region.name] = floats, max(floats - gain * work[region.name] / shared, 0.0)
    return times, seconds[FLOAT]


def _kinds(
    candidate: Candidate, regions: Sequence[Region], work: Mapping[str, float]
) -> dict[str, list[Region]]:
    """Return the regions of each kind: the op of its first node, with its variant."""
    nodes = candidate.model.view.node_by_name
    kinds: dict[str, list[Region]] = {}
    for region in regions:
        first = nodes[region.nodes[0]]
        kinds.setdefault(f"{first.op_type}/{variant(first)}", []).append(region)
    heaviest = sorted(kinds, key=lambda kind: -math.fsum(work[r.name] for r in kinds[kind]))
    rest = [region for kind in heaviest[_MOST_KINDS:] for region in kinds[kind]]
    return {kind: kinds[kind] for kind in heaviest[:_MOST_KINDS]} | ({_REST: rest} if rest else {})


def _without(candidate: Candidate, regions: Sequence[Region]) -> Candidate:
    """Return the candidate with some regions in float."""
    reason = Reason(Code.NOT_FASTER, "for comparison")
    nodes = {name: reason for region in regions for name in region.nodes}
    return candidate.changed(assignment=to_float(candidate.model.task, candidate.assignment, nodes))
