"""Fold a constant per-channel Add or Mul after a convolution into it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer
from qtool.graph.prepare.channels import output_channels, rescale_channels
from qtool.graph.view import float_constant, is_op, sole_consumer

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def fold_affine(model: ir.Model) -> str:
    """Fold Conv + Add([C, 1, 1]) and Conv * Mul([C, 1, 1]): some exporters write biases so."""
    namer = Namer(model)
    folded = 0
    for node in list(model.graph.all_nodes()):
        if not is_op(node, "Add", "Mul"):
            continue
        for data, other in (node.inputs, tuple(reversed(node.inputs))):
            producer = data.producer() if data is not None else None
            if data is None or producer is None or not is_op(producer, *_CONVOLUTIONS):
                continue
            if sole_consumer(data) is not node or producer.graph is not node.graph:
                continue
            vector = _per_channel(float_constant(other), producer)
            if vector is None:
                continue
            one, zero = np.ones_like(vector), np.zeros_like(vector)
            scale, shift = (one, vector) if node.op_type == "Add" else (vector, zero)
            folded += rescale_channels(producer, scale, shift, node, namer)
            break
    return f"{folded} constant Adds and Muls folded into convolutions" if folded else ""


def _per_channel(array: NDArray[np.float32] | None, conv: ir.Node) -> NDArray[np.float64] | None:
    """Return the constant as one value a channel [C], where it broadcasts so; else None."""
    weight = float_constant(conv.inputs[1])
    if array is None or weight is None or array.ndim > weight.ndim:
        return None
    channels = output_channels(conv, weight)
    shape = (1,) * (weight.ndim - array.ndim) + array.shape
    if shape[1] not in (1, channels) or any(d != 1 for i, d in enumerate(shape) if i != 1):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)
