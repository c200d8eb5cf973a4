"""Scales and zero points of weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import (
    F32,
    F64,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    QParams,
    magnitudes,
    midpoint,
    scaled_axes,
    symmetric,
    unfold,
)
from qtool.tables.qtypes import QType, TensorSpec

# A bias saturates int32 where its scale is too small (dead channels after BatchNormalization
# folding have weights near 0 and a live bias); one bit of head room for the sum.
_BIAS_LIMIT = 2.0**30
# Clipping gains 0.1 dB at 8 bits, and 1 to 1.5 dB at 4. Two least-squares steps from a few starting points
# find all but a tenth of it.
_CLIPPED_BITS = 4
_CLIP_RATIOS = (1.0, 0.88, 0.76)
_REFINEMENTS = 2
# Elements that are fitted together: temporaries stay in the cache, and small beside a large weight.
_ROOM = 1 << 18


def weight_qparams(w: NDArray[np.floating], spec: TensorSpec, bias_floor: F64 | None = None) -> QParams:
    """Return QParams of a weight: symmetric min-max, or affine with the least squared error.

    A channel of zeros takes the largest scale of the others: any scale holds it exactly, and a tiny
    one would saturate the bias that shares it.

    Args:
        w: the weight, float.
        spec: type and granularity.
        bias_floor: the least scale of each channel, from `bias_scale_floor`, same shape as the scales.
    """
    if not spec.symmetric:
        return affine_qparams(w, spec)
    size = magnitudes(w, spec.granularity)
    size = np.where(size > 0, size, size.max(initial=0.0))
    if bias_floor is not None:
        size = np.maximum(size, bias_floor * (spec.qtype.qmax - midpoint(spec.qtype)))
    return symmetric(size, spec.qtype)


def affine_qparams(w: NDArray[np.floating], spec: TensorSpec) -> QParams:
    """Return scales and zero points that hold 0 exactly; of few bits, those of least squared error.

    Clip ratios give starting points; from the best, the scale is fitted to the integers that it gives
    and the integers to the scale (Lloyd's alternation), kept where the error falls.
    """
    values = unfold(np.asarray(w, np.float32), spec.granularity)
    axes = scaled_axes(spec.granularity, w.ndim)
    others = [i for i in range(values.ndim) if i not in axes]
    if not others:
        return _affine(values, axes, spec.qtype)
    along = max(others, key=lambda i: values.shape[i])
    count = min(values.shape[along], -(-values.size // _ROOM))
    parts = [_affine(part, axes, spec.qtype) for part in np.array_split(values, max(count, 1), along)]
    joined = others.index(along)
    scales, zeros = [p.scale for p in parts], [p.zero_point for p in parts]
    return QParams(np.concatenate(scales, joined), np.concatenate(zeros, joined))


@np.errstate(over="ignore", invalid="ignore")  # a fit that overflows float32 is dropped
def _affine(values: F32, axes: tuple[int, ...], qtype: QType) -> QParams:
    """Fit the scales that each cover these axes of unfolded values."""
    hi = np.maximum(values.max(axis=axes, keepdims=True, initial=0.0), 0)
    lo = np.minimum(values.min(axis=axes, keepdims=True, initial=0.0), 0)
    steps = np.float32(qtype.qmax - qtype.qmin)
    full = np.clip(np.where(hi > lo, hi - lo, 1) / steps, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float32)

    def integers(scale: F32, zero: F32) -> F32:
        return np.asarray(np.clip(np.rint(values / scale) + zero, qtype.qmin, qtype.qmax) - zero, np.float32)

    def error(q: F32, scale: F32) -> F64:
        return np.asarray(np.square(values - q * scale, dtype=np.float64).sum(axis=axes, keepdims=True))

    few = qtype.bits <= _CLIPPED_BITS
    scale, zero, least = full, np.zeros_like(full), np.full(full.shape, np.inf)
    for ratio in _CLIP_RATIOS if few else (1.0,):
        tried = np.maximum(full * np.float32(ratio), np.float32(SMALLEST_SCALE))
        start = np.clip(np.rint(qtype.qmin - lo / full), qtype.qmin, qtype.qmax).astype(np.float32)
        lost = error(integers(tried, start), tried)
        scale, zero = np.where(lost < least, tried, scale), np.where(lost < least, start, zero)
        least = np.minimum(lost, least)
    for _ in range(_REFINEMENTS if few else 0):
        q = integers(scale, zero)
        energy = np.square(q).sum(axis=axes, keepdims=True)
        fitted = (q * values).sum(axis=axes, keepdims=True) / np.where(energy > 0, energy, 1)
        tried = np.where(fitted > SMALLEST_SCALE, fitted, scale).astype(np.float32)
        lost = error(integers(tried, zero), tried)
        scale, least = np.where(lost < least, tried, scale), np.minimum(lost, least)
    return QParams(np.squeeze(scale, axes), np.squeeze(zero, axes).astype(np.int64))


def bias_scale_floor(bias: NDArray[np.floating], input_scale: F32) -> F64:
    """Return the least weight scale [C] at which bias [C] fits int32 at scale input_scale * weight_scale."""
    return np.asarray(np.abs(bias).astype(np.float64) / (_BIAS_LIMIT * float(input_scale)))
