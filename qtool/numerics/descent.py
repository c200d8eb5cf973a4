"""Fit integers and scales of few bits: GPTQ, then coordinate descent.

GPTQ rounds each weight once, while those behind it are free. Further sweeps, which set each weight to the
best value with all others fixed (QuantEase, Behdin et al. 2023, arXiv 2309.01885), gain 0.3 dB for
transformers in 2 bits and 0.2 in 4.
"""

from __future__ import annotations

import numpy as np

from qtool.numerics.clip import refitted, searched
from qtool.numerics.gptq import DAMPING, Grid, Hessian, Integers, gptq
from qtool.numerics.qparams import F32, F64

# Columns that are updated together.
_BLOCK = 128
_SWEEPS = 3
# Bytes of rows at a time, in float64.
_ROOM = 16 << 20


def fitted(w: F32, on: Hessian, start: Grid, *, symmetric: bool) -> tuple[Integers, Grid]:
    """Return integers and scales of small e H e^T, no row worse than the nearest on the first grid.

    Args:
        w: [G, O, K] float32; finite.
        on: the Hessian of the layer.
        start: the start of the search.
        symmetric: whether the zero points stay.

    Returns:
        [G, O, K] int16, and a grid of the same shape as the first.
    """
    grid = searched(w, on, start, symmetric=symmetric)
    q = gptq(w, on, grid)
    grid = refitted(w, q, on, grid)
    q = descended(w, q, on, grid)
    grid = refitted(w, q, on, grid)
    nearest = start.nearest(w)
    error = on.objective(w - grid.restored(q))
    better = (error < on.objective(w - start.restored(nearest)))[..., None]
    scale, zero = np.where(better, grid.scale, start.scale), np.where(better, grid.zero, start.zero)
    return np.where(better, q, nearest), Grid(scale, zero, start.qtype)


def descended(w: F32, q: Integers, on: Hessian, grid: Grid, sweeps: int = _SWEEPS) -> Integers:
    """Return integers with no more e H e^T: each in turn is set to its best value with all others fixed.

    H is damped: with fewer samples than columns, errors that no sample shows would grow without limit.

    w: [G, O, K] float32, q: [G, O, K] -> [G, O, K] int16, on the same grid.
    """
    result = np.empty(q.shape, np.int16)
    h = damped(on.h)
    step = max(1, _ROOM // (8 * w.shape[0] * w.shape[2]))
    for start in range(0, w.shape[1], step):
        part = slice(start, start + step)
        result[:, part] = _swept(w[:, part], q[:, part], h, grid.rows(part), sweeps)
    return result


def damped(h: F64) -> F64:
    """Return H [G, K, K] with the damping of `hessian`."""
    mean = np.diagonal(h, axis1=1, axis2=2).mean(axis=1)
    return np.asarray(h + DAMPING * mean[:, None, None] * np.eye(h.shape[1]))


def _swept(w: F32, q: Integers, h: F64, grid: Grid, sweeps: int) -> Integers:
    """Set columns one by one, in blocks; `pull` is e H, from which the best step of a weight follows."""
    columns = w.shape[2]
    wide = grid.wide(columns)
    scale, zero = (np.ascontiguousarray(a.swapaxes(1, 2), np.float64) for a in (wide.scale, wide.zero))
    qt = np.ascontiguousarray(q.swapaxes(1, 2), np.float64)
    pull = np.matmul(h, w.swapaxes(1, 2) - (qt - zero) * scale)
    diagonal = np.diagonal(h, axis1=1, axis2=2)
    curve = np.where(diagonal > 0, diagonal, np.inf)[:, :, None] * scale
    for _ in range(sweeps):
        before = qt.copy()
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            moved = np.zeros((len(w), stop - start, w.shape[1]))
            for k in range(start, stop):
                fed = pull[:, k] - np.matmul(h[:, None, k, start:k], moved[:, : k - start])[:, 0]
                new = np.clip(np.rint(qt[:, k] + fed / curve[:, k]), grid.qtype.qmin, grid.qtype.qmax)
                moved[:, k - start] = (new - qt[:, k]) * scale[:, k]
                qt[:, k] = new
            pull -= np.matmul(h[:, :, start:stop], moved)
        if np.array_equal(before, qt):
            break
    return qt.swapaxes(1, 2).astype(np.int16)
