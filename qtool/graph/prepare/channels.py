"""Change a product so that it scales and shifts its output or input channels: for affine.py."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import attribute_float, attribute_int, float_constant, is_op, is_tied, is_vector

F64 = NDArray[np.float64]

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = (*CONVOLUTIONS, "Gemm", "MatMul")


def output_channels(node: ir.Node, weight: NDArray[np.float32]) -> int:
    """Return the number of output channels of a product."""
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * attribute_int(node, "group", 1)
    if node.op_type == "Conv":
        return int(weight.shape[0])
    return int(weight.shape[0 if attribute_int(node, "transB", 0) else -1])


def rescale_outputs(node: ir.Node, scale: F64, shift: F64, namer: Namer) -> bool:
    """Change the constants of a product so that it computes y * scale + shift, both [C], instead of y.

    Computed in float64. A MatMul takes a scale only. A convolution copies a weight that other nodes share; a
    Gemm or MatMul, whose weights are large, does not take the scale then.

    Returns:
        whether it could be done.
    """
    weight = float_constant(node.inputs[1])
    bias = _bias(node, weight)
    if weight is None or bias is None or scale.shape != bias.shape or shift.shape != bias.shape:
        return False
    new_bias = bias * scale + shift
    if (scale == 1).all():
        return _replace(node, None, new_bias, namer)
    if node.op_type not in CONVOLUTIONS and _is_shared(node.inputs[1]):
        return False
    return _replace(node, weight.astype(np.float64) * _over_outputs(node, weight, scale), new_bias, namer)


def rescale_inputs(node: ir.Node, scale: F64, shift: F64, namer: Namer) -> bool:
    """Change the constants of a Conv, Gemm or MatMul so that it applies x * scale + shift, both [C], itself.

    A Conv that pads takes a scale only: the zeros that it adds are not shifted. A MatMul takes a scale only.

    Returns:
        whether it could be done.
    """
    weight = float_constant(node.inputs[1])
    bias = _bias(node, weight)
    if weight is None or bias is None or is_op(node, "ConvTranspose") or attribute_int(node, "transA", 0):
        return False
    if _is_shared(node.inputs[1]) or (_pads(node) and shift.any()):
        return False
    if node.op_type == "Conv":
        group = attribute_int(node, "group", 1)
        if scale.size != weight.shape[1] * group:
            return False
        shape = (weight.shape[0], weight.shape[1], *(1,) * (weight.ndim - 2))
        scales, shifts = (
            np.repeat(v.reshape(group, -1), weight.shape[0] // group, axis=0).reshape(shape)
            for v in (scale, shift)
        )
        added = (weight * shifts).sum(axis=tuple(range(1, weight.ndim)))
    else:
        rows = 1 if attribute_int(node, "transB", 0) else 0
        if weight.ndim != 2 or scale.size != weight.shape[rows]:
            return False
        scales = scale[None, :] if rows else scale[:, None]
        added = (weight * (shift[None, :] if rows else shift[:, None])).sum(axis=rows)
    return _replace(node, weight.astype(np.float64) * scales, bias + added, namer)


def absorb(node: ir.Node, kept: ir.Value) -> None:
    """Remove a node: `kept`, computed before it in the same graph, becomes its result and gets its name."""
    old, graph = node.outputs[0], node.graph
    name = old.name
    kept.type, kept.shape = old.type, old.shape
    old.replace_all_uses_with(kept, replace_graph_outputs=True)
    if graph is not None:
        graph.remove(node, safe=True)
    kept.name = name


def _bias(node: ir.Node, weight: NDArray[np.float32] | None) -> F64 | None:
    """Return the bias [C] of a product, zeros where it has none; None where no constant can replace it."""
    if not is_op(node, *PRODUCTS) or weight is None or weight.ndim < 2:
        return None
    if is_op(node, "Gemm") and any(attribute_float(node, f, 1.0) != 1.0 for f in ("alpha", "beta")):
        return None
    channels = output_channels(node, weight)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(channels)
    bias = float_constant(node.inputs[2])
    # Shape inference (onnx 1.23) accepts other sizes; the runtime does not.
    if bias is None or bias.size not in (1, channels):
        return None
    if is_op(node, "Gemm") and bias.size != 1 and not is_vector(bias, channels):
        return None
    return np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float64)


def _is_shared(weight: ir.Value | None) -> bool:
    """Return whether another node reads a weight too, or its transpose: a scaled copy would double it."""
    return weight is not None and (len(weight.uses()) > 1 or is_tied(weight))


def _pads(node: ir.Node) -> bool:
    pads, auto = node.attributes.get("pads"), node.attributes.get("auto_pad")
    same = auto is not None and auto.as_string() not in ("NOTSET", "VALID")
    return same or (pads is not None and any(pads.as_ints()))


def _over_outputs(node: ir.Node, weight: NDArray[np.float32], scale: F64) -> F64:
    """Return the scale [C] in a shape that multiplies the output channels of the weight."""
    if node.op_type == "Conv":
        return scale.reshape(-1, *(1,) * (weight.ndim - 1))
    if node.op_type != "ConvTranspose":
        return scale[:, None] if attribute_int(node, "transB", 0) else scale
    # ConvTranspose: weight [I, O/g, ...]; the outputs of group k are computed from its inputs.
    group = attribute_int(node, "group", 1)
    per_group = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
    return per_group.reshape(*per_group.shape, *(1,) * (weight.ndim - 2))


def _replace(node: ir.Node, weight: F64 | None, bias: F64, namer: Namer) -> bool:
    """Replace the constants of a product, unless one is not finite; weight None: it stays."""
    graph = node.graph
    if not isinstance(graph, ir.Graph) or (node.op_type == "MatMul" and bias.any()):
        return False
    wanted = {"weight": (1, weight), "bias": (2, None if node.op_type == "MatMul" else bias)}
    with np.errstate(over="ignore"):
        arrays = {k: (i, np.asarray(a, np.float32)) for k, (i, a) in wanted.items() if a is not None}
    if not all(np.isfinite(a).all() for _, a in arrays.values()):
        return False  # two finite factors overflow when multiplied
    for word, (index, array) in arrays.items():
        node.resize_inputs(max(len(node.inputs), index + 1))
        base = node.name or node.op_type
        node.replace_input_with(index, add_initializer(graph, namer(f"{base}_{word}"), array))
    return True
