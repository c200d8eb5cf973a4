"""Ranges to scales and zero points.

The arithmetic is that of ONNX QuantizeLinear/DequantizeLinear: x = (q - zero_point) * scale.
Everything is computed in float64 and rounded once to the float32 that the model stores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.tables.qtypes import (
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
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
# A bias saturates int32 where its scale is too small (dead channels after BatchNormalization
# folding have weights near 0 and a live bias); one bit of head room for the sum.
_BIAS_LIMIT = 2.0**30


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
    """Scale and zero point for values in [lo, hi], stretched to hold 0 exactly.

    Real zero must be representable, or zero padding and ReLU would shift every output
    (Jacob et al. 2018, arXiv 1712.05877, section 2.1).
    """
    lo, hi = min(float(lo), 0.0), max(float(hi), 0.0)
    scale = np.float32(np.clip((hi - lo) / (qtype.qmax - qtype.qmin), SMALLEST_SCALE, LARGEST_SCALE))
    zero_point = int(np.clip(np.rint(qtype.qmin - lo / float(scale)), qtype.qmin, qtype.qmax))
    return QParams(np.asarray(scale), np.asarray(zero_point, np.int64))


def symmetric(magnitude: F64, qtype: QType) -> QParams:
    """Scales for values in [-magnitude, magnitude], zero point 0. magnitude: any shape -> scale of it."""
    scale = np.clip(magnitude / qtype.qmax, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float32)
    return QParams(scale, np.zeros(scale.shape, np.int64))


def activation_qparams(lo: float, hi: float, spec: TensorSpec) -> QParams:
    """QParams of a per-tensor activation whose values lie in [lo, hi]."""
    if spec.symmetric:
        return symmetric(np.asarray(max(abs(lo), abs(hi)), np.float64), spec.qtype)
    return asymmetric(lo, hi, spec.qtype)


def magnitudes(w: NDArray[np.floating], granularity: Granularity) -> F64:
    """The largest |w| under each scale. w: any shape -> [] / [C] / [D, R] / [.., K/size, ..]."""
    size = np.abs(w).astype(np.float64)
    match granularity:
        case PerTensor():
            return np.asarray(size.max(initial=0.0))
        case PerChannel(axis):
            others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
            return np.asarray(size.max(axis=others, initial=0.0))
        case PerRowOfLast():
            return np.asarray(size.max(axis=-1, initial=0.0))
        case PerBlock(axis, block):
            return np.asarray(
                size.reshape(blocked_shape(w.shape, axis, block)).max(axis=axis + 1, initial=0.0)
            )


def blocked_shape(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    """The shape with one axis split into blocks: [.., K, ..] -> [.., K/size, size, ..]."""
    return (*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])


def weight_qparams(w: NDArray[np.floating], spec: TensorSpec, bias_floor: F64 | None = None) -> QParams:
    """Symmetric min-max QParams of a weight.

    A channel of zeros takes the largest scale of the others: any scale holds it exactly, and a tiny
    one would saturate the bias that shares it.

    Args:
        w: the weight, float.
        bias_floor: the least scale of each channel, from `bias_scale_floor`, same shape as the scales.
    """
    size = magnitudes(w, spec.granularity)
    size = np.where(size > 0, size, size.max(initial=0.0))
    if bias_floor is not None:
        size = np.maximum(size, bias_floor * spec.qtype.qmax)
    return symmetric(size, spec.qtype)


def bias_scale_floor(bias: NDArray[np.floating], input_scale: F32) -> F64:
    """The least weight scale [C] at which bias [C] fits int32 at scale input_scale * weight_scale."""
    return np.asarray(np.abs(bias).astype(np.float64) / (_BIAS_LIMIT * float(input_scale)))
