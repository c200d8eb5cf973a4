"""Make depthwise convolutions of the scales, shifts and PRelus that stay between convolutions.

1. BatchNormalization and PRelu have no integer kernel, so they would split an int8 region. A depthwise 1x1
   convolution has one.
2. In float, none of them runs in the blocked layout (NCHWc) of onnxruntime's convolutions: the runtime would
   reorder inputs and results (docs/targets.md has measurements).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, new_node, replace_node
from qtool.graph.prepare.affine import affine_forms, channel_vector, completes_gelu, statistics
from qtool.graph.prepare.channels import F64
from qtool.graph.view import float_constant, is_op, rank, sole_consumer
from qtool.tables.kernels import POOLS

# How many nodes may stand between it and a convolution: an activation, a Concat, a pool.
_NEAR = 3
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
# The rank of values that onnxruntime keeps in the blocked layout.
_BLOCKED = 4


def replace_lone_norms(model: ir.Model) -> str:
    """BatchNormalization(x) -> Conv(x, scale [C, 1, 1, ..], shift [C]) with one group a channel.

    1. Only where no product takes it in (affine.py), as behind a Relu and before a convolution that pads.
    2. Only with a convolution near on both sides: elsewhere there is no int8 region to keep whole.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        data = node.inputs[0] if is_op(node, "BatchNormalization") else None
        if data is None or (rank(data) or 0) < 3 or (affine := statistics(node)) is None:
            continue
        if _between_convolutions(node, data) and (made := _depthwise(data, *affine, node, namer)):
            replace_node(node, [made], node.outputs[0], made.outputs[0], namer)
            made.name = node.name  # which the user's patterns match
            count += 1
    return f"{count} BatchNormalizations made depthwise convolutions" if count else ""


def replace_lone_scales(model: ir.Model) -> str:
    """Add, Sub, Mul and Div with constants, one a channel -> Conv as above.

    Only before others of these ops and a convolution: elsewhere they may belong to a pattern that the runtime
    fuses. fold_affine then folds the next one into the new convolution.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        for data, scale, shift in affine_forms(node) if is_op(node, *_ARITHMETIC) else ():
            vectors = channel_vector(scale, data), channel_vector(shift, data)
            if vectors[0] is None or vectors[1] is None or rank(data) != _BLOCKED:
                continue
            if is_op(data.producer(), "Conv") and sole_consumer(data) is node:
                continue  # fold_affine's
            if completes_gelu(data) or not (behind_convolution(data) and _leads_to_convolution(node)):
                continue
            if made := _depthwise(data, vectors[0], vectors[1], node, namer):
                replace_node(node, [made], node.outputs[0], made.outputs[0], namer)
                made.name = node.name  # which the user's patterns match
                count += 1
                break
    return f"{count} constant scales and shifts made depthwise convolutions" if count else ""


def replace_prelus(model: ir.Model) -> str:
    """PRelu(x) with one slope k a channel, behind a convolution -> Conv(Relu(x), 1 - k) + Conv(x, k)."""
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        data = node.inputs[0] if is_op(node, "PRelu") else None
        slopes = None if data is None else float_constant(node.inputs[1])
        if data is None or slopes is None or rank(data) != _BLOCKED or not behind_convolution(data):
            continue
        k = channel_vector(slopes.astype(np.float64), data)
        if k is None:
            continue
        zero, name = np.zeros_like(k), namer(f"{node.name}_Relu")
        relu = new_node("Relu", [data], name=name, outputs=[namer(f"{name}_output")])
        relu.outputs[0].type, relu.outputs[0].shape = data.type, data.shape
        positive = _depthwise(relu.outputs[0], 1 - k, zero, node, namer)
        linear = _depthwise(data, k, zero, node, namer)
        if positive is None or linear is None:
            continue
        name = namer(f"{node.name}_Add")
        both = [positive.outputs[0], linear.outputs[0]]
        total = new_node("Add", both, name=name, outputs=[namer(f"{name}_output")])
        replace_node(node, [relu, positive, linear, total], node.outputs[0], total.outputs[0], namer)
        count += 1
    return f"{count} PRelus made depthwise convolutions" if count else ""


def _depthwise(data: ir.Value, scale: F64, shift: F64, node: ir.Node, namer: Namer) -> ir.Node | None:
    """Return a new convolution for data * scale + shift in place of a node; None where that overflows."""
    with np.errstate(over="ignore"):
        weight, bias = scale.astype(np.float32), shift.astype(np.float32)
    if not isinstance(node.graph, ir.Graph) or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    name = namer(f"{node.name}_Conv" if node.op_type == "PRelu" else node.name or node.op_type)
    inputs = [
        data,
        add_initializer(
            node.graph, namer(f"{name}_weight"), weight.reshape(-1, *(1,) * ((rank(data) or 0) - 1))
        ),
    ]
    if bias.any():
        inputs.append(add_initializer(node.graph, namer(f"{name}_bias"), bias))
    group = {"group": ir.AttrInt64("group", scale.size)}
    made = new_node("Conv", inputs, name=name, outputs=[namer(f"{name}_output")], attributes=group)
    made.outputs[0].type, made.outputs[0].shape = data.type, data.shape
    return made


def _leads_to_convolution(node: ir.Node) -> bool:
    """Return whether a convolution or pool reads a result, or that of the scales and shifts behind it."""
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) == 1 and is_op(readers[0], *_ARITHMETIC) and any(affine_forms(readers[0])):
        return _leads_to_convolution(readers[0])
    return any(is_op(r, "Conv", *POOLS) for r in readers)


def _between_convolutions(node: ir.Node, data: ir.Value) -> bool:
    return behind_convolution(data) and _before_convolution(node, _NEAR)


def behind_convolution(value: ir.Value | None, steps: int = _NEAR) -> bool:
    """Return whether a convolution is among the last nodes that compute a value."""
    node = value.producer() if value is not None else None
    if node is None or is_op(node, "Conv"):
        return node is not None
    return steps > 1 and any(behind_convolution(v, steps - 1) for v in node.inputs)


def _before_convolution(node: ir.Node, steps: int) -> bool:
    """Return whether a convolution is among the first nodes that a node's result goes to."""
    readers = [use.node for use in node.outputs[0].uses()]
    return any(is_op(r, "Conv") or (steps > 1 and _before_convolution(r, steps - 1)) for r in readers)
