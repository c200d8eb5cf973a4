"""Fold arithmetic on constants: weights that are computed in the graph."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer
from qtool.graph.prepare.moves import evaluate
from qtool.graph.view import constant, float_constant, is_op, opset_of
from qtool.tables.ops import FLOAT_ON_CONSTANTS


def fold_arithmetic(model: ir.Model) -> str:
    """Replace arithmetic on float32 constants by its result: weight normalization, merged adapters.

    1. To float rounding, as the runtime does at load. The result is visible as a weight.
    2. Only finite results, which are together at most twice as large as the constants before.
    3. A weight that is restored from integers stays as it is in the file: it begins with a Cast.
    """
    tensors = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    room = 2 * sum(t.nbytes for t in tensors if t is not None)
    folded = 0
    for node in list(model.graph.all_nodes()):
        if not is_op(node, *FLOAT_ON_CONSTANTS) or not isinstance(node.graph, ir.Graph):
            continue
        old, operands = node.outputs[0], [v for v in node.inputs if v is not None]
        if float_constant(operands[0]) is None or any(constant(v) is None for v in operands):
            continue
        if old.is_graph_output() or _bytes(old) > room:
            continue
        with np.errstate(all="ignore"):
            result = evaluate(node, opset_of(model))
        if result is None or result.dtype != np.float32 or not np.isfinite(result).all():
            continue
        room -= result.nbytes
        name = old.name or ""
        old.name = f"{name}_computed"
        old.replace_all_uses_with(add_initializer(node.graph, name, result))
        node.graph.remove(node, safe=True)
        folded += 1
    return f"{folded} operations on constants computed" if folded else ""


def _bytes(value: ir.Value) -> float:
    """Return the bytes of a float32 value; infinite where its shape is unknown."""
    if value.shape is None or not value.shape.is_static():
        return math.inf
    return 4 * math.prod(int(d) for d in value.shape.numpy())
