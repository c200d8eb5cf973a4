"""Floats to integers and back, bit for bit as the ONNX operators do it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import F32, QParams
from qtool.tables.qtypes import Granularity, PerChannel, PerRowOfLast, PerTensor, QType


def spread(scale: NDArray[np.generic], granularity: Granularity, ndim: int) -> NDArray[np.generic]:
    """Reshape scales (or zero points) so that they broadcast over the tensor they belong to."""
    match granularity:
        case PerTensor():
            return scale
        case PerChannel(axis):
            shape = [1] * ndim
            shape[axis] = -1
            return scale.reshape(shape)
        case PerRowOfLast():
            return scale[..., None]


def quantize(
    x: NDArray[np.floating], params: QParams, qtype: QType, granularity: Granularity = PerTensor()
) -> NDArray[np.integer]:
    """saturate(round_half_even(x / scale) + zero_point), as ONNX QuantizeLinear-13 defines it.

    x: any shape, float -> same shape, qtype.dtype. NaN is not allowed.
    """
    scale = spread(params.scale, granularity, x.ndim)
    zero = spread(params.zero_point, granularity, x.ndim)
    q = np.rint(np.asarray(x, np.float32) / scale) + zero
    return np.clip(q, qtype.qmin, qtype.qmax).astype(qtype.dtype)


def dequantize(
    q: NDArray[np.integer], params: QParams, granularity: Granularity = PerTensor()
) -> NDArray[np.float32]:
    """(q - zero_point) * scale, as ONNX DequantizeLinear-13 defines it."""
    scale = spread(params.scale, granularity, q.ndim)
    zero = spread(params.zero_point, granularity, q.ndim)
    return np.asarray((q.astype(np.int64) - zero).astype(np.float32) * scale, np.float32)


def quantize_bias(bias: NDArray[np.floating], input_scale: F32, weight_scale: F32) -> tuple[NDArray[np.int32], F32]:
    """Bias [C] as int32 at exactly input_scale * weight_scale, in float32.

    The runtime fuses a convolution only when the bias's scale is that very product, and QGemm takes
    it for granted without looking.

    Returns:
        the integers [C], and their scale [C] float32.
    """
    scale = (np.float32(input_scale) * weight_scale).astype(np.float32)
    q = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limit = 2**31 - 1
    return np.clip(q, -limit, limit).astype(np.int32), scale
