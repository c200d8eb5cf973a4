"""Half-quadratic quantization: scales and zero points of few bits by a norm that outliers weigh little in.

Badri & Shaji 2023 (https://mobiusml.github.io/hqq_blog/) minimize sum |w - (q - zero) * scale|^p, p < 1: in
turns, a soft threshold for that norm sets a part of the error aside, and the rest is fitted by least
squares. They fit the zero point, a real number. Here it is an integer: its neighbours are tried, and the
scale is fitted.
"""

from __future__ import annotations

import numpy as np

from qtool.numerics.qparams import F32, F64, LARGEST_SCALE, SMALLEST_SCALE, QParams, scaled_axes, unfold
from qtool.tables.qtypes import QType, TensorSpec

# The authors' norm, and the threshold: beta of the first turn, in steps, and its growth.
POWER = 0.7
_BETA, _GROWTH = 10.0, 1.01
_TURNS = 10
# Starts that are tried: zero points beside the first, and shares of its scale, for bit widths where the norm
# is to decide it (2: a transformer, 1.2 dB without, 1.6 with; 4: 12.7 dB without, 11.2 with).
_BESIDE = (0, -1, 1)
_RATIOS = {2: (1.0, 0.85, 0.7, 0.55)}
# Values at a time.
_ROOM = 1 << 20


def half_quadratic(w: F32, spec: TensorSpec, start: QParams) -> QParams:
    """Return QParams with no more error in the norm of POWER under any scale.

    Args:
        w: a weight of any shape; finite.
        spec: how it is quantized; where that is symmetric, zero points stay.
        start: the start.
    """
    values = unfold(np.asarray(w, np.float32), spec.granularity)
    axes = scaled_axes(spec.granularity, w.ndim)
    rows = np.moveaxis(values, axes, range(-len(axes), 0)).reshape(start.scale.size, -1)
    scale = start.scale.reshape(-1, 1).copy()
    zero = start.zero_point.reshape(-1, 1).astype(np.float32)
    step = max(1, _ROOM // max(rows.shape[1], 1))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        scale[part], zero[part] = _fitted(rows[part], scale[part], zero[part], spec)
    shape = start.scale.shape
    return QParams(scale.reshape(shape), zero.reshape(shape).astype(np.int64))


def lost(v: F32, scale: F32, zero: F32, qtype: QType) -> F64:
    """The error that is minimized. v [S, K]; scale, zero [S, 1] -> [S, 1]."""
    error = np.abs(v - _centred(v, scale, zero, qtype) * scale)
    return np.asarray((error**POWER).sum(axis=1, keepdims=True, dtype=np.float64))


def _centred(v: F32, scale: F32, zero: F32, qtype: QType) -> F32:
    """Return the nearest integers, less the zero point."""
    return np.asarray(np.clip(np.rint(v / scale) + zero, qtype.qmin, qtype.qmax) - zero, np.float32)


@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _fitted(v: F32, scale: F32, zero: F32, spec: TensorSpec) -> tuple[F32, F32]:
    """Fit scales and zero points. v [S, K]; scale, zero [S, 1] -> scale, zero.

    A fit that is not finite is never better, so it is dropped.
    """
    qtype = spec.qtype
    best, least = (scale, zero), lost(v, scale, zero, qtype)

    def keep(scale: F32, zero: F32) -> None:
        nonlocal best, least
        error = lost(v, scale, zero, qtype)
        better = error < least
        best = np.where(better, scale, best[0]), np.where(better, zero, best[1])
        least = np.where(better, error, least)

    for ratio in _RATIOS.get(qtype.bits, (1.0,)):
        for beside in (0,) if spec.symmetric else _BESIDE:
            shorter = np.clip(scale * np.float32(ratio), SMALLEST_SCALE, LARGEST_SCALE)
            keep(shorter, np.clip(zero + np.float32(beside), qtype.qmin, qtype.qmax))
    scale, zero = best
    for turn in range(_TURNS):
        q = _centred(v, scale, zero, qtype)
        error = (v - q * scale) / scale
        size = np.abs(error)
        aside = np.sign(error) * np.maximum(size - size ** (POWER - 1) / (_BETA * _GROWTH**turn), 0)
        energy = np.square(q).sum(axis=1, keepdims=True)
        fitted = (q * (v - aside * scale)).sum(axis=1, keepdims=True) / np.where(energy > 0, energy, 1)
        usable = (fitted > SMALLEST_SCALE) & (fitted < LARGEST_SCALE)
        scale = np.where(usable, fitted, scale).astype(np.float32)
        keep(scale, zero)
    return best
