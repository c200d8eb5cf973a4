"""From a plan to the table of what became of each op."""

from __future__ import annotations

from collections import Counter

from qtool.graph.view import View, op_key
from qtool.plan.model import Kind, Plan
from qtool.report.model import FLOAT, CoverageRow, stored_as

_STORED = (Kind.STORED, Kind.LOOKUP)


def coverage(view: View, plan: Plan) -> tuple[CoverageRow, ...]:
    """A row an op type, the most quantized first; nodes that compute no floats are not counted."""
    stored = {
        name: stored_as(s.spec.qtype.name)
        for s in plan.sites
        if s.kind in _STORED
        for name, _ in s.uses or ()
    }
    reasons = {s.node: s.reason for s in plan.skips}
    counts: dict[str, Counter[str]] = {}
    why: dict[str, Counter[str]] = {}
    for node in view.nodes:
        name, op = node.name or "", op_key(node)
        if name in plan.forms:
            kind = plan.forms[name].value
        elif name in stored:
            kind = stored[name]
        elif name in reasons:
            kind = FLOAT
        else:
            continue
        counts.setdefault(op, Counter())[kind] += 1
        if name in reasons and name not in plan.forms:
            why.setdefault(op, Counter())[reasons[name]] += 1
    rows = [
        CoverageRow(op, c.total(), dict(c), dict(why.get(op, Counter()).most_common()))
        for op, c in counts.items()
    ]
    return tuple(sorted(rows, key=lambda r: (-r.computed, -(r.total - r.floats), -r.total, r.op)))
