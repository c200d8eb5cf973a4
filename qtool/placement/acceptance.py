"""Acceptance: the first candidate that meets the criteria on the select set; float is the last."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qtool.errors import printable
from qtool.evaluate.evaluator import Evaluator, Predict
from qtool.evaluate.latency import HALF_WIDTH, is_faster
from qtool.placement.network import noise_db
from qtool.placement.place import Placement, float_candidate, speed_decides
from qtool.placement.repair import STORED, repair
from qtool.placement.timing import predicted_speed
from qtool.plan.candidate import Candidate
from qtool.plan.predict import keys_of
from qtool.plan.rules import to_float
from qtool.recover.run import recover
from qtool.runtime.providers import runtime_of
from qtool.tables.qtypes import FLOAT32
from qtool.tables.reasons import Code, Reason

REPAIR = "repair"
"""The step that takes nodes back to float until the criteria hold; without it everything is float."""
# Predictions are off by about this much: the next candidate aims this much higher.
_MARGIN_DB = 0.5
# Where too many decisions change, the amplitude of the noise is halved before the next look.
_STEP_DB = 6.0


@dataclass(frozen=True)
class Refusal:
    """The reason that a candidate is not accepted.

    Args:
        reason: ACCURACY or NOT_FASTER, for nodes that go back to float because of it.
        missing_db: dB that the next candidate should gain: from the lower end of the SQNR's interval to the
            floor, or what is predicted to keep the decisions.
    """

    reason: Reason
    missing_db: float = 0.0


def first_accepted(placement: Placement, best: Candidate, evaluator: Evaluator) -> Candidate:
    """Return the first candidate that the evaluator accepts: the best, a more accurate one, or float.

    Where none is accepted, the last one is returned, and the gates of the verdict fail.

    Args:
        placement: with the cost model.
        best: its candidate after recovery.
        evaluator: with the criteria. Without a select set every candidate is accepted.
    """
    candidate, timing = best, placement.timing
    predict = predicted_speed if timing is None else timing.predicted_speed
    while (refusal := refuse(candidate, evaluator, predict)) is not None:
        if candidate is best and (note := _why_ports(candidate, refusal, evaluator)):
            evaluator.notes.append(note)
            break
        other = fallback(candidate, refusal, placement, evaluator)
        if other is None:
            break
        candidate = other
    return candidate


def _why_ports(candidate: Candidate, refusal: Refusal, evaluator: Evaluator) -> str:
    """Return why no node can make up for the float16 inputs and outputs; '' where some can.

    The rounding of the inputs is measured alone, with every node that may be in float32.
    """
    fp16 = candidate.plan.fp16
    if not fp16.ports or refusal.reason.code is not Code.ACCURACY:
        return ""
    constraints = candidate.model.constraints
    nodes = {n: refusal.reason for n in fp16.nodes if not constraints.forbids_float(n)}
    alone = candidate.changed(assignment=to_float(candidate.model.task, candidate.assignment, nodes))
    other = refuse(alone, evaluator)
    if other is None or other.reason.code is not Code.ACCURACY:
        return ""
    names = ", ".join(f"'{printable(name, 40)}'" for name in sorted(fp16.ports)[:3])
    return (
        f"--io float16 costs the accuracy, not the nodes: {names} in float16 alone give "
        f"{evaluator.error(alone).sqnr:.1f} dB; leave out --io, or scale the input"
    )


def refuse(candidate: Candidate, evaluator: Evaluator, predict: Predict = predicted_speed) -> Refusal | None:
    """Return the reason that a candidate is not accepted on the select set; None where it is.

    Accuracy is judged by the lower end of the SQNR's interval over samples, and decisions by the share that
    is predicted to change. Int8 that is not faster than FP32 is not worth its error.
    """
    floor = evaluator.criteria.floor_db
    if evaluator.select is not None and evaluator.criteria.enforced:
        low, _ = evaluator.error(candidate).sqnr_interval
        if low < floor:
            text = f"below the {floor:g} dB gate: {low:.1f} dB at the lower end of its interval"
            return Refusal(Reason(Code.ACCURACY, text), floor - low)
    if evaluator.select is not None:
        in_float = candidate.model.scheme.mode.for_speed and not candidate.plan.forms
        for limit in evaluator.criteria.broken(evaluator.error(candidate), in_float=in_float):
            return Refusal(Reason(Code.ACCURACY, limit.why), _missing_db(limit.excess))
    if evaluator.times and speed_decides(candidate):
        speed = evaluator.speed(candidate, predict)
        if not is_faster(speed.decided):
            ratio = speed.measured
            text = f"{ratio.median:.2f}x as fast as FP32 here ({ratio.low:.2f}-{ratio.high:.2f})"
            text += f"; two races differ by {HALF_WIDTH:.0%}" if ratio.median > 1 else ""
            return Refusal(Reason(Code.NOT_FASTER, text))
    return None


def _missing_db(excess: float) -> float:
    """The dB to gain before decisions are judged anew, at most _STEP_DB.

    The share of decisions that change falls with the amplitude of the noise.
    """
    return min(max(20 * math.log10(excess), _MARGIN_DB), _STEP_DB) if 0 < excess < math.inf else _STEP_DB


def fallback(
    candidate: Candidate, refusal: Refusal, placement: Placement, evaluator: Evaluator
) -> Candidate | None:
    """Return the next candidate after one that was refused; None when there is none.

    After a candidate that is not faster comes float. After one that is not accurate enough comes the same one
    in the target's precision, then the next point of the Pareto front, then repair, which ends in float.
    """
    own = candidate.model.runtime
    if refusal.reason.code is Code.ACCURACY and runtime_of(candidate.runtime) != runtime_of(own):
        return candidate.in_runtime(candidate.model.scheme.runtime)
    spent = not evaluator.affords(REPAIR, len(candidate.model.timing_samples), last=True)
    if refusal.reason.code is Code.NOT_FASTER or spent:
        floats = float_candidate(candidate, refusal.reason)
        if floats.plan.forms != candidate.plan.forms:
            return recover(floats, evaluator)
        # Stored weights may be below the floor, too: where int8 is for speed, FP32 is better than no file.
        return _unstored(floats) if candidate.model.scheme.mode.for_speed else None
    costs = placement.cost_model
    errors = evaluator.errors_of(candidate)
    aim = errors.sqnr(keys_of(candidate.plan)) + refusal.missing_db + _MARGIN_DB
    if costs is not None:
        now = costs.network.noise_of(costs.network.int8_regions(candidate.plan))
        for point in costs.front:
            # Less noise than now: this ends even where the error does not come from quantization.
            if point.noise < now and noise_db(point.noise) >= aim and point.int8:
                return _recovered(candidate.changed(assignment=costs.assignment(point)), evaluator)
    assignment = repair(candidate, errors, aim, f"{refusal.reason.detail}; ")
    if assignment is None:
        return None
    return _recovered(candidate.changed(assignment=assignment), evaluator)


def _unstored(candidate: Candidate) -> Candidate | None:
    """The candidate with its stored weights in float, but for those that the user chose; None for none."""
    constraints, assignment = candidate.model.constraints, candidate.assignment
    nodes = {n for s in candidate.plan.sites if s.kind in STORED for n, _ in s.uses or ()}
    floats = {n for n in nodes - constraints.weight_types.keys() if not constraints.forbids_float(n)}
    types = {**assignment.weight_types, **dict.fromkeys(floats, FLOAT32)}
    if types == assignment.weight_types:
        return None
    return candidate.changed(assignment=replace(assignment, weight_types=types))


def _recovered(candidate: Candidate, evaluator: Evaluator) -> Candidate:
    """A candidate with another assignment, recovered anew; steps without any effect left are forgotten."""
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
