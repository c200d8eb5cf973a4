"""From the best candidate to one that is accepted: on the select set, the last resort being float."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qtool.evaluate.evaluator import Evaluator
from qtool.placement.explain import decibels, int8_regions
from qtool.placement.place import Placement, float_candidate
from qtool.placement.repair import repair
from qtool.plan.candidate import Candidate
from qtool.plan.predict import keys_of
from qtool.recover.run import recover
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import TABLE

# Predictions are off by about this much, so the next candidate aims for so much more than is missing.
_MARGIN_DB = 0.5


@dataclass(frozen=True)
class Refusal:
    """Why a candidate is not accepted.

    Args:
        code: ACCURACY or NOT_FASTER.
        reason: for nodes that go back to float because of it.
        missing_db: how far its SQNR is below the floor, by the lower end of its interval.
    """

    code: Code
    reason: Reason
    missing_db: float = 0.0


def first_accepted(placement: Placement, best: Candidate, evaluator: Evaluator) -> Candidate:
    """Return the first candidate that the evaluator accepts: the best, a more accurate one, or float.

    Where none is accepted, the last one is returned, and the gates of the verdict say what it misses.

    Args:
        placement: what was measured.
        best: its candidate after recovery.
        evaluator: with the criteria. Without a select set everything is accepted.
    """
    candidate = best
    while (refusal := refuse(candidate, placement, evaluator)) is not None:
        other = fallback(candidate, refusal, placement, evaluator)
        if other is None:
            break
        candidate = other
    return candidate


def refuse(candidate: Candidate, placement: Placement, evaluator: Evaluator) -> Refusal | None:
    """Return why a candidate is not accepted on the select set; None where it is.

    Accuracy is judged by the lower end of the SQNR's interval over samples. Int8 that is not faster than
    FP32 is not worth its error.
    """
    floor = evaluator.criteria.floor_db
    if evaluator.select is not None and evaluator.criteria.enforced:
        low, _ = evaluator.error(candidate).sqnr_interval
        if low < floor:
            text = f"below the {floor:g} dB gate: {low:.1f} dB at the lower end of its interval"
            return Refusal(Code.ACCURACY, Reason(Code.ACCURACY, text), floor - low)
    if evaluator.times and _speed_decides(candidate):
        speed = evaluator.speed(candidate, placement.predicted)
        if speed.decided <= 1:
            ratio = speed.measured
            text = f"{ratio.median:.2f}x as fast as FP32 here ({ratio.low:.2f}-{ratio.high:.2f})"
            return Refusal(Code.NOT_FASTER, Reason(Code.NOT_FASTER, text))
    return None


def fallback(
    candidate: Candidate, refusal: Refusal, placement: Placement, evaluator: Evaluator
) -> Candidate | None:
    """Return the next candidate after one that was refused; None when there is none.

    A candidate that is not faster gives way to float; one that is not accurate enough to the next point of
    the front, then to repair, which ends in float.
    """
    if refusal.code is Code.NOT_FASTER:
        return recover(float_candidate(candidate, refusal.reason), evaluator)
    costs = placement.costs
    errors = evaluator.errors_of(candidate, None if costs is None else costs.errors)
    aim = errors.sqnr(keys_of(candidate.plan)) + refusal.missing_db + _MARGIN_DB
    if costs is not None:
        now = costs.network.noise_of(int8_regions(costs.network, candidate.plan))
        for point in costs.front:
            # Less noise than now, or this would not end where the error is not that of quantization.
            if point.noise < now and decibels(point.noise) >= aim and point.int8:
                return _recovered(candidate.changed(assignment=costs.assignment(point)), evaluator)
    assignment = repair(candidate, errors, aim)
    if assignment is None:
        return None
    return _recovered(candidate.changed(assignment=assignment), evaluator)


def _recovered(candidate: Candidate, evaluator: Evaluator) -> Candidate:
    """A candidate with another assignment, recovered anew. Steps that nothing is left of are not its own."""
    sites = candidate.plan.sites
    gone = set[str]()
    if not candidate.corrections:
        gone.add("bias")
    if not any(site.integers is not None for site in sites):
        gone |= {"hqq", "gptq", "adaround"}
    if not any(site.value in candidate.bounds for site in sites):
        gone.add("ranges")
    steps = tuple(i for i in candidate.steps if evaluator.log[i].name not in gone)
    return recover(replace(candidate, steps=steps), evaluator)


def _speed_decides(candidate: Candidate) -> bool:
    """Whether int8 is given up where it is not faster: unless asked for, or for another runtime."""
    model = candidate.model
    settled = (
        not model.scheme.target.onnxruntime or model.scheme.forces_form or model.options.profile == TABLE
    )
    return (
        not settled
        and model.scheme.mode.for_speed
        and bool(candidate.plan.forms.keys() - model.constraints.quantize)
    )
