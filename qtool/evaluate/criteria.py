"""What the user asks of a result: criteria to choose candidates by, and the gates that options imply."""

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
    """What a candidate is accepted and chosen by.

    Args:
        floor_db: the least SQNR in dB.
        asked_db: the user set that; then the fastest candidate that holds it is chosen.
        enforced: a candidate below the floor is not accepted.
        speedup: the least, against the original model; 0 where the user asks for none. Otherwise the most
            accurate candidate at least this fast is chosen.
        size: the most bytes of the model; 0: any.
    """

    floor_db: float
    asked_db: bool = False
    enforced: bool = True
    speedup: float = 0.0
    size: int = 0


def criteria_of(model: PreparedModel, gates: Sequence[Gate]) -> Criteria:
    """Return what candidates are chosen by.

    Args:
        model: with the user's options.
        gates: of --fail-if; those on SQNR and speed are aims as well.
    """
    options = model.options
    own = [g.threshold for g in gates if g.metric == "sqnr" and g.output is None and g.op in ("<", "<=")]
    if options.min_sqnr is not None:
        own.append(options.min_sqnr)
    speeds = [g.threshold for g in gates if g.metric == "speedup" and g.op in ("<", "<=")]
    return Criteria(
        max(own, default=model.scheme.floor_db),
        asked_db=bool(own),
        enforced=bool(own) or options.gate != NONE,
        speedup=max([options.min_speedup, *speeds]),
        size=options.max_size,
    )


def implied_gates(model: PreparedModel, verdict: Comparison | None, made_up: bool) -> list[Gate]:
    """Return the gates that options stand for, and the least SQNR that a precision usually holds.

    That last one is left out, unless asked for, where there is nothing to judge by: no samples, made-up ones,
    or no output of floats.
    """
    options = model.options
    texts = []
    judged = verdict is not None and not made_up and _has_sqnr(verdict)
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


def _has_sqnr(verdict: Comparison) -> bool:
    """Whether there is an SQNR. There is none for a quantized model that gives no numbers, which counts."""
    if not any(not o.exact and o.count for o in verdict.outputs):
        return False
    return not math.isnan(verdict.sqnr) or any(o.nonfinite for o in verdict.outputs)
