"""Unpack the weight of com.microsoft's MatMulNBits (onnxruntime docs/ContribOperators.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import attribute_int


def nbits_weight(
    node: ir.Node, array_of: Callable[[ir.Value | None], NDArray[Any] | None]
) -> tuple[NDArray[np.float32], NDArray[np.float32], str, str] | None:
    """Return the floats [N, K] of the packed weight, the scale of each, the scale's name and the type.

    None where they depend on an input.

    Args:
        node: the product.
        array_of: returns the array of a constant, or of a value that depends on constants only.
    """
    packed, scale = array_of(node.inputs[1]), array_of(node.inputs[2])
    if packed is None or scale is None:
        return None
    rows, total = attribute_int(node, "N", 0), attribute_int(node, "K", 0)
    bits, block = attribute_int(node, "bits", 4), attribute_int(node, "block_size", 32)
    count = -(-total // block)
    q = _unpack(packed.reshape(rows, count, -1), bits)[..., :block]
    zeros = array_of(node.inputs[3]) if len(node.inputs) > 3 else None
    middle = np.full((rows, count), 2 ** (bits - 1), np.float32)
    if zeros is not None and zeros.dtype == np.uint8:
        middle = _unpack(zeros.reshape(rows, -1), bits)[:, :count]
    elif zeros is not None:
        middle = zeros.reshape(rows, count).astype(np.float32)
    steps = np.repeat(scale.reshape(rows, count).astype(np.float32), block, axis=1)[:, :total]
    array = (q - middle[..., None]).reshape(rows, -1)[:, :total] * steps
    return np.asarray(array, np.float32), steps, node.inputs[2].name or "", f"uint{bits}"  # type: ignore[union-attr]


def _unpack(data: NDArray[np.generic], bits: int) -> NDArray[np.float32]:
    """Return the unsigned integers of bytes [.., n] as floats [.., n * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (data[..., None] >> shifts) & (2**bits - 1)  # type: ignore[operator]
    return np.asarray(parts.reshape(*data.shape[:-1], -1), np.float32)
