"""Half-quadratic quantization: scales and zero points of few bits by a norm that outliers weigh little in.

Badri & Shaji 2023 (https://mobiusml.github.io/hqq_blog/) minimize sum |w - (q - zero) * scale|^p, p < 1: by
turns, what a soft threshold for that norm takes of the error is put aside, and the rest is fitted by least
squares. Their zero point is a real number, and moves; here it is an integer, so that those near are tried,
and the scale moves.
"""

from __future__ import annotations

import numpy as np

from qtool.numerics.qparams import F32, F64, LARGEST_SCALE, SMALLEST_SCALE, QParams, scaled_axes, unfold
from qtool.tables.qtypes import QType, TensorSpec

# The authors' norm, and how much of an error is put aside: beta of the first turn, in steps, and its growth.
POWER = 0.7
_BETA, _GROWTH = 10.0, 1.01
_TURNS = 10
# Where the turns may begin: beside the given zero point, and of the given scale, where bits are so few that
# the norm is to decide it (2: a transformer, 1.2 dB without, 1.6 with; 4: 12.7 dB without, 11.2 with).
_BESIDE = (0, -1, 1)
_RATIOS = {2: (1.0, 0.85, 0.7, 0.55)}
# Values at work at a time.
_ROOM = 1 << 20


def half_quadratic(w: F32, spec: TensorSpec, given: QParams) -> QParams:
    """QParams of less error in the norm of POWER under every scale, or of as much.

    Args:
        w: a weight of any shape; finite.
        spec: how it is quantized; where that is symmetric, zero points stay.
        given: where to begin.
    """
    values = unfold(np.asarray(w, np.float32), spec.granularity)
    axes = scaled_axes(spec.granularity, w.ndim)
    rows = np.moveaxis(values, axes, range(-len(axes), 0)).reshape(given.scale.size, -1)
    scale = given.scale.reshape(-1, 1).copy()
    zero = given.zero_point.reshape(-1, 1).astype(np.float32)
    step = max(1, _ROOM // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale[part], zero[part] = _found(rows[part], scale[part], zero[part], spec)
    shape = given.scale.shape
    return QParams(scale.reshape(shape), zero.reshape(shape).astype(np.int64))


def lost(v: F32, scale: F32, zero: F32, qtype: QType) -> F64:
    """The error that is minimized. v [S, K]; scale, zero [S, 1] -> [S, 1]."""
    error = np.abs(v - _centred(v, scale, zero, qtype) * scale)
    return np.asarray((error**POWER).sum(axis=1, keepdims=True, dtype=np.float64))


def _centred(v: F32, scale: F32, zero: F32, qtype: QType) -> F32:
    """The nearest integers, less the zero point."""
    return np.asarray(np.clip(np.rint(v / scale) + zero, qtype.qmin, qtype.qmax) - zero, np.float32)


# What is not finite is no better, and not kept.
@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def _found(v: F32, scale: F32, zero: F32, spec: TensorSpec) -> tuple[F32, F32]:
    """v [S, K]; scale, zero [S, 1] -> the same of less error."""
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
