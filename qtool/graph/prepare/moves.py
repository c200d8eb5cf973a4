"""Fold moves of constants: Reshape, Transpose, Slice and the like."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from qtool.graph.edit import add_initializer
from qtool.graph.view import attribute_int, constant, is_op, opset_of
from qtool.tables.ops import EXACT_ON_CONSTANTS

# The most that a fold may add to the file: an Expand of a scalar to gigabytes stays an Expand.
_GROWTH_BYTES = 4096


def fold_moves(model: ir.Model) -> str:
    """Replace a move whose inputs are all constants by its result, which is then visible as a weight.

    Only ops that return values of their inputs (tables/ops.py), so the result is exact.
    """
    folded = 0
    for node in list(model.graph.all_nodes()):
        if not is_op(node, *EXACT_ON_CONSTANTS):
            continue
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output() or node.graph is None:
            continue
        arrays = [constant(v) for v in node.inputs if v is not None]
        if not arrays or any(a is None or a.dtype.kind in "OSU" for a in arrays):
            continue
        result = evaluate(node, opset_of(model))
        if result is None or result.nbytes > _room(node) or not isinstance(node.graph, ir.Graph):
            continue
        old = node.outputs[0]
        name = old.name or ""
        old.name = f"{name}_moved"
        node.outputs[0].replace_all_uses_with(add_initializer(node.graph, name, result))
        node.graph.remove(node, safe=True)
        folded += 1
    return f"{folded} constant moves computed" if folded else ""


def _room(node: ir.Node) -> int:
    """Return the most bytes that a result may have."""
    arrays = [constant(v) for v in node.inputs]
    return _GROWTH_BYTES + sum(a.nbytes for a in arrays if a is not None)


def _grown_bytes(node: ir.Node) -> float:
    """Return the bytes of the result of an op that can enlarge its inputs, before it is computed.

    0 for other ops; infinite where the inputs are invalid.
    """
    if node.op_type not in ("Expand", "Tile", "Gather", "Sub", "Mul"):
        return 0
    data, argument = (constant(v) for v in node.inputs[:2])
    if data is None or argument is None:
        return math.inf
    try:
        match node.op_type:
            case "Expand":
                elements = math.prod(np.broadcast_shapes(data.shape, tuple(int(n) for n in argument)))
            case "Tile":
                elements = data.size * math.prod(int(n) for n in argument)
            case "Gather":
                elements = argument.size * data.size // max(data.shape[attribute_int(node, "axis", 0)], 1)
            case _:
                elements = math.prod(np.broadcast_shapes(data.shape, argument.shape))
    except (ValueError, TypeError, IndexError):
        return math.inf
    return elements * data.itemsize


def evaluate(node: ir.Node, opset: int) -> np.ndarray | None:
    """Return the result of a node with constant inputs; None where it would be huge, or can't be computed.

    By onnx.reference, in the node's own types.
    """
    if _grown_bytes(node) > _room(node):
        return None
    proto = ir.to_proto(node)
    feeds = {v.name or "": constant(v) for v in node.inputs if v is not None}
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.helper.make_value_info(k, onnx.TypeProto()) for k in feeds],
        [onnx.helper.make_value_info(proto.output[0], onnx.TypeProto())],
    )
    try:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        return np.asarray(next(iter(ReferenceEvaluator(model).run(None, feeds))))
    except Exception:  # the reference lacks this form of the op; the runtime will fold it at load
        return None
