"""What is asked of a result beside its form: gates that options stand for, and the budget that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtool.evaluate.compare import Comparison
from qtool.evaluate.gates import Gate, Verdict, judge, parse
from qtool.job import Job
from qtool.plan.choose import Budget
from qtool.tables.judging import AUTO, NONE

# Metrics that say how true a result is: what goes back to float mends them.
_OF_COST = frozenset({"speedup", "size", "quantized"})


def budget_of(job: Job, gates: Sequence[Gate]) -> Budget:
    """What the answer is chosen by.

    Args:
        job: the model, and what was asked.
        gates: that were asked for in so many words; those on SQNR and speed are aims as well.
    """
    options = job.options
    own = [g.threshold for g in gates if g.metric == "sqnr" and g.output is None and g.op in ("<", "<=")]
    if options.min_sqnr is not None:
        own.append(options.min_sqnr)
    speeds = [g.threshold for g in gates if g.metric == "speedup" and g.op in ("<", "<=")]
    return Budget(
        max(own, default=job.scheme.floor_db),
        asked_db=bool(own),
        speedup=max([options.min_speedup, *speeds]),
        size=options.max_size,
    )


def implied_gates(job: Job, verdict: Comparison | None, made_up: bool) -> list[Gate]:
    """The gates that other options stand for, and the least that a precision usually holds.

    That last one is left out, unless asked for, where nothing can be said of it: no samples, made-up ones,
    no output of floats.
    """
    options = job.options
    texts = []
    judged = verdict is not None and not made_up and _says_something(verdict)
    if options.min_sqnr is not None:
        texts.append(f"sqnr<{options.min_sqnr:g}")
    elif options.gate == AUTO or (options.gate != NONE and judged and options.plan is None):
        texts.append(f"sqnr<{job.scheme.floor_db:g}")
    if options.min_speedup:
        texts.append(f"speedup<{options.min_speedup:g}")
    if options.max_size:
        texts.append(f"size>{options.max_size / job.source.size:.6g}")
    if options.require_quantized:
        texts.append("quantized<1")
    return [parse(text) for text in texts]


def _says_something(verdict: Comparison) -> bool:
    """Whether there is an SQNR; that there is none because the quantized model broke says enough."""
    if not any(not o.exact and o.count for o in verdict.outputs):
        return False
    return not math.isnan(verdict.sqnr) or any(o.nonfinite for o in verdict.outputs)


def missed(gates: Sequence[Gate], verdict: Verdict) -> bool:
    """Whether a result misses any of the gates for its error, which more in float would mend."""
    return any(
        r.failed and not r.synthetic and r.gate.metric not in _OF_COST and not math.isnan(r.value)
        for r in judge(list(gates), verdict)
    )
