"""Placement: choose the nodes that run in int8, by racing the candidates that are predicted to be best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qtool.evaluate.criteria import Criteria
from qtool.evaluate.evaluator import PREPARED, Evaluator, Predict
from qtool.evaluate.latency import HALF_WIDTH, is_faster
from qtool.placement.bit_allocation import allocate_bits, mixes_bits, spread_bits
from qtool.placement.cost_model import CostModel, build_cost_model, with_assignment
from qtool.placement.first_race import ALL_INT8, FASTEST, RULE_BASED, FirstRace
from qtool.placement.network import noise_db
from qtool.placement.pareto import ParetoPoint, spread
from qtool.placement.region_reasons import region_notes
from qtool.placement.timing import Timing, predicted_speed
from qtool.placement.trials import Trial, choose
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.model import Plan, RegionNote
from qtool.plan.rules import rule_based, to_float
from qtool.recover.run import RUNS, recover
from qtool.runtime.providers import precisions_here, runtime_of
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import TABLE

FLOAT = "float"
# Where bias correction gains more than this on the all-int8 candidate, all that are faster get it.
_MUCH_DB = 0.5


@dataclass(frozen=True)
class Placement:
    """The result of placement.

    Args:
        candidate: the best one.
        trials: the candidates that were built and run.
        cost_model: of the regions that can pay; None where none can, or placement goes by the rules.
        timing: of all regions; None where placement goes by the rules.
        plans: trial -> its plan.
    """

    candidate: Candidate
    trials: tuple[Trial, ...] = ()
    cost_model: CostModel | None = None
    plans: Mapping[str, Plan] = field(default_factory=dict)
    timing: Timing | None = None

    def name_of(self, candidate: Candidate) -> str:
        """Return the name of the trial with the candidate's nodes in int8, in its runtime; '' for none."""
        own = candidate.plan
        same = (n for n, p in self.plans.items() if (p.forms, p.runtime) == (own.forms, own.runtime))
        return next(same, "")

    def annotated(self, candidate: Candidate) -> Candidate:
        """Return the candidate with the measurements of each region in its plan, for the report."""
        if self.timing is None:
            return candidate
        plan, view = candidate.plan, candidate.model.view
        notes: tuple[RegionNote, ...] = ()
        if self.cost_model is not None:
            notes = region_notes(self.cost_model.network, plan, view)
        measured = () if self.cost_model is None else [r.name for r in self.cost_model.network.regions]
        notes += region_notes(self.timing.network, plan, view, measured, errors=False)
        return replace(candidate, plan=replace(candidate.plan, regions=notes))


def place(
    base: Candidate, first: FirstRace | None, evaluator: Evaluator, points: int | None = None
) -> Placement:
    """Choose the assignment: by measurement where there was a race, else that of `base`.

    Args:
        base: the candidate of the first race after recovery, or the rule-based one where there was no race.
        first: the first race.
        evaluator: measures candidates on the select set.
        points: number of Pareto points to build and race, spread along the front; None: the most promising
            ones, their number by the effort.
    """
    if first is None:
        return _place_weights(base, evaluator, points)
    if mixes_bits(base):
        base = allocate_bits(base, evaluator)
        first = replace(first, base=base)
    if not first.pays or evaluator.budget.out_of_time:
        return replace(_without_cuts(base, first, evaluator), timing=first.timing)
    costs = build_cost_model(base, first.timing.within(base), evaluator)
    everything = first.timing.all_int8
    candidates = {
        ALL_INT8: with_assignment(costs.base, everything.assignment),
        RULE_BASED: with_assignment(costs.base, rule_based(base.model.task)),
        FASTEST: costs.base,
    }
    candidates = {name: c for name, c in candidates.items() if name not in first.slower}
    if points is None:
        chosen = shortlist(costs, evaluator.criteria, evaluator.effort.built)
    else:
        chosen = spread(costs.network, list(costs.front), points)
    for number, point in enumerate(chosen, start=1):
        if point.int8:
            candidates[f"mixed {number}"] = costs.base.changed(assignment=costs.assignment(point))
    candidates[FLOAT] = float_candidate(costs.base, Reason(Code.NOT_FASTER))
    candidates |= _in_other_precisions(candidates)
    placement = _best_of(_distinct(candidates), costs, evaluator, first=first)
    if base.model.options.requests and not placement.candidate.plan.forms:
        rules = with_assignment(costs.base, rule_based(base.model.task))
        placement = replace(placement, candidate=rules)  # as asked, though float is better
    return replace(placement, timing=first.timing)


