"""Make an Add, which has an integer kernel, of a Sum of two: older exporters write residuals so."""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.prepare.norms import is_normalized
from qtool.graph.view import is_op, opset_of

# Before opset 7, an Add does not broadcast by itself.
_FIRST_BROADCAST = 7


def replace_sums(model: ir.Model) -> str:
    """Sum(x, y) -> Add(x, y): the same numbers.

    1. A Sum of more than two is one pass over memory, and stays.
    2. So does one before a LayerNormalization: norms.py makes it.
    """
    if opset_of(model) < _FIRST_BROADCAST:
        return ""
    count = 0
    for node in model.graph.all_nodes():
        if is_op(node, "Sum") and len(node.inputs) == 2 and not is_normalized(node):
            node.op_type = "Add"
            count += 1
    return f"{count} Sums of two made Adds" if count else ""
