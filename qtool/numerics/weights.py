"""Scales and zero points of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.pairs import pair_magnitudes
from qtool.numerics.qparams import (
    F32,
    F64,
    LARGEST_SCALE,
    PART,
    SMALLEST_SCALE,
    QParams,
    magnitudes,
    parts,
    scale_shape,
    scaled_axes,
    symmetric,
    unfold,
)
from qtool.tables.qtypes import Granularity, QType, TensorSpec

# A bias saturates int32 where its scale is too small (dead channels after BatchNormalization
# folding have weights near 0 and a live bias); one bit of head room for the sum.
_BIAS_LIMIT = 2.0**30
# Clipping gains 0.1 dB at 8 bits, and 1 to 1.5 dB at 4. Least-squares steps from a few starting points, and
# one more, find all but a tenth of it. Of three values the best step is a third of the largest weight.
_CLIPPED_BITS = 4
_CLIP_RATIOS = (0.88, 0.76)
_FEWEST_RATIOS = (0.7, 0.5, 0.35)


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
    scale = np.empty_like(full_range.scale)
    for part, values, axis in _matrices(w, spec.granularity):
        full = np.expand_dims(full_range.scale[part].reshape(-1), axis)
        fitted = _least_squares(values, full, np.zeros_like(full), axis, spec.qtype)
        scale[part] = fitted.reshape(scale[part].shape)
    return QParams(scale, full_range.zero_point)


def affine_qparams(w: NDArray[np.floating], spec: TensorSpec) -> QParams:
    """Return scales and zero points that hold 0 exactly; of few bits, those of least squared error.

    Clip ratios give starting points. The scale is fitted to the integers that each gives; for the best, the
    integers are fitted to the scale and the scale to them once more (Lloyd's alternation).
    """
    shape = scale_shape(w.shape, spec.granularity)
    scale, zero = np.empty(shape, np.float32), np.empty(shape, np.int64)
    for part, values, axis in _matrices(w, spec.granularity):
        own_scale, own_zero = _affine(values, axis, spec.qtype)
        scale[part], zero[part] = own_scale.reshape(scale[part].shape), own_zero.reshape(zero[part].shape)
    return QParams(scale, zero)


def _matrices(
    w: NDArray[np.floating], granularity: Granularity
) -> Iterator[tuple[tuple[slice, ...], F32, int]]:
    """Yield a weight in parts that stay in the cache.

    Yields:
        the index of a part's scales, its values as a matrix, and the axis that each scale covers there: the
        shorter one of both first, as the inner loop is over the last.
    """
    values, axes = unfold(np.asarray(w, np.float32), granularity), scaled_axes(granularity, w.ndim)
    free = [i for i in range(values.ndim) if i not in axes]
    for part in parts(values.shape, axes, 2 * PART):
        own = values[part]
        covered, scales = (math.prod(own.shape[i] for i in some) for some in (axes, free))
        axis = int(covered > scales)
        order, shape = ((*free, *axes), (scales, covered)) if axis else ((*axes, *free), (covered, scales))
        matrix = np.ascontiguousarray(own.transpose(order).reshape(shape))
        yield tuple(part[i] for i in free if i < len(part)), matrix, axis


@np.errstate(over="ignore", invalid="ignore")  # a fit that overflows float32 is dropped
def _affine(values: F32, axis: int, qtype: QType) -> tuple[F32, F32]:
    """Return the scales and zero points of a matrix; each covers this axis."""
    hi = np.maximum(values.max(axis=axis, keepdims=True, initial=0.0), 0)
    lo = np.minimum(values.min(axis=axis, keepdims=True, initial=0.0), 0)
    steps_in_all = np.float32(qtype.qmax - qtype.qmin)
    width = hi.astype(np.float64) - lo  # float32 may not hold it
    full = np.clip(np.where(width > 0, width, 1) / steps_in_all, SMALLEST_SCALE, LARGEST_SCALE).astype(
        np.float32
    )
    zero = np.clip(np.rint(qtype.qmin - lo / full), qtype.qmin, qtype.qmax).astype(np.float32)
    return (full if qtype.bits > _CLIPPED_BITS else _least_squares(values, full, zero, axis, qtype)), zero


@np.errstate(over="ignore", invalid="ignore")
def _least_squares(values: F32, full: F32, zero: F32, axis: int, qtype: QType) -> F32:
    """Return the scales of least squared error that are found from those of the whole range, `full`.

    All is in steps x of `full`. For integers q the best step is sum(q x) / sum(q^2), and it leaves the error
    sum(x^2) - sum(q x)^2 / sum(q^2): no pass over the errors themselves is needed.
    """
    x = np.asarray(values / full)
    q, least_q, most_q = np.empty_like(x), qtype.qmin - zero, qtype.qmax - zero
    step, gain = np.ones_like(full), np.zeros_like(full)

    def fit(tried: F32 | float) -> None:
        """Round to integers of these steps; keep the step that fits them best where it is the best so far."""
        np.multiply(x, 1 / tried, out=q)
        np.rint(q, out=q) if qtype.zero else np.copysign(1, q, out=q)
        np.maximum(q, least_q, out=q)
        np.minimum(q, most_q, out=q)
        product, energy = (np.einsum(q, [0, 1], a, [0, 1], [1 - axis]).reshape(full.shape) for a in (x, q))
        fitted = product / np.maximum(energy, 1)  # the energy of integers is 0, or at least 1
        gained = product * fitted
        better = (product > 0) & (gained > gain)
        np.copyto(step, fitted, where=better)
        np.copyto(gain, gained, where=better)

    for ratio in (1.0, *(_FEWEST_RATIOS if qtype.bits == 2 and qtype.qmin < 0 else _CLIP_RATIOS)):
        fit(ratio)
    fit(step)
    return np.asarray(np.maximum(full * step, np.float32(SMALLEST_SCALE)), np.float32)


def bias_scale_floor(bias: NDArray[np.floating], input_scale: F32) -> F64:
    """Return the least weight scale [C] at which bias [C] fits int32 at scale input_scale * weight_scale."""
    return np.asarray(np.abs(bias).astype(np.float64) / (_BIAS_LIMIT * float(input_scale)))