def _without_cuts(base: Candidate, first: FirstRace, evaluator: Evaluator) -> Placement:
    """Placement by the first race alone: float where int8 does not pay, else the best candidate raced."""
    if first.pays:
        candidates = {FASTEST: base, FLOAT: float_candidate(base, Reason(Code.NOT_FASTER))}
        return _best_of(candidates, None, evaluator, first=first)
    slower = _slower_trials(first, evaluator)
    candidate = float_candidate(first.base, _why_float(slower))
    if others := _in_other_precisions({FLOAT: candidate}):
        return _best_of({FLOAT: candidate, **others}, None, evaluator, first=first)
    error, ratio = evaluator.error(candidate), first.preparation
    floats = Trial(
        FLOAT,
        error.sqnr,
        error.sqnr_interval[0],
        speed=1.0,
        speedup=1.0 if ratio is None else ratio.median,
        interval=None if ratio is None else (ratio.low, ratio.high),
        bytes=evaluator.size(candidate),
    )
    return Placement(candidate, (floats, *slower), plans={FLOAT: candidate.plan})


def _in_other_precisions(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Return candidates in the other precisions in which the runtime computes float nodes here.

    None where the user names a precision.
    """
    runtime = next(iter(candidates.values())).model.runtime
    row, own = runtime_of(runtime)
    others = [p for p in precisions_here(row) if p != own and ":" not in runtime]
    return {f"{n} {p}": c.in_runtime(f"{row.name}:{p}") for p in others for n, c in candidates.items()}


def _slower_trials(first: FirstRace, evaluator: Evaluator) -> tuple[Trial, ...]:
    """The candidates that the first race ruled out, with their SQNR."""
    trials = []
    for name, raced in first.slower.items():
        error, ratio = evaluator.error(raced.candidate), raced.against_original
        low = error.sqnr_interval[0]
        interval = ratio.low, ratio.high
        size, forms = evaluator.size(raced.candidate), raced.candidate.plan.forms
        regions = sum(any(n in forms for n in region.nodes) for region in first.timing.regions)
        trials.append(Trial(name, error.sqnr, low, raced.speed, ratio.median, interval, size, regions))
    return tuple(trials)


def _place_weights(base: Candidate, evaluator: Evaluator, points: int | None) -> Placement:
    """Placement where only weights are quantized, or all goes by the rules; for `tune` with several sizes."""
    if points is not None:
        return _best_of(_distinct(spread_bits(base, evaluator, points)), None, evaluator, by_size=True)
    return Placement(allocate_bits(base, evaluator) if mixes_bits(base) else base)


def float_candidate(candidate: Candidate, reason: Reason) -> Candidate:
    """Return the candidate with nothing in int8 but the nodes that the user requires.

    It starts from the prepared model, without any step of recovery.
    """
    model = candidate.model.original
    keep = {n: reason for n in candidate.assignment.forms if not model.constraints.forbids_float(n)}
    return make_candidate(model, to_float(model.task, candidate.assignment, keep))


def speed_decides(candidate: Candidate) -> bool:
    """Return whether int8 must be faster: unless options ask for int8, or the target is another runtime."""
    model = candidate.model
    options = model.options
    required = options.timing == TABLE or bool(options.requests)
    return (
        not required
        and model.scheme.mode.for_speed
        and bool(candidate.plan.forms.keys() - model.constraints.quantize)
    )


def shortlist(costs: CostModel, criteria: Criteria, count: int) -> list[ParetoPoint]:
    """Return the points that are predicted to be the best, the best one first.

    Args:
        costs: with the predicted front.
        criteria: the acceptance criteria.
        count: the most points to return.
    """
    trials = {}
    for number, point in enumerate(costs.front):
        speed, sqnr = costs.timing.speed(costs.network, point.int8), noise_db(point.noise)
        trials[str(number)] = Trial(str(number), sqnr, sqnr, speed, speed, None, 0)
    points: list[ParetoPoint] = []
    while trials and len(points) < count:
        best = choose(list(trials.values()), replace(criteria, size=0))
        del trials[best.name]
        points.append(costs.front[int(best.name)])
    return points


def _corrects_much(evaluator: Evaluator) -> bool:
    """Whether bias correction gained more than _MUCH_DB before placement."""
    return any(g.name == "bias" and g.kept and g.after - g.before > _MUCH_DB for g in evaluator.log)


def _distinct(candidates: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The candidates without those that equal an earlier one."""
    distinct: dict[str, Candidate] = {}
    for name, candidate in candidates.items():
        plan = replace(candidate.plan, skips=())
        if not any(replace(other.plan, skips=()) == plan for other in distinct.values()):
            distinct[name] = candidate
    return distinct


def _best_of(
    candidates: Mapping[str, Candidate],
    costs: CostModel | None,
    evaluator: Evaluator,
    *,
    by_size: bool = False,
    first: FirstRace | None = None,
) -> Placement:
    """Build candidates, compare each with FP32, race them, and choose.

    Args:
        candidates: by name.
        costs: of the regions.
        evaluator: measures the candidates.
        by_size: size counts in place of speed.
        first: the first race, which has ruled out some candidates.
    """
    if evaluator.model.options.timing == TABLE:
        speeds = _predicted_speeds(candidates, costs)
    else:
        predict = predicted_speed if first is None else first.timing.predicted_speed
        speeds = _raced_speeds(candidates, evaluator, predict)
    if _corrects_much(evaluator):  # biases change no speed
        comparisons_left = (len(candidates) + RUNS) * len(evaluator.select or ())
        candidates = {
            name: recover(candidate, evaluator, steps=["bias"], log=False)
            if candidate.plan.forms
            and (is_faster(speeds[name][0]) or not speed_decides(candidate))
            and evaluator.affords("bias", comparisons_left)
            else candidate
            for name, candidate in candidates.items()
        }
    comparisons = {}
    evaluator.compare_all(candidates.values())
    for done, (name, candidate) in enumerate(candidates.items(), start=1):
        comparisons[name] = evaluator.error(candidate)
        evaluator.progress("candidates", done, len(candidates))
    trials = [
        Trial(
            name,
            comparisons[name].sqnr,
            comparisons[name].sqnr_interval[0],
            *speeds[name],
            bytes=evaluator.size(candidate),
            regions=0 if costs is None else len(costs.network.int8_regions(candidate.plan)),
            keeps_task=not evaluator.criteria.broken(comparisons[name]),
        )
        for name, candidate in candidates.items()
    ]
    ratios = [replace(t, speed=evaluator.model.source.size / t.bytes) for t in trials]
    best = choose(ratios if by_size else trials, evaluator.criteria).name
    plans = {name: candidate.plan for name, candidate in candidates.items()}
    candidate = candidates[best]
    if best == FLOAT and costs is not None:
        candidate = float_candidate(costs.base, _why_float(trials))
    slower = () if first is None else _slower_trials(first, evaluator)
    return Placement(candidate, (*trials, *slower), costs, plans)


def _why_float(trials: Sequence[Trial]) -> Reason:
    """The reason that the float candidate was chosen."""
    other = max((t for t in trials if t.name != FLOAT), key=lambda t: t.speed, default=None)
    if other is None:
        return Reason(Code.NOT_FASTER)
    text = f"'{other.name}' is {other.speed:.2f}x as fast as FP32"
    if is_faster(other.speed):
        return Reason(Code.ACCURACY, f"{text} and has {other.sqnr:.1f} dB")
    return Reason(Code.NOT_FASTER, text + f"; two races differ by {HALF_WIDTH:.0%}" * (other.speed > 1))


_Speeds = tuple[float, float, tuple[float, float] | None]
"""The speed against optimized FP32 to decide by, that against the original, and the latter's interval."""


def _raced_speeds(
    candidates: Mapping[str, Candidate], evaluator: Evaluator, predict: Predict
) -> dict[str, _Speeds]:
    """The speeds of candidates in a race. The float candidate is optimized FP32."""
    race, settled = evaluator.race({n: c for n, c in candidates.items() if n != FLOAT}, predict)
    speeds: dict[str, _Speeds] = {}
    for name in candidates:
        raced = PREPARED if name == FLOAT else name
        ratio, speed = evaluator.speedup(race, raced), settled.ratio(raced, PREPARED)
        gain = speed * evaluator.speedup(race, PREPARED).median if settled.unreliable else ratio.median
        speeds[name] = speed, gain, (ratio.low, ratio.high)
    return speeds


def _predicted_speeds(candidates: Mapping[str, Candidate], costs: CostModel | None) -> dict[str, _Speeds]:
    """The speeds of candidates by the cost table; 1 without a cost model."""
    speeds = {n: 1.0 if costs is None or n == FLOAT else costs.speed(c) for n, c in candidates.items()}
    return {name: (speed, speed, None) for name, speed in speeds.items()}
