"""Floats to integers and back, bit for bit as the ONNX operators do it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import F32, QParams, fold, parts, unfold
from qtool.tables.qtypes import (
    PER_TENSOR,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    PerTensor,
    QType,
)


def spread(scale: NDArray[np.generic], granularity: Granularity, ndim: int) -> NDArray[np.generic]:
    """Reshape scales (or zero points) so that they broadcast over the tensor they belong to.

    For blocks that is the tensor in its blocked shape (see `unfold`).
    """
    match granularity:
        case PerTensor():
            return scale
        case PerChannel(axis):
            shape = [1] * ndim
            shape[axis] = -1
            return scale.reshape(shape)
        case PerRowOfLast():
            return scale[..., None]
        case PerBlock(axis, _):
            return np.expand_dims(scale, axis + 1)
        case PerRun():
            return scale[..., None]


def quantize(
    x: NDArray[np.floating], params: QParams, qtype: QType, granularity: Granularity = PER_TENSOR
) -> NDArray[np.integer]:
    """Return saturate(round_half_even(x / scale) + zero_point), as ONNX QuantizeLinear-13 defines it.

    x: any shape, float -> same shape, qtype.dtype. NaN is not allowed.
    """
    values = unfold(np.asarray(x, np.float32), granularity)
    scale = np.broadcast_to(spread(params.scale, granularity, x.ndim), values.shape)
    zeros = spread(params.zero_point.astype(np.float32), granularity, x.ndim)
    zero = np.broadcast_to(zeros, values.shape)
    integers = np.empty(values.shape, qtype.dtype)
    for part in parts(values.shape):
        with np.errstate(over="ignore"):  # beyond float32 is beyond qmax, too
            q = np.asarray(values[part] / scale[part], np.float32)
        _round(q, zero[part], qtype)
        integers[part] = q
    return fold(integers, granularity, x.shape)


def rounding_energies(
    x: NDArray[np.floating], params: QParams, qtype: QType, granularity: Granularity = PER_TENSOR
) -> tuple[float, float]:
    """Return the sums of squares of a tensor and of its rounding error, in little memory."""
    values = unfold(np.asarray(x, np.float32), granularity)
    scale = np.broadcast_to(spread(params.scale, granularity, x.ndim), values.shape)
    zeros = spread(params.zero_point.astype(np.float32), granularity, x.ndim)
    zero = np.broadcast_to(zeros, values.shape)
    signal = noise = 0.0
    for part in parts(values.shape):
        error = np.asarray(values[part] / scale[part], np.float32)
        _round(error, zero[part], qtype)
        error -= zero[part]
        error *= scale[part]
        error -= values[part]
        signal += _energy(values[part])
        noise += _energy(error)
    return signal, noise


def _round(steps: F32, zero: F32, qtype: QType) -> None:
    """Turn x / scale into the nearest integers of a type, in place."""
    np.rint(steps, out=steps) if qtype.zero else np.copysign(1, steps, out=steps)
    steps += zero
    np.clip(steps, qtype.qmin, qtype.qmax, out=steps)


def _energy(values: F32) -> float:
    wide = values.astype(np.float64).reshape(-1)
    return float(np.einsum("i,i->", wide, wide))


def dequantize(
    q: NDArray[np.integer], params: QParams, granularity: Granularity = PER_TENSOR
) -> NDArray[np.float32]:
    """Return (q - zero_point) * scale, as ONNX DequantizeLinear-13 defines it. Same shape, float32."""
    exact = np.float32 if q.dtype.itemsize < np.dtype(np.float32).itemsize else np.int64
    values = unfold(q.astype(exact), granularity) - spread(
        params.zero_point.astype(exact), granularity, q.ndim
    )
    restored = values.astype(np.float32, copy=False) * spread(params.scale, granularity, q.ndim)
    return fold(np.asarray(restored, np.float32), granularity, q.shape)


def bias_scale(input_scale: F32, weight_scale: F32, groups: int = 1) -> F32:
    """Return the scale [groups * C] of an int32 bias: input_scale [] * weight_scale [C], in float32.

    The weight [I, O/groups, ..] of a ConvTranspose has one scale for the same channel of all groups.
    """
    scale = np.asarray(np.float32(input_scale) * weight_scale, np.float32)
    return np.tile(scale, groups) if groups > 1 else scale


def quantize_bias(bias: NDArray[np.floating], scale: F32) -> NDArray[np.int32]:
    """Return a bias [C] as int32 [C] at a scale [C] from `bias_scale`, rounded half to even, saturated.

    onnxruntime fuses a convolution only if the scale of the bias is exactly that product, and QGemm assumes
    it without a check.
    """
    q = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limit = 2**31 - 1
    return np.clip(q, -limit, limit).astype(np.int32)
