"""Fold y = conv(x) * scale + shift into a convolution or Gemm: for batchnorm.py and affine.py."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import attribute_float, attribute_int, float_constant, is_op, is_vector

F64 = NDArray[np.float64]


def output_channels(node: ir.Node, weight: NDArray[np.float32]) -> int:
    """Return the number of output channels of a Conv, ConvTranspose or Gemm."""
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * attribute_int(node, "group", 1)
    if node.op_type == "Gemm":
        return int(weight.shape[0 if attribute_int(node, "transB", 0) else 1])
    return int(weight.shape[0])


def rescale_channels(node: ir.Node, scale: F64, shift: F64, absorbed: ir.Node, namer: Namer) -> bool:
    """Fold y * scale + shift (both [C]) into a weighted node, and remove the node that computed it.

    Computed in float64. Weights that other nodes share are copied, not changed.

    Returns:
        whether it could be done.
    """
    if not is_op(node, "Conv", "ConvTranspose", "Gemm"):
        return False
    weight = float_constant(node.inputs[1])
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    bias = float_constant(node.inputs[2]) if has_bias else None
    graph = node.graph
    if weight is None or (has_bias and bias is None) or not isinstance(graph, ir.Graph):
        return False
    channels = output_channels(node, weight)
    if scale.shape != (channels,) or shift.shape != (channels,):
        return False
    if bias is not None and bias.size not in (1, channels):
        return False  # shape inference (onnx 1.23) accepts it; the runtime does not
    if node.op_type == "Gemm" and (
        attribute_float(node, "alpha", 1.0) != 1.0
        or attribute_float(node, "beta", 1.0) != 1.0
        or (bias is not None and bias.size != 1 and not is_vector(bias, channels))
    ):
        return False
    old_bias = (
        np.zeros(channels) if bias is None else np.broadcast_to(bias.reshape(-1), (channels,)).astype(float)
    )
    new_weight = weight.astype(np.float64) * _over_weight(node, weight, scale)
    new_bias = old_bias * scale + shift
    with np.errstate(over="ignore"):
        arrays = new_weight.astype(np.float32), new_bias.astype(np.float32)
    if not all(np.isfinite(a).all() for a in arrays):
        return False  # two finite factors overflow when multiplied
    base = node.name or absorbed.name or node.op_type
    node.resize_inputs(3)
    for index, (array, suffix) in enumerate(zip(arrays, ("weight", "bias"), strict=True), start=1):
        node.replace_input_with(index, add_initializer(graph, namer(f"{base}_{suffix}"), array))
    _absorb(node, absorbed)
    return True


def _over_weight(node: ir.Node, weight: NDArray[np.float32], scale: F64) -> F64:
    """Return the scale [C] in a shape that multiplies the output channels of the weight."""
    if node.op_type == "Conv":
        return scale.reshape(-1, *(1,) * (weight.ndim - 1))
    if node.op_type == "Gemm":
        return scale[:, None] if attribute_int(node, "transB", 0) else scale[None, :]
    # ConvTranspose: weight [I, O/g, ...]; the outputs of group k are computed from its inputs.
    group = attribute_int(node, "group", 1)
    per_group = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
    return per_group.reshape(*per_group.shape, *(1,) * (weight.ndim - 2))


def _absorb(node: ir.Node, absorbed: ir.Node) -> None:
    """Replace the absorbed node's output by the node's, which gets its name."""
    old, new = absorbed.outputs[0], node.outputs[0]
    name, graph = old.name, absorbed.graph
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if graph is not None:
        graph.remove(absorbed, safe=True)
    new.name = name
