"""Scales and zero points of weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.pairs import pair_magnitudes
from qtool.numerics.qparams import (
    F32,
    F64,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    QParams,
    magnitudes,
    parts,
    scaled_axes,
    symmetric,
    unfold,
)
from qtool.tables.qtypes import QType, TensorSpec

# A bias saturates int32 where its scale is too small (dead channels after BatchNormalization
# folding have weights near 0 and a live bias); one bit of head room for the sum.
_BIAS_LIMIT = 2.0**30
# Clipping gains 0.1 dB at 8 bits, and 1 to 1.5 dB at 4. Two least-squares steps from a few starting points
# find all but a tenth of it. Of three values the best step is a third of the largest weight.
_CLIPPED_BITS = 4
_CLIP_RATIOS = (0.88, 0.76)
_FEWEST_RATIOS = (0.7, 0.5, 0.35)
_REFINEMENTS = 2


def weight_qparams(w: NDArray[np.floating], spec: TensorSpec, bias_floor: F64 | None = None) -> QParams:
    """Return QParams of a weight: symmetric min-max, or affine; of 2 bits with the least squared error.

    For ternary weights that is the scale and the threshold of Li et al. 2016 (arXiv 1605.04711), for binary
    ones the mean size (Rastegari et al. 2016, arXiv 1603.05279).

    A channel of zeros takes the largest scale of the others: any scale holds it exactly, and a tiny
    one would saturate the bias that shares it.

    Args:
        w: the weight, float.
        spec: type and granularity.
        bias_floor: the least scale of each channel, from `bias_scale_floor`, same shape as the scales.
    """
    if not spec.symmetric:
        return affine_qparams(w, spec)
    # A step of 1 / 127 of the sum leaves room for rounding both.
    size = (pair_magnitudes if spec.qtype.pairs else magnitudes)(w, spec.granularity)
    size = np.where(size > 0, size, size.max(initial=0.0))
    params = symmetric(size, spec.qtype)
    if spec.qtype.bits < _CLIPPED_BITS:  # at 4 bits GPTQ finds better scales from the whole range (1 dB, cnn)
        params = _centred(w, spec, params)
    if bias_floor is None:
        return params
    return QParams(np.maximum(params.scale, bias_floor).astype(np.float32), params.zero_point)


def _centred(w: NDArray[np.floating], spec: TensorSpec, full_range: QParams) -> QParams:
    """Return scales of least squared error, from those that cover the whole range."""
    values = unfold(np.asarray(w, np.float32), spec.granularity)
    axes, zero = scaled_axes(spec.granularity, w.ndim), np.zeros((), np.float32)
    full = np.expand_dims(full_range.scale, axes)
    scale = np.empty_like(full)
    for part in parts(values.shape, axes):
        scale[part] = _least_squares(values[part], full[part], zero, axes, spec.qtype)
    return QParams(np.squeeze(scale, axes), full_range.zero_point)


def affine_qparams(w: NDArray[np.floating], spec: TensorSpec) -> QParams:
    """Return scales and zero points that hold 0 exactly; of few bits, those of least squared error.

    Clip ratios give starting points; from the best, the scale is fitted to the integers that it gives
    and the integers to the scale (Lloyd's alternation), kept where the error falls.
    """
    values = unfold(np.asarray(w, np.float32), spec.granularity)
    axes = scaled_axes(spec.granularity, w.ndim)
    shape = tuple(1 if i in axes else d for i, d in enumerate(values.shape))
    scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int64)
    for part in parts(values.shape, axes):
        scale[part], zero[part] = _affine(values[part], axes, spec.qtype)
    return QParams(np.squeeze(scale, axes), np.squeeze(zero, axes))


@np.errstate(over="ignore", invalid="ignore")  # a fit that overflows float32 is dropped
def _affine(values: F32, axes: tuple[int, ...], qtype: QType) -> tuple[F32, F32]:
    """Fit the scales that each cover these axes of unfolded values. Returns scales and zero points.

    All is in steps of the scale that covers the whole range.
    """
    hi = np.maximum(values.max(axis=axes, keepdims=True, initial=0.0), 0)
    lo = np.minimum(values.min(axis=axes, keepdims=True, initial=0.0), 0)
    steps_in_all = np.float32(qtype.qmax - qtype.qmin)
    width = hi.astype(np.float64) - lo  # float32 may not hold it
    full = np.clip(np.where(width > 0, width, 1) / steps_in_all, SMALLEST_SCALE, LARGEST_SCALE).astype(
        np.float32
    )
    zero = np.clip(np.rint(qtype.qmin - lo / full), qtype.qmin, qtype.qmax).astype(np.float32)
    return (full if qtype.bits > _CLIPPED_BITS else _least_squares(values, full, zero, axes, qtype)), zero


@np.errstate(over="ignore", invalid="ignore")
def _least_squares(values: F32, full: F32, zero: F32, axes: tuple[int, ...], qtype: QType) -> F32:
    """Return the scales of least squared error that are found from those of the whole range, `full`."""
    steps = np.asarray(values / full)
    least_q, most_q = qtype.qmin - zero, qtype.qmax - zero
    q, rest = np.empty_like(steps), np.empty_like(steps)

    def lost(step: F32 | float) -> F32:
        """Round to integers of this many steps, into q, and return the squared error."""
        np.multiply(steps, 1 / step, out=q)
        np.rint(q, out=q) if qtype.zero else np.copysign(1, q, out=q)
        np.maximum(q, least_q, out=q)
        np.minimum(q, most_q, out=q)
        np.multiply(q, step, out=rest)
        np.subtract(rest, steps, out=rest)
        np.square(rest, out=rest)
        return np.asarray(rest.sum(axis=axes, keepdims=True))

    step = np.ones_like(full)
    least = lost(1.0)
    for ratio in _FEWEST_RATIOS if qtype.bits == 2 and qtype.qmin < 0 else _CLIP_RATIOS:
        error = lost(ratio)
        step, least = np.where(error < least, np.float32(ratio), step), np.minimum(error, least)
    lost(step)
    for _ in range(_REFINEMENTS):
        products = np.multiply(q, steps, out=rest).sum(axis=axes, keepdims=True)
        energy = np.square(q, out=rest).sum(axis=axes, keepdims=True)
        tried = np.where((energy > 0) & (products > 0), products / np.where(energy > 0, energy, 1), step)
        error = lost(tried)
        step, least = np.where(error < least, tried, step), np.minimum(error, least)
    return np.asarray(np.maximum(full * step, np.float32(SMALLEST_SCALE)), np.float32)


def bias_scale_floor(bias: NDArray[np.floating], input_scale: F32) -> F64:
    """Return the least weight scale [C] at which bias [C] fits int32 at scale input_scale * weight_scale."""
    return np.asarray(np.abs(bias).astype(np.float64) / (_BIAS_LIMIT * float(input_scale)))
