"""The values of a QDQ model that lack a QuantizeLinear and a DequantizeLinear: their ops stay in float."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qtool.graph.inspection.model import Missing
from qtool.graph.inspection.ops import FLOAT_RESULT
from qtool.graph.inspection.precision import Precisions, behind_clamp
from qtool.graph.view import is_op, op_key
from qtool.tables.ops import OPS, Role

_COMPUTE = (Role.WEIGHTED, Role.ARITHMETIC)


def missing_pairs(nodes: Sequence[ir.Node], precisions: Precisions) -> tuple[Missing, ...]:
    """Return the values without Q and DQ, in graph order.

    These are the operands of a node that has others behind a DequantizeLinear, and the results of a node that
    has all of them there, where an op with an int8 form reads them.

    Args:
        nodes: of the model.
        precisions: of these nodes.
    """
    rows: dict[ir.Value, Missing] = {}
    for node in nodes:
        rule = OPS.get(op_key(node))
        if rule is None or rule.role not in _COMPUTE:
            continue
        restored, floats = precisions.operands(node)
        if not restored:
            continue
        if floats:
            lacking = list(floats)
        elif is_op(node, *FLOAT_RESULT) or precisions.between_qdq(node):
            continue
        else:
            lacking = [behind_clamp(v) for v in node.outputs if v.uses()]
        for value in lacking:
            if readers := [u.node for u in value.uses() if op_key(u.node) in OPS]:
                rows.setdefault(value, _row(value, readers))
    return tuple(rows.values())


def _row(value: ir.Value, readers: Sequence[ir.Node]) -> Missing:
    producer = value.producer()
    made_by = "" if producer is None or value.const_value is not None else _named(producer)
    return Missing(value.name or "", made_by, tuple(dict.fromkeys(map(_named, readers))))


def _named(node: ir.Node) -> str:
    return " ".join(filter(None, (op_key(node), node.name)))
