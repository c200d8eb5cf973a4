"""Match the rows of two arrays whose order and number may differ, such as the boxes of a detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]

# Rows that differ by more of their length are not the same row.
_FARTHEST = 0.25
# Rows of a block.
_MOST_ROWS = 512


def match_rows(a: NDArray[Any], b: NDArray[Any]) -> tuple[Indices, Indices]:
    """Return the indices in `a` and in `b` of rows that are the same, in the order of `a`.

    Integers, bools and strings match where they are equal. Floats match where each is the other's nearest row
    among those that are left, no farther than a quarter of the length of the row in `a`. Many of them are
    matched in blocks, in order: every row with every other would take too long.

    Args:
        a, b: arrays of one rank; a row is an index of axis 0.
    """
    x, y = (v.reshape(len(v), math.prod(v.shape[1:])) for v in (a, b))
    if x.shape[1] != y.shape[1]:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    if a.dtype.kind != "f":
        pairs = _equal(x, y)
    else:
        pairs, blocks = [], max(1, -(-max(len(x), len(y)) // _MOST_ROWS))
        for k in range(blocks):
            (i, i_end), (j, j_end) = ((len(v) * k // blocks, len(v) * (k + 1) // blocks) for v in (x, y))
            near = _near(x[i:i_end].astype(np.float64), y[j:j_end].astype(np.float64))
            pairs += [(i + first, j + second) for first, second in near]
    pairs.sort()
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    return np.array(first, np.intp), np.array(second, np.intp)


def _equal(x: NDArray[Any], y: NDArray[Any]) -> list[tuple[int, int]]:
    """Return pairs of equal rows; of several equal ones each is taken once."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for j in reversed(range(len(y))):
        places.setdefault(tuple(y[j].tolist()), []).append(j)
    pairs = []
    for i, row in enumerate(x.tolist()):
        if left := places.get(tuple(row)):
            pairs.append((i, left.pop()))
    return pairs


def _near(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of rows that are each other's nearest, then the same of the rest."""
    pairs: list[tuple[int, int]] = []
    if not x.size or not y.size:
        return pairs
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.square(x).sum(axis=1)
        squares = lengths[:, None] + np.square(y).sum(axis=1) - 2 * (x @ y.T)
        farthest = np.square(_FARTHEST) * lengths[:, None]
        squares = np.where(squares <= farthest, np.maximum(squares, 0), np.inf)  # also where not finite
    rows = np.arange(len(x))
    while True:
        nearest = squares.argmin(axis=1)
        mutual = (squares.argmin(axis=0)[nearest] == rows) & np.isfinite(squares[rows, nearest])
        if not mutual.any():
            return pairs
        pairs += zip(rows[mutual].tolist(), nearest[mutual].tolist(), strict=True)
        squares[mutual] = np.inf
        squares[:, nearest[mutual]] = np.inf
