"""Ranges of least expected squared error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.calibrate.histogram import Histogram
from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

F64 = NDArray[np.float64]
_ROUNDS = 8  # of searching one end while the other stays; two or three are enough


def mse(seen: Range, spec: TensorSpec) -> tuple[float, float]:
    """The ends, on bin edges, between which rounding and beyond which clipping cost least together.

    What lies within is wrong by step**2 / 12 on average (Widrow and Kollar 2008, chapter 5), what lies
    beyond by its distance squared. One end is searched while the other stays, until neither moves; a
    symmetric grid has but one.
    """
    histogram = seen.histogram
    if histogram is None or not histogram.total:
        return seen.lo, seen.hi
    steps = spec.qtype.qmax - spec.qtype.qmin
    if spec.symmetric:
        folded = _folded(histogram)
        ends = folded.edges()[1:]
        hi = float(ends[np.argmin(_one_sided(folded, 0.0, ends, steps / 2))])
        return max(-hi, seen.lo), min(hi, seen.hi)
    lo, hi = min(seen.lo, 0.0), max(seen.hi, 0.0)
    for _ in range(_ROUNDS):
        before = lo, hi
        hi = _best(histogram, lo, hi, steps, upper=True)
        lo = _best(histogram, lo, hi, steps, upper=False)
        if (lo, hi) == before:
            break
    return max(lo, seen.lo), min(hi, seen.hi)


def expected_error(histogram: Histogram, lo: float, hi: float, steps: float) -> float:
    """The mean squared error that a grid of so many steps from lo to hi would make, per element."""
    x, n = histogram.centers(), histogram.counts
    beyond = np.maximum(x - hi, 0.0) ** 2 + np.maximum(lo - x, 0.0) ** 2
    inside = (x >= lo) & (x <= hi)
    total = (n * beyond).sum() + n[inside].sum() * ((hi - lo) / steps) ** 2 / 12
    return float(total / max(1, histogram.total))


def _best(histogram: Histogram, lo: float, hi: float, steps: float, *, upper: bool) -> float:
    """The best place for one end while the other stays, among the edges on its side of zero, and zero."""
    side = histogram if upper else _mirrored(histogram)
    fixed, free = (lo, hi) if upper else (-hi, -lo)
    ends = side.edges()
    ends = ends[ends > 0]
    if not ends.size:
        return 0.0
    x = side.centers()
    inside_below = float(side.counts[(x < 0) & (x >= fixed)].sum())
    errors = _one_sided(_positive(side), fixed, ends, steps, inside_below)
    best = float(ends[np.argmin(errors)])
    best = min(best, free) if ends[-1] > free else best
    return best if upper else -best


def _one_sided(positive: Histogram, lo: float, ends: F64, steps: float, others: float = 0.0) -> F64:
    """The summed error for each upper end: of what is positive, and of `others` inside all the time."""
    x, n = positive.centers(), positive.counts.astype(np.float64)
    count, first, second = (np.cumsum(n * x**power) for power in (0, 1, 2))
    upto = np.clip(np.searchsorted(x, ends) - 1, -1, x.size - 1)
    within = np.where(upto >= 0, count[upto], 0.0)
    tail = [total[-1] - np.where(upto >= 0, total[upto], 0.0) for total in (count, first, second)]
    clipped = tail[2] - 2 * ends * tail[1] + ends**2 * tail[0]
    return np.asarray(clipped + (within + others) * ((ends - lo) / steps) ** 2 / 12)


def _positive(histogram: Histogram) -> Histogram:
    start = max(0, -histogram.first)
    return Histogram(histogram.exponent, max(0, histogram.first), histogram.counts[start:])


def _mirrored(histogram: Histogram) -> Histogram:
    last = histogram.first + histogram.counts.size - 1
    return Histogram(histogram.exponent, -last, histogram.counts[::-1])


def _folded(histogram: Histogram) -> Histogram:
    """The magnitudes."""
    above, below = _positive(histogram), _positive(_mirrored(histogram))
    if below.first == 0 and above.first == 0 and below.counts.size:  # bin 0 is in both
        below = Histogram(below.exponent, 1, below.counts[1:])
    size = max(above.first + above.counts.size, below.first + below.counts.size)
    counts = np.zeros(size, np.int64)
    for part in (above, below):
        counts[part.first : part.first + part.counts.size] += part.counts
    return Histogram(histogram.exponent, 0, counts)
