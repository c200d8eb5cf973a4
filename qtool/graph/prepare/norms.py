"""Make a Sum of the residual Add before a LayerNormalization: the runtime does not fuse a Sum."""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.view import constant, is_op, op_key

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


def unfuse_norms(model: ir.Model) -> str:
    """Add(x, y) -> LayerNormalization becomes Sum(x, y) -> LayerNormalization: the same numbers.

    onnxruntime fuses the Add into SkipLayerNormalization, whose CPU kernel (1.31.1) takes 6-7 times as
    long as the two unfused kernels together (docs/targets.md has the table and the command).
    The decomposed norm, (Sub, ReduceMean, ...), is fused to the same op and treated the same way.
    """
    count = 0
    for node in model.graph.all_nodes():
        if not is_op(node, "Add"):
            continue
        if is_normalized(node) and all(v is not None and constant(v) is None for v in node.inputs):
            node.op_type = "Sum"
            count += 1
    return f"{count} Adds before LayerNormalization kept from a slow fusion" if count else ""


def is_normalized(node: ir.Node) -> bool:
    """Return whether a LayerNormalization, or the ops of one, consume the sum that a node computes."""
    readers = {op_key(use.node) for use in node.outputs[0].uses()}
    dtypes = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype is not None}
    floats = bool(dtypes) and dtypes <= _FLOATS  # Sum takes no integers, and ReduceMean does
    return "LayerNormalization" in readers or (floats and {"ReduceMean", "Sub"} <= readers)
