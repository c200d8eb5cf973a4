"""The acceptance criteria that candidates are chosen by, and the gates that options imply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qtool.evaluate.compare import Comparison
from qtool.evaluate.gates import Gate, parse
from qtool.plan.prepared import PreparedModel
from qtool.tables.judging import AUTO, NONE


@dataclass(frozen=True)
class Criteria:
    """Acceptance criteria: limits on a candidate, and by them the rule for choosing one.

    Args:
        floor_db: the least SQNR in dB.
        user_floor: the user set the floor; then the fastest candidate that holds it is chosen.
        enforced: a candidate below the floor is not accepted.
        speedup: the least speed against the original model; then the most accurate candidate at least this
            fast is chosen. 0: none.
        size: the most bytes of the model; 0: any.
    """

    floor_db: float
    user_floor: bool = False
    enforced: bool = True
    speedup: float = 0.0
    size: int = 0


def criteria_of(model: PreparedModel, gates: Sequence[Gate]) -> Criteria:
    """Return the acceptance criteria of a run.

    Args:
        model: with the user's options.
        gates: of --fail-if; those on the SQNR of the model and on its speed are criteria as well.
    """
    options = model.options
    own = [g.threshold for g in gates if g.metric == "sqnr" and g.output is None and g.op in ("<", "<=")]
    if options.min_sqnr is not None:
        own.append(options.min_sqnr)
    speeds = [g.threshold for g in gates if g.metric == "speedup" and g.op in ("<", "<=")]
    return Criteria(
        max(own, default=model.scheme.floor_db),
        user_floor=bool(own),
        enforced=bool(own) or options.gate != NONE,
        speedup=max([options.min_speedup, *speeds]),
        size=options.max_size,
    )


def implied_gates(model: PreparedModel, comparison: Comparison | None, made_up: bool) -> list[Gate]:
    """Return the gates that options stand for, and that of the SQNR that the precision usually reaches.

    Unless `--gate auto` requires it, the latter is left out where there is nothing to judge by: no samples,
    random ones, or no float output.
    """
    options = model.options
    texts = []
    judged = comparison is not None and not made_up and _has_sqnr(comparison)
    if options.min_sqnr is not None:
        texts.append(f"sqnr<{options.min_sqnr:g}")
    elif options.gate == AUTO or (options.gate != NONE and judged and options.plan is None):
        texts.append(f"sqnr<{model.scheme.floor_db:g}")
    if options.min_speedup:
        texts.append(f"speedup<{options.min_speedup:g}")
    if options.max_size:
        texts.append(f"size>{options.max_size / model.source.size:.6g}")
    if options.require_quantized:
        texts.append("quantized<1")
    return [parse(text) for text in texts]


def _has_sqnr(comparison: Comparison) -> bool:
    """Whether an SQNR can be judged: it is a number, or it is nan because the quantized model returns nan."""
    if not any(not o.exact and o.count for o in comparison.outputs):
        return False
    return not math.isnan(comparison.sqnr) or any(o.nonfinite for o in comparison.outputs)
