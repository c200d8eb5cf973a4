"""The outcome of a plan for each node, and for each op type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from qtool.graph.view import View, op_key
from qtool.plan.model import Kind, Plan
from qtool.report.model import FLOAT, CoverageRow, Explained, ReasonCount, stored_as
from qtool.tables.reasons import Reason

_STORED = (Kind.STORED, Kind.LOOKUP)
_NO_FLOATS = "it computes no floats that could be quantized"
_TABLE = "the table of target {} has it so; nothing was measured"
_WEIGHTS = "its weights are stored so, and it computes in float"


def kinds_of_nodes(view: View, plan: Plan) -> dict[str, str]:
    """Node -> what it is counted as; nodes that compute no floats are left out."""
    kinds = {skip.node: FLOAT for skip in plan.skips}
    for site in plan.sites:
        if site.kind in _STORED:
            kinds |= {name: stored_as(site.spec.qtype.name) for name, _ in site.uses or ()}
    kinds |= {name: form.value for name, form in plan.forms.items()}
    return {name: kinds[name] for node in view.nodes if (name := node.name or "") in kinds}


def coverage(view: View, plan: Plan) -> tuple[CoverageRow, ...]:
    """A row an op type, the most quantized first; nodes that compute no floats are not counted."""
    reasons = {s.node: s.reason for s in plan.skips}
    counts: dict[str, Counter[str]] = {}
    why: dict[str, Counter[Reason]] = {}
    for name, kind in kinds_of_nodes(view, plan).items():
        op = op_key(view.node_by_name[name])
        counts.setdefault(op, Counter())[kind] += 1
        if name in reasons and name not in plan.forms:
            why.setdefault(op, Counter())[reasons[name].short] += 1
    none: Counter[Reason] = Counter()
    rows = [
        CoverageRow(
            op, c.total(), dict(c), tuple(ReasonCount(*pair) for pair in why.get(op, none).most_common())
        )
        for op, c in counts.items()
    ]
    return tuple(sorted(rows, key=lambda r: (-r.computed, -(r.total - r.floats), -r.total, r.op)))


def outcomes(view: View, plan: Plan) -> tuple[Explained, ...]:
    """Return what became of every node that computes floats, without its measurements."""
    return tuple(replace(row, region=None) for row in explained(view, plan, kinds_of_nodes(view, plan)))


def explained(view: View, plan: Plan, names: Iterable[str]) -> tuple[Explained, ...]:
    """Return the explanations of nodes: by their measurements, else by the tables."""
    kinds = kinds_of_nodes(view, plan)
    regions = {name: region for region in plan.regions for name in region.nodes}
    reasons = {s.node: s.reason for s in plan.skips}
    rows = []
    for name in names:
        kind, region = kinds.get(name, ""), regions.get(name)
        if name in plan.forms:
            why = region.why if region is not None else _TABLE.format(plan.target)
        else:
            why = str(reasons.get(name, _WEIGHTS if kind else _NO_FLOATS))
        rows.append(Explained(name, op_key(view.node_by_name[name]), kind, why, region))
    return tuple(rows)
