"""The assignments by the tables, and the consequences when nodes go back to float.

A node that always pays is quantized. A node that pays only between int8 ops is quantized while its inputs
arrive in int8 and a consumer computes in int8. Starting with all candidates and removing those that fail
gives the largest such set, which is unique.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from qtool.graph.view import constant
from qtool.plan.assignment import AssignedGraph, Assignment, PlanInput, assigned_graph, placement_of
from qtool.plan.eligible import CONTROL_FLOW, rule_of, why_ineligible
from qtool.plan.model import Skip
from qtool.plan.sensitive_layers import sensitive_types
from qtool.tables.forms import Form
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import NO_FORM, Worth


def rule_based(task: PlanInput) -> Assignment:
    """Return the assignment by the target's table, within the user's constraints."""
    return _from_table(task, measured=False)


def maximal(task: PlanInput) -> Assignment:
    """Return the maximal int8 set: every node that could pay in int8 beside some neighbours.

    It contains `rule_based`, and the nodes that only a measurement can decide.
    """
    return _from_table(task, measured=True)


def to_float(task: PlanInput, assignment: Assignment, reasons: Mapping[str, Reason]) -> Assignment:
    """Return an assignment without some nodes, and without the nodes that paid only beside them.

    A node that did not pay before by the table stays: a measurement quantized it.

    Args:
        task: the graph and the constraints.
        assignment: the assignment before.
        reasons: node -> why it goes to float. Float nodes keep a specific reason.
    """
    old = assignment.reasons
    new = {n: r for n, r in reasons.items() if n in assignment.forms or old.get(n, NO_FORM.reason).general}
    gone = new.keys() & assignment.forms.keys()
    if not gone:
        return replace(assignment, reasons={**old, **new})
    before = assigned_graph(task, assignment)
    after = replace(before, chosen={n: c for n, c in before.chosen.items() if n not in gone})
    near = dict.fromkeys(n for name in gone for n in _neighbours(before.chosen[name].node))
    lost = _settle(after, near, before)
    kept = {name: form for name, form in assignment.forms.items() if name not in gone and name not in lost}
    return replace(assignment, forms=kept, reasons={**old, **new, **lost})


def skips(task: PlanInput, assignment: Assignment) -> tuple[Skip, ...]:
    """Return every float node that computes floats, with its reason, in graph order."""
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
        placement = placement_of(task, node, form, measured=measured)
        reason = reasons.get(name)
        if (
            reason is None
            and form is not None
            and (text := why_ineligible(task.view, node, rule, task.scheme, form))
        ):
            reason = Reason(Code.UNSUITED, text)
        if reason is None and (form is None or placement.worth is Worth.NEVER):
            reason = placement.reason if placement.reason.detail else NO_FORM.reason
        if reason is not None or form is None:
            reasons[name] = reason or NO_FORM.reason
        else:
            forms[name] = form
    types = sensitive_types(task.view, task.scheme) | dict(task.constraints.weight_types)
    start = Assignment(forms, reasons, types, task.constraints.product_types(task.scheme))
    lost = _settle(assigned_graph(task, start), forms)
    kept = {name: form for name, form in forms.items() if name not in lost}
    return replace(start, forms=kept, reasons={**reasons, **lost})


def _settle(
    current: AssignedGraph, pending: Iterable[str], before: AssignedGraph | None = None
) -> dict[str, Reason]:
    """Return the nodes that do not pay beside the remaining nodes, with the reason.

    Args:
        current: the remaining nodes.
        pending: the nodes to check first; the neighbours of a removed node follow.
        before: an earlier state: a node that did not pay there either stays.
    """
    chosen = dict(current.chosen)
    current = replace(current, chosen=chosen)
    lost: dict[str, Reason] = {}
    todo = list(pending)
    while todo:
        dropped = [
            name
            for name in todo
            if name in chosen and not current.pays(name) and (before is None or before.pays(name))
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
    # Other consumers, too: their input may be in int8 because this node quantizes it.
    near += [use.node for v in (*read, *node.outputs) for use in v.uses()]
    return [n.name or "" for n in near if n is not None]


def _computes_floats(node: ir.Node) -> bool:
    """Whether a node computes floats from activations, so that the report lists its precision."""
    if node.op_type in CONTROL_FLOW or node.op_type in ("Constant", "ConstantOfShape", "Range", "Cast"):
        return False
    if all(constant(v) is not None for v in node.inputs if v is not None):
        return False
    floats = (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return any(v.dtype in floats for v in node.outputs if v.name)
