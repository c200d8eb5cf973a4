"""Scales and zero points of ranges.

The arithmetic is that of ONNX QuantizeLinear/DequantizeLinear: x = (q - zero_point) * scale.
Everything is computed in float64 and rounded once to the float32 that the model stores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.tables.qtypes import (
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    PerTensor,
    QType,
    TensorSpec,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

# The product of two scales (a bias's scale) must still be a normal float32: the runtime's kernels
# flush denormals, and a scale of zero divides by zero.
SMALLEST_SCALE = 2.0**-60
LARGEST_SCALE = 2.0**60


# Elements that are computed together: their temporaries stay in the cache.
PART = 1 << 15


def scalable(size: float) -> bool:
    """Return whether values up to `size` have a scale within these limits, in 4 bits and in 16."""
    return not size or SMALLEST_SCALE * 2**16 <= size <= LARGEST_SCALE * 2**3


@dataclass(frozen=True, eq=False)
class QParams:
    """scale [] or [C] float32 and zero_point of the same shape, as int64 here and cast on writing."""

    scale: F32
    zero_point: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QParams):
            return NotImplemented
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.zero_point.tobytes()))


def asymmetric(lo: float, hi: float, qtype: QType) -> QParams:
    """Return scale and zero point for values in [lo, hi], extended to hold 0 exactly.

    Real zero must be representable, or zero padding and ReLU would shift every output
    (Jacob et al. 2018, arXiv 1712.05877, section 2.1).
    """
    lo, hi = min(float(lo), 0.0), max(float(hi), 0.0)
    scale = np.float32(np.clip((hi - lo) / (qtype.qmax - qtype.qmin), SMALLEST_SCALE, LARGEST_SCALE))
    zero_point = int(np.clip(np.rint(qtype.qmin - lo / float(scale)), qtype.qmin, qtype.qmax))
    return QParams(np.asarray(scale), np.asarray(zero_point, np.int64))


def midpoint(qtype: QType) -> int:
    """Return the integer that stands for 0 in a symmetric range: 0 for signed types, 128 for uint8."""
    return (qtype.qmin + qtype.qmax + 1) // 2


def symmetric(magnitude: F64, qtype: QType) -> QParams:
    """Return scales for values in [-magnitude, magnitude] around the midpoint, of the shape of magnitude."""
    middle = midpoint(qtype)
    steps = qtype.qmax - middle
    scale = np.clip(magnitude / steps, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float32)
    return QParams(scale, np.full(scale.shape, middle, np.int64))


def activation_qparams(lo: float, hi: float, spec: TensorSpec) -> QParams:
    """Return QParams of a per-tensor activation with values in [lo, hi]."""
    if spec.symmetric:
        return symmetric(np.asarray(max(abs(lo), abs(hi)), np.float64), spec.qtype)
    return asymmetric(lo, hi, spec.qtype)


def scaled_axes(granularity: Granularity, ndim: int) -> tuple[int, ...]:
    """Return the axes of an unfolded tensor that one scale covers; blocks have an axis of their own there."""
    match granularity:
        case PerTensor():
            return tuple(range(ndim))
        case PerChannel(axis):
            return tuple(i for i in range(ndim) if i != axis % ndim)
        case PerRowOfLast():
            return (ndim - 1,)
        case PerBlock(axis, _):
            return (axis + 1,)
        case PerRun():
            return (2,)


def magnitudes(w: NDArray[np.floating], granularity: Granularity) -> F64:
    """Return the largest |w| under each scale.

    w: any shape -> [] / [C] / [D, R] / [.., K/size, ..] / [C, K/size].
    """
    values, axes = unfold(w, granularity), scaled_axes(granularity, w.ndim)
    size = np.maximum(values.max(axis=axes, initial=0), -values.min(axis=axes, initial=0))
    return np.asarray(size, np.float64)


def scale_shape(shape: Sequence[int], granularity: Granularity) -> tuple[int, ...]:
    """Return the shape of the scales of a tensor."""
    covered = scaled_axes(granularity, len(shape))
    return tuple(d for i, d in enumerate(unfolded_shape(shape, granularity)) if i not in covered)


def unfolded_shape(shape: Sequence[int], granularity: Granularity) -> tuple[int, ...]:
    """Return the shape that `unfold` gives a tensor."""
    match granularity:
        case PerBlock(axis, size):
            return blocked_shape(tuple(shape), axis, size)
        case PerRun(size):
            return blocked_shape((shape[0], math.prod(shape[1:])), 1, size)
    return tuple(shape)


def parts(shape: Sequence[int], covered: Sequence[int] = (), most: int = PART) -> Iterator[tuple[slice, ...]]:
    """Yield indices that cut an array into parts whose temporaries stay in the cache.

    Args:
        shape: of the array.
        covered: axes that stay whole.
        most: elements of a part, where these axes leave it the choice.
    """
    free = [i for i in range(len(shape)) if i not in covered]
    axis = next((i for i in free if shape[i] > 1), 0)  # the first is contiguous in memory
    size = math.prod(shape)
    if not free or size <= most:
        yield ()
        return
    step = max(1, most * shape[axis] // size)
    for start in range(0, shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step))


def unfold(x: NDArray[Any], granularity: Granularity) -> NDArray[Any]:
    """Return a tensor in the shape that its scales broadcast over: blocks get an axis of their own.

    A last block that is shorter is filled with zeros, which every scale holds exactly.
    """
    match granularity:
        case PerBlock(axis, size):
            rows = x
        case PerRun(size):
            rows, axis = x.reshape(len(x), math.prod(x.shape[1:])), 1
        case _:
            return x
    lacking = -rows.shape[axis] % size
    if lacking:
        rows = np.pad(rows, [(0, lacking if i == axis else 0) for i in range(rows.ndim)])
    return rows.reshape(blocked_shape(rows.shape, axis, size))


def fold(blocks: NDArray[Any], granularity: Granularity, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the inverse of `unfold`: a tensor of this shape."""
    match granularity:
        case PerBlock(axis, _):
            rows = blocks.reshape(*shape[:axis], -1, *shape[axis + 1 :])
            return rows[(slice(None),) * axis + (slice(shape[axis]),)]
        case PerRun():
            return blocks.reshape(shape[0], -1)[:, : math.prod(shape[1:])].reshape(shape)
        case _:
            return blocks


def blocked_shape(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    """Return the shape with one axis split into blocks: [.., K, ..] -> [.., K/size, size, ..]."""
    return (*shape[:axis], -(-shape[axis] // size), size, *shape[axis + 1 :])
