"""Wide activations: 16 bits instead of 8, on a target that has both, where 8 bits lose much."""

from __future__ import annotations

from qtool.evaluate.evaluator import Evaluator
from qtool.plan.candidate import Candidate
from qtool.runtime.heartbeat import StepProgress

# 8 bits are faster: from this SQNR in dB on they stay.
_ENOUGH = 30.0
# Weights may be the cause instead: 16 bits must gain this much.
_GAIN_DB = 1.0


def widen(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    """Return the candidate with wide activations; the same one where 8 bits suffice, or the user chose."""
    model = candidate.model
    wide = model.scheme.target.wide
    if wide is None or model.options.acts or model.scheme.activation is wide:
        return candidate
    before = evaluator.error(candidate).sqnr
    if before >= _ENOUGH:
        return candidate
    other = candidate.changed(model=model.with_activations(wide))
    return other if evaluator.error(other).sqnr >= before + _GAIN_DB else candidate
