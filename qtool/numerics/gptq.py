"""GPTQ: round weights so that the errors of later columns compensate for those of earlier ones.

Frantar et al. 2022 (arXiv 2210.17323) round the weights of a layer column by column, and add the error of
each to the columns that are still to be rounded. This is the form that Chee et al. 2023 (QuIP, arXiv
2307.13304, theorem 6) prove to be the same: with H = (U + I) D (U + I)^T, U
strictly upper triangular and D diagonal, column k is rounded to the nearest of
w_k + sum_{j<k} (w_j - q_j) U_jk. That takes one Cholesky factor of H, and no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import F32, F64
from qtool.tables.qtypes import QType

Integers = NDArray[np.int16]

# Columns that are updated together, by one product of matrices (section 3.3 of the paper).
_BLOCK = 128
# Of the mean of H's diagonal, added to it (section 3.3): H of few samples has no inverse. The paper's 0.01
# costs 2 to 8 dB where most rows are padding, and gains others 0.3 at most.
DAMPING = 0.05
# Bytes of rows at a time, in float64: rows are independent of each other.
_ROOM = 16 << 20


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that each weight may take: (q - zero) * scale, qmin <= q <= qmax.

    Args:
        scale: float32 [G, O, B]: of O rows in each of G groups, for B runs of columns of the same length.
        zero: integers of the same shape.
        qtype: of 2 to 8 bits.
    """

    scale: F32
    zero: NDArray[np.integer]
    qtype: QType

    def wide(self, columns: int) -> Grid:
        """Return the grid with a scale for every column."""
        size = columns // self.scale.shape[2]
        return Grid(np.repeat(self.scale, size, axis=2), np.repeat(self.zero, size, axis=2), self.qtype)

    def rows(self, part: slice) -> Grid:
        """Return the grid of some rows."""
        return Grid(self.scale[:, part], self.zero[:, part], self.qtype)

    def sorted(self, order: NDArray[np.intp]) -> Grid:
        """Return a wide grid with its columns in another order [G, K]."""
        there = order[:, None, :]
        return Grid(
            np.take_along_axis(self.scale, there, 2), np.take_along_axis(self.zero, there, 2), self.qtype
        )

    def nearest(self, w: NDArray[np.floating]) -> Integers:
        """Return the nearest integers, ties to even, as ONNX QuantizeLinear does. w: [G, O, K]."""
        wide = self.wide(w.shape[2])
        with np.errstate(over="ignore"):
            q = np.rint(np.asarray(w, np.float32) / wide.scale) + wide.zero
        return np.asarray(np.clip(q, self.qtype.qmin, self.qtype.qmax), np.int16)

    def restored(self, q: NDArray[np.integer]) -> F32:
        """Return the reals of integers, as ONNX DequantizeLinear does. q: [G, O, K]."""
        wide = self.wide(q.shape[2])
        return np.asarray((q - wide.zero).astype(np.float32) * wide.scale, np.float32)


