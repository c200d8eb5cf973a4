"""Find the nodes that stay in float32 for precision, although they could be float16."""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.view import View, constant, is_op, op_key
from qtool.plan.eligible import rule_of
from qtool.plan.fp16.ports import is_float32, is_heavy
from qtool.plan.variants import variant
from qtool.tables.float16 import EXACT_ARGUMENT, FOLLOWED, PRECISE, SMALL_TABLE, STORED_MIN_ELEMENTS

_INTEGERS = {t for t in ir.DataType if t.is_integer()}


def worth_float32(view: View) -> dict[str, str]:
    """Return node name -> why it should stay in float32.

    1. An op in the table PRECISE, and a Gather from a small table.
    2. The nodes behind a FOLLOWED op, up to and including the node where other data joins.
    3. The nodes that compute an argument which must be exact, or the input of a Cast to integers.
    """
    reasons = exact_arguments(view)
    made: set[str] = set()
    for node in view.nodes:
        name, own = node.name or "", _precise(node)
        sources = [v for v in node.inputs if is_float32(v) and constant(v) is None and v is not None]
        precise = [v.name or "" for v in sources if v.name in made]
        if own:
            reasons[name] = own
        elif precise and not is_heavy(node):
            reasons.setdefault(name, f"it uses '{precise[0]}', which is worth float32")
        if (own and op_key(node) in FOLLOWED) or (precise and len(precise) == len(sources)):
            made |= {v.name or "" for v in node.outputs if not is_heavy(node)}
    return reasons


def _precise(node: ir.Node) -> str:
    """Return the table's reason to leave a node in float32; '' if there is none."""
    for key in (f"{op_key(node)}/{variant(node)}", op_key(node)):
        if key in PRECISE:
            return PRECISE[key]
    rule = rule_of(node)
    if not is_op(node, "Gather") or rule is None:
        return ""
    table = constant(node.inputs[0])
    return SMALL_TABLE if table is not None and table.size < rule.storage_min_elements else ""


def exact_arguments(view: View) -> dict[str, str]:
    """Return node name -> why: ops with an argument that must be exact, and the nodes that compute it."""
    reasons: dict[str, str] = {}
    for node in view.nodes:
        if not (is_op(node, *EXACT_ARGUMENT) or _makes_integers(node)):
            continue
        reason = f"it computes the argument of {op_key(node)} '{node.name}', which must be exact"
        reasons[node.name or ""] = "its argument must be exact"
        pending = [v.producer() for v in node.inputs if is_float32(v) and v is not None]
        while pending:
            producer = pending.pop()
            if producer is None or producer.name in reasons or _has_weight(producer):
                continue
            reasons[producer.name or ""] = reason
            pending += [v.producer() for v in producer.inputs if is_float32(v) and v is not None]
    return reasons


def _has_weight(node: ir.Node) -> bool:
    """Whether a node multiplies by a large weight, so that its own rounding dominates.

    Positions times a few frequencies are no such product: they must be exact.
    """
    arrays = [constant(v) for v in node.inputs] if is_heavy(node) else []
    return any(a is not None and a.size >= STORED_MIN_ELEMENTS for a in arrays)


def _makes_integers(node: ir.Node) -> bool:
    return is_op(node, "Cast") and is_float32(node.inputs[0]) and node.outputs[0].dtype in _INTEGERS
