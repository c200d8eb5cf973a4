"""Time first: what is faster in int8 than FP32 here, before any accuracy is bought.

The times of the regions name the fastest assignment. It is raced against the rule-based and the all-int8 one.
Where none is faster than FP32, nothing else is tried. Else the other steps deal with the regions that pay:
errors only take further regions away from the fastest assignment, since they count against int8 alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qtool.evaluate.evaluator import PREPARED, Evaluator
from qtool.evaluate.latency import Ratio, is_faster
from qtool.placement.cost_model import with_assignment
from qtool.placement.network import Network
from qtool.placement.region_reasons import restricted
from qtool.placement.timing import Timing
from qtool.plan.candidate import Candidate
from qtool.plan.rules import rule_based
from qtool.tables.targets import TABLE

RULE_BASED, ALL_INT8, FASTEST = "rule-based", "all int8", "fastest"
# Candidates that are slower than the fastest one by more than this are not raced again.
_CLOSE = 0.95


@dataclass(frozen=True)
class RacedSpeed:
    """The speed of a candidate in the first race.

    Args:
        candidate: as it was raced.
        speed: against optimized FP32, to decide by.
        against_original: as measured.
    """

    candidate: Candidate
    speed: float
    against_original: Ratio


@dataclass(frozen=True)
class FirstRace:
    """The result of the first race.

    Args:
        timing: of all regions.
        base: the candidate with the regions in int8 that can pay, and no other.
        pays: int8 is faster than FP32, or the user requires it.
        preparation: the speed of optimized FP32 against the original; None where nothing was raced.
        slower: the candidates that are clearly slower than the fastest one: they are not raced again.
    """

    timing: Timing
    base: Candidate
    pays: bool
    preparation: Ratio | None = None
    slower: Mapping[str, RacedSpeed] = field(default_factory=dict)


def race_first(timing: Timing, evaluator: Evaluator) -> FirstRace:
    """Race the fastest assignment by the times of the regions against the rule-based and the all-int8 one.

    Where no node can be in int8 nothing is raced; nor with `--timing table`: the times of the table decide.
    """
    everything = timing.all_int8
    if not everything.plan.forms:
        return FirstRace(timing, everything, pays=False)
    model = everything.model
    network = timing.network
    regions = network.minimize(0.0)
    rules = with_assignment(everything, rule_based(model.task))
    if model.options.requests:
        regions |= network.int8_regions(rules.plan)  # as asked, even where it is slower
    fastest = _restricted(everything, network, regions)
    if model.options.timing == TABLE:
        return FirstRace(timing, fastest, bool(fastest.plan.forms))
    candidates = {ALL_INT8: everything}
    for name, candidate in ((RULE_BASED, rules), (FASTEST, fastest)):
        if candidate.plan.forms and candidate.plan.forms != everything.plan.forms:
            candidates[name] = candidate
    race, settled = evaluator.race(candidates, timing.predicted_speed)
    speeds = {name: settled.ratio(name, PREPARED) for name in candidates}
    best = max(speeds, key=lambda name: speeds[name])
    required = bool(model.constraints.quantize) or bool(model.options.requests)
    pays = is_faster(speeds[best]) or required
    slower = {
        name: RacedSpeed(candidate, speeds[name], evaluator.speedup(race, name))
        for name, candidate in candidates.items()
        if not pays or speeds[name] < _CLOSE * speeds[best]
    }
    # The times of the regions leave out what neighbours do to each other: the race may know better.
    base = _restricted(everything, network, regions | network.int8_regions(candidates[best].plan))
    return FirstRace(timing, base, pays, evaluator.preparation, slower)


def _restricted(candidate: Candidate, network: Network, int8: frozenset[str]) -> Candidate:
    """The candidate with only these regions in int8."""
    return candidate.changed(assignment=restricted(candidate.assignment, network, int8))