@dataclass(frozen=True, eq=False)
class Hessian:
    """The effect of weight errors on the results of a layer, and the share that later columns compensate.

    Args:
        h: float64 [G, K, K]: the sum of x x^T over the inputs of each group.
        order: [G, K]: the order of the columns, the largest diagonal of H first (`act-order` of the authors'
            code): all others are still free to compensate for those.
        u: float64 [G, K, K], in that order: U transposed, strictly lower triangular.
        cost: float64 [G, K]: D, the cost of an error in a column after compensation. Not in that order.
    """

    h: F64
    order: NDArray[np.intp]
    u: F64
    cost: F64

    def objective(self, error: NDArray[np.floating]) -> F64:
        """Return e H e^T of each row. error: [G, O, K] -> [G, O] float64."""
        e = error.astype(np.float64)
        return np.asarray(np.einsum("gok,gok->go", np.matmul(e, self.h), e))

    def difference(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> F64:
        """Return a H a^T - b H b^T of each row, by one product: H is symmetric. [G, O, K] -> [G, O]."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        return np.asarray(np.einsum("gok,gok->go", np.matmul(x - y, self.h), x + y))


def hessian(h: F64) -> Hessian:
    """Return the damped Hessian of sums [G, K, K]; one that is not finite or positive compensates nothing."""
    finite = np.isfinite(h).all(axis=(1, 2), keepdims=True)
    h = h if finite.all() else np.where(finite, h, 0.0)
    diagonal = np.diagonal(h, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    mean = diagonal.mean(axis=1)
    size = np.where(mean > 0, mean, 1.0)[:, None]
    # H = V V^T with V upper triangular: the Cholesky factor of H read from its other end.
    back, k = order[:, ::-1], h.shape[1]
    turned = h[np.arange(len(h))[:, None, None], back[:, :, None], back[:, None, :]]
    turned /= size[..., None]
    turned[:, range(k), range(k)] += np.where(mean > 0, DAMPING, 1.0)[:, None]
    try:
        factor = np.linalg.cholesky(turned)
    except np.linalg.LinAlgError:
        factor = np.broadcast_to(np.eye(k), turned.shape)
    del turned
    v = factor[:, ::-1, ::-1].swapaxes(1, 2)
    pivots = np.diagonal(v, axis1=1, axis2=2)
    u = np.divide(v, pivots[:, :, None], order="C")
    u[:, range(k), range(k)] = 0.0
    cost = np.take_along_axis(np.square(pivots) * size, np.argsort(order, axis=1), 1)
    return Hessian(h, order, u, cost)


def gptq(w: F32, on: Hessian, grid: Grid) -> Integers:
    """Return integers for the weights of a layer, with no row worse on the objective than the nearest.

    Rounded to nearest: columns whose inputs are all 0, groups whose H is not finite, and layers with an H
    that is not positive (a sum of squares is).

    Args:
        w: [G, O, K] float32: G groups of O rows; finite.
        on: the Hessian of the layer.
        grid: the values that weights may take.

    Returns:
        [G, O, K] int16.
    """
    result = np.empty(w.shape, np.int16)
    step = max(1, _ROOM // (8 * w.shape[0] * w.shape[2]))
    for start in range(0, w.shape[1], step):
        part = slice(start, start + step)
        result[:, part] = _better(w[:, part], on, grid.rows(part))
    return result


def _better(w: F32, on: Hessian, grid: Grid) -> Integers:
    """Return, row by row, the better of GPTQ's integers and the nearest."""
    sorted_w = np.take_along_axis(w, on.order[:, None, :], 2)
    q = _rounded(sorted_w, on.u, grid.wide(w.shape[2]).sorted(on.order))
    q = np.take_along_axis(q, np.argsort(on.order, axis=1)[:, None, :], 2)
    nearest = grid.nearest(w)
    better = on.difference(w - grid.restored(q), w - grid.restored(nearest)) < 0
    return np.where(better[..., None], q, nearest)


def _rounded(w: F32, u: F64, grid: Grid) -> Integers:
    """Round column by column, in blocks. w and a wide grid: [G, O, K] in the order of u [G, K, K]."""
    groups, rows, columns = w.shape
    wt = np.ascontiguousarray(w.swapaxes(1, 2), np.float64)
    scale = np.ascontiguousarray(grid.scale.swapaxes(1, 2))
    zero = np.ascontiguousarray(grid.zero.swapaxes(1, 2), np.int16)
    q = np.empty((groups, columns, rows), np.int16)
    error = np.zeros((groups, columns, rows))
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        fed = wt[:, start:stop] + np.matmul(u[:, start:stop, :start], error[:, :start])
        for k in range(start, stop):
            wanted = fed[:, k - start] + np.matmul(u[:, None, k, start:k], error[:, start:k])[:, 0]
            near = np.rint(wanted / scale[:, k]) + zero[:, k]
            q[:, k] = np.clip(near, grid.qtype.qmin, grid.qtype.qmax)
            error[:, k] = wt[:, k] - (q[:, k] - zero[:, k]).astype(np.float32) * scale[:, k]
    return q.swapaxes(1, 2)
