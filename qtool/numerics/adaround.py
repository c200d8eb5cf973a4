"""AdaRound: learn whether to round each weight up or down, by the error of the layer's output.

Nagel et al. 2020 (arXiv 2004.10568, equation 21): minimize ||W x - W~ x||^2 + lambda sum 1 - |2 h - 1|^beta
over V, W~ = scale (floor(W / scale) + h), with the rectified sigmoid h = clip(sigmoid(V) 1.2 - 0.1, 0, 1) and
beta falling from 20 to 2. The error of the layer depends on the samples only through H = sum x x^T: a step is
one product of matrices, over all samples.
"""

from __future__ import annotations

import numpy as np

from qtool.numerics.gptq import Grid, Hessian, Integers
from qtool.numerics.qparams import F32

_STEPS = 600
# The share of steps before the regularizer pulls h to 0 or 1 (the authors' code: a fifth).
_FREE = 0.2
_BETA = (20.0, 2.0)
_STRETCH = 1.2
_RATE = 0.05
# The weight of the regularizer, where the mean row starts with an error of 1.
_PULL = 0.1
_DECAY = (0.9, 0.999)
# Bytes of the learned values at a time; there are some six copies of them.
_ROOM = 8 << 20


def adaround(w: F32, on: Hessian, grid: Grid, start: Integers) -> Integers:
    """Return integers for the weights of a layer, with no row worse on the objective than its start.

    Args:
        w: [G, O, K] float32: G groups of O rows; finite.
        on: the Hessian of the layer.
        grid: the values that weights may take.
        start: [G, O, K]: the integers where learning begins, such as those of GPTQ.

    Returns:
        [G, O, K] int16.
    """
    best = np.array(start, np.int16)
    step = max(1, _ROOM // (4 * w.shape[0] * w.shape[2]))
    for first in range(0, w.shape[1], step):
        part = slice(first, first + step)
        learned = _learned(w[:, part], on, grid.rows(part), start[:, part])
        before = on.objective(w[:, part] - grid.rows(part).restored(start[:, part]))
        after = on.objective(w[:, part] - grid.rows(part).restored(learned))
        best[:, part] = np.where((after < before)[..., None], learned, start[:, part])
    return best


def _learned(w: F32, on: Hessian, grid: Grid, start: Integers) -> Integers:
    wide = grid.wide(w.shape[2])
    scale, zero = wide.scale, wide.zero
    low = np.clip(np.floor(w / scale) + zero, grid.qtype.qmin, grid.qtype.qmax - 1)
    # A start beyond the two nearest integers stays.
    able = (start == low) | (start == low + 1)
    low = np.where(able, low, start).astype(np.float32)
    share = np.clip(w / scale + zero - low, 0.05, 0.95)
    share = np.where(start > low, np.maximum(share, 0.55), np.minimum(share, 0.45))
    v = _inverse(share)
    h = on.h.astype(np.float32)
    fixed = (low - zero) * scale - w
    size = float(np.mean(on.objective((start - zero) * scale - w))) or 1.0
    moments = [np.zeros_like(v), np.zeros_like(v)]
    for number in range(1, _STEPS + 1):
        soft, slope = _rectified(v)
        soft = np.where(able, soft, 0)
        gradient = 2 / size * np.matmul(fixed + soft * scale, h) * scale
        done = (number / _STEPS - _FREE) / (1 - _FREE)
        if done > 0:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * done)) / 2
            off = 2 * soft - 1
            gradient -= _PULL * 2 * beta * np.sign(off) * np.abs(off) ** (beta - 1)
        _adam(v, gradient * slope * able, moments, number)
    return np.asarray(np.where(able, low + (_rectified(v)[0] >= 0.5), start), np.int16)


def _adam(v: F32, gradient: F32, moments: list[F32], number: int) -> None:
    """Take a step of Adam (Kingma and Ba 2015, algorithm 1), in place."""
    for moment, decay, power in zip(moments, _DECAY, (gradient, gradient * gradient), strict=True):
        moment *= decay
        moment += (1 - decay) * power
    first, second = (m / (1 - d**number) for m, d in zip(moments, _DECAY, strict=True))
    v -= _RATE * first / (np.sqrt(second) + 1e-8)


def _rectified(v: F32) -> tuple[F32, F32]:
    """Return h(V) and its derivative."""
    sigmoid = 1 / (1 + np.exp(-v))
    wide = sigmoid * _STRETCH - (_STRETCH - 1) / 2
    inside = (wide > 0) & (wide < 1)
    return np.clip(wide, 0, 1), np.where(inside, sigmoid * (1 - sigmoid) * _STRETCH, 0).astype(np.float32)


def _inverse(share: F32) -> F32:
    """Return the V at which h(V) is a share."""
    sigmoid = (share + (_STRETCH - 1) / 2) / _STRETCH
    return np.asarray(np.log(sigmoid / (1 - sigmoid)), np.float32)
