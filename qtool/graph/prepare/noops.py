"""Remove nodes without effect at inference: Identity, Dropout, a Cast to the same type, a Pad by nothing."""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.view import constant, is_op, is_read


def drop_noops(model: ir.Model) -> str:
    """Connect consumers of a no-op to its input. One that produces a graph output stays, for its name."""
    dropped = 0
    for node in list(model.graph.all_nodes()):
        if not _does_nothing(node) or any(v.is_graph_output() for v in node.outputs):
            continue
        source = node.inputs[0]
        if source is None or any(is_read(extra) for extra in node.outputs[1:]):
            continue
        node.outputs[0].replace_all_uses_with(source)
        if node.graph is not None:
            node.graph.remove(node, safe=True)
        dropped += 1
    return f"{counted(dropped, 'node')} without effect removed" if dropped else ""


def _does_nothing(node: ir.Node) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Sum", "Concat", "Max", "Min", "Mean"):
        return len(node.inputs) == 1
    if is_op(node, "Pad"):
        widths = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return widths is not None and not widths.any()
    if is_op(node, "Dropout"):
        training = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        return len(node.inputs) < 3 or node.inputs[2] is None or (training is not None and not training.any())
    if is_op(node, "Cast"):
        source = node.inputs[0]
        to = node.attributes.get("to")
        return (
            source is not None and source.dtype is not None and to is not None and to.as_int() == source.dtype
        )
    return False
