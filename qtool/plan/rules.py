"""The assignments that the tables give, and what follows where nodes go back to float.

A node that is worth it always is in; one that is worth it only between int8 ops stays in while its inputs
arrive in int8 and a reader goes on in int8. Starting with all of them and taking out what fails gives the
greatest such set, and it is unique.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from qtool.graph.view import constant
from qtool.plan.assignment import AssignedGraph, Assignment, PlanInput, assigned_graph, placement_of
from qtool.plan.eligible import CONTROL_FLOW, rule_of, why_not
from qtool.plan.model import Skip
from qtool.tables.forms import Form
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import NO_FORM, Worth


def rule_based(task: PlanInput) -> Assignment:
    """Return the assignment that the target's table has, within the user's constraints."""
    return _from_table(task, measured=False)


def maximal(task: PlanInput) -> Assignment:
    """Return the assignment of every node that could pay in int8 beside some neighbours.

    It holds all nodes of `rule_based`, and those of which only a measurement can tell.
    """
    return _from_table(task, measured=True)


def to_float(task: PlanInput, assignment: Assignment, reasons: Mapping[str, Reason]) -> Assignment:
    """Take nodes out of an assignment, and those that were worth it only beside them.

    A node that was not worth it before, by the table, is left alone: a measurement put it there.

    Args:
        task: the graph and the constraints.
        assignment: any.
        reasons: node -> why it goes to float. Nodes that are not quantized keep the reason they have.
    """
    known = assignment.reasons
    news = {n: r for n, r in reasons.items() if n in assignment.forms or known.get(n, NO_FORM.reason).general}
    gone = news.keys() & assignment.forms.keys()
    if not gone:
        return replace(assignment, reasons={**known, **news})
    before = assigned_graph(task, assignment)
    after = replace(before, chosen={n: c for n, c in before.chosen.items() if n not in gone})
    near = dict.fromkeys(n for name in gone for n in _neighbours(before.chosen[name].node))
    lost = _settle(after, near, before)
    kept = {name: form for name, form in assignment.forms.items() if name not in gone and name not in lost}
    return replace(assignment, forms=kept, reasons={**known, **news, **lost})


def skips(task: PlanInput, assignment: Assignment) -> tuple[Skip, ...]:
    """Every node in float that computes floats, with its reason, in graph order."""
    return tuple(
        Skip(node.name or "", node.op_type, assignment.reasons.get(node.name or "", NO_FORM.reason))
        for node in task.view.nodes
        if node.name not in assignment.forms and _computes_floats(node)
    )


def _from_table(task: PlanInput, *, measured: bool) -> Assignment:
    forms: dict[str, Form] = {}
    reasons: dict[str, Reason] = dict(task.constraints.float_nodes)
    for node in task.view.nodes:
        name, rule = node.name or "", rule_of(node)
        if rule is None:
            continue
        form = task.scheme.form_of(rule, inside=task.view.in_subgraph(node))
        found = placement_of(task, node, form, measured=measured)
        reason = reasons.get(name)
        if (
            reason is None
            and form is not None
            and (text := why_not(task.view, node, rule, task.scheme, form))
        ):
            reason = Reason(Code.UNSUITED, text)
        if reason is None and (form is None or found.worth is Worth.NEVER):
            reason = found.reason if found.reason.detail else NO_FORM.reason
        if reason is not None or form is None:
            reasons[name] = reason or NO_FORM.reason
        else:
            forms[name] = form
    whole = Assignment(forms, reasons, dict(task.constraints.weight_types))
    lost = _settle(assigned_graph(task, whole), forms)
    kept = {name: form for name, form in forms.items() if name not in lost}
    return replace(whole, forms=kept, reasons={**reasons, **lost})


def _settle(
    current: AssignedGraph, pending: Iterable[str], before: AssignedGraph | None = None
) -> dict[str, Reason]:
    """The nodes that are not worth it beside what is left.

    Args:
        current: the nodes that are left.
        pending: those to begin with; their neighbours follow where they fall.
        before: an earlier state: what was not worth it there either stays.
    """
    chosen = dict(current.chosen)
    current = replace(current, chosen=chosen)
    lost: dict[str, Reason] = {}
    todo = list(pending)
    while todo:
        dropped = [
            name
            for name in todo
            if name in chosen and not current.holds(name) and (before is None or before.holds(name))
        ]
        around: dict[str, None] = {}
        for name in dropped:
            own = chosen.pop(name)
            lost[name] = own.placement.reason
            around |= dict.fromkeys(_neighbours(own.node))
        todo = list(around)
    return lost


def _neighbours(node: ir.Node) -> list[str]:
    read = [v for v in node.inputs if v is not None]
    near = [v.producer() for v in read]
    # Other readers too: an input may arrive in int8 because this node has it quantized.
    near += [use.node for v in (*read, *node.outputs) for use in v.uses()]
    return [n.name or "" for n in near if n is not None]


def _computes_floats(node: ir.Node) -> bool:
    """Whether a node is one whose precision a reader of the report would ask about."""
    if node.op_type in CONTROL_FLOW or node.op_type in ("Constant", "ConstantOfShape", "Range", "Cast"):
        return False
    if all(constant(v) is not None for v in node.inputs if v is not None):
        return False
    floats = (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return any(v.dtype in floats for v in node.outputs if v.name)
