"""Ranges that keep most of the information."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

F64 = NDArray[np.float64]
# Counts that stand for none, where a bin at the end holds nothing but what was clipped onto it.
_LEAST = 1e-6


def entropy(seen: Range, spec: TensorSpec) -> tuple[float, float]:
    """The clip of least Kullback-Leibler divergence between the values and what the grid makes of them.

    Every clip t on a bin's edge from as many bins as the grid has levels on is tried; the range is all
    that was seen within -t..t. P is the histogram with what is clipped counted at the ends, Q the mean of
    each step's bins where P has any (Migacz 2017, 8-bit inference with TensorRT, GTC S7310).
    """
    histogram = seen.histogram
    if histogram is None or not histogram.total:
        return seen.lo, seen.hi
    levels = spec.qtype.qmax - spec.qtype.qmin + 1
    counts = histogram.counts.astype(np.float64)
    if (
        0 < -histogram.first + 1 < counts.size
    ):  # zeros are exact on any grid: what they are many of says nothing
        counts[-histogram.first] = counts[-histogram.first + 1]
    first, size = histogram.first, counts.size
    reach = max(-first + 1, first + size)
    best, least = reach, np.inf
    for t in range(max(1, levels // 2), reach + 1):
        start, stop = max(0, 1 - t - first), min(size, t - first)
        if stop <= start or (t < reach and (start, stop) == (0, size)):
            continue
        divergence = _divergence(counts, start, stop, levels)
        if divergence < least:
            best, least = t, divergence
    width = histogram.width
    return max(-best * width, seen.lo), min(best * width, seen.hi)


def _divergence(counts: F64, start: int, stop: int, levels: int) -> float:
    """KL(P || Q) in nats for the bins from start to stop on a grid of so many levels over them."""
    inside = counts[start:stop]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    bins = np.arange(inside.size)
    cells = bins * levels // inside.size if inside.size > levels else bins
    used = p > 0
    means = np.bincount(cells, inside) / np.maximum(np.bincount(cells, used), 1)
    q = np.where(used, np.maximum(means[cells], _LEAST), 0.0)[used]
    p = p[used]
    return float((p * np.log(p / q)).sum() / p.sum() - np.log(p.sum() / q.sum()))
