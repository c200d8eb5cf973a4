"""Make a depthwise convolution of a BatchNormalization that stays between convolutions.

A BatchNormalization has no integer kernel, so it would split an int8 region. A depthwise 1x1 convolution has
one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.prepare.affine import statistics
from qtool.graph.view import is_op, rank

# How many nodes may stand between it and a convolution: an activation, a Concat, a pool.
_NEAR = 3


def replace_lone_norms(model: ir.Model) -> str:
    """BatchNormalization(x) -> Conv(x, scale [C, 1, 1, ..], shift [C]) with one group a channel.

    1. Only where no product takes it in (affine.py), as behind a Relu and before a convolution that pads.
    2. Only with a convolution near on both sides: elsewhere there is no int8 region to keep whole.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        data, graph = node.inputs[0] if is_op(node, "BatchNormalization") else None, node.graph
        axes = rank(data)
        if data is None or axes is None or axes < 3 or not isinstance(graph, ir.Graph):
            continue
        affine = statistics(node)
        if affine is None or not (_behind_convolution(data, _NEAR) and _before_convolution(node, _NEAR)):
            continue
        with np.errstate(over="ignore"):
            scale, shift = (v.astype(np.float32) for v in affine)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            continue
        weight = add_initializer(graph, namer(f"{node.name}_weight"), scale.reshape(-1, *(1,) * (axes - 1)))
        bias = add_initializer(graph, namer(f"{node.name}_bias"), shift)
        node.op_type = "Conv"
        node.attributes.clear()
        node.attributes.add(ir.AttrInt64("group", scale.size))
        node.resize_inputs(3)
        node.replace_input_with(1, weight)
        node.replace_input_with(2, bias)
        count += 1
    return f"{count} BatchNormalizations made depthwise convolutions" if count else ""


def _behind_convolution(value: ir.Value | None, steps: int) -> bool:
    """Return whether a convolution is among the last nodes that compute a value."""
    node = value.producer() if value is not None else None
    if node is None or is_op(node, "Conv"):
        return node is not None
    return steps > 1 and any(_behind_convolution(v, steps - 1) for v in node.inputs)


def _before_convolution(node: ir.Node, steps: int) -> bool:
    """Return whether a convolution is among the first nodes that a node's result goes to."""
    readers = [use.node for use in node.outputs[0].uses()]
    return any(is_op(r, "Conv") or (steps > 1 and _before_convolution(r, steps - 1)) for r in readers)
