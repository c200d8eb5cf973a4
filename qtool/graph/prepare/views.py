"""Merge a chain of ops that only change the shape into one Reshape, or none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import is_op

_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def merge_views(model: ir.Model) -> str:
    """Compute each view of a tensor from the tensor itself.

    1. Reshape, Squeeze, Unsqueeze and Flatten are views, and a Transpose that moves only axes of length 1.
    2. A view with the shape of its tensor is replaced by it; a view of a view becomes one Reshape.
    3. Only where inference knows all axes of the shape but one, and none is 0.
    4. A graph's output keeps a node of its own.

    Small recurrent models spend a third of their time in such ops, a microsecond each.
    """
    namer = Namer(model)
    roots: dict[ir.Value, ir.Value] = {}
    count = 0
    for node in list(model.graph.all_nodes()):
        source = node.inputs[0] if node.inputs else None
        if source is None or len(node.outputs) != 1 or not _is_view(node):
            continue
        root, out = roots.get(source, source), node.outputs[0]
        roots[out] = root
        if _same_shape(root, out) and not out.is_graph_output():
            out.replace_all_uses_with(root)
            count += 1
        elif root is not source and (shape := _target(out)) is not None:
            _reshape(node, root, shape, namer)
            count += 1
    return f"{count} reshapes merged or dropped" if count else ""


def _is_view(node: ir.Node) -> bool:
    if is_op(node, *_RESHAPES):
        return True
    if not is_op(node, "Transpose") or node.inputs[0] is None or node.inputs[0].shape is None:
        return False
    shape = list(node.inputs[0].shape)
    perm = node.attributes.get("perm")
    order = list(reversed(range(len(shape)))) if perm is None else list(perm.as_ints())
    moved = [axis for axis in order if shape[axis] != 1]
    return moved == sorted(moved)


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Return whether two shapes are equal for certain; a name is the same number everywhere."""
    if a.shape is None or b.shape is None:
        return False
    x, y = list(a.shape), list(b.shape)
    named = all(isinstance(d, int) or d.value is not None for d in x)
    return named and x == y


def _target(value: ir.Value) -> list[int] | None:
    """Return the shape for a Reshape, -1 for an unknown axis; None where it has two, or a 0."""
    if value.shape is None:
        return None
    dims = [d if isinstance(d, int) else -1 for d in value.shape]
    return dims if dims.count(-1) <= 1 and 0 not in dims else None


def _reshape(node: ir.Node, root: ir.Value, shape: list[int], namer: Namer) -> None:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        return
    wanted = add_initializer(graph, namer(f"{node.outputs[0].name}_shape"), np.asarray(shape, np.int64))
    node.op_type = "Reshape"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, root)
    node.replace_input_with(1, wanted)
