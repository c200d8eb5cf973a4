"""Range estimators: from the statistics of a tensor to the range that its grid should span.

Each takes the statistics and the grid that they are for, and returns (lo, hi); the caller makes sure that
zero is representable.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qtool.calibration.histogram import Histogram
from qtool.calibration.ranges import Range
from qtool.tables.qtypes import TensorSpec

F64 = NDArray[np.float64]
Estimator = Callable[[Range, TensorSpec], tuple[float, float]]

KEPT = 0.9999
"""The share of the elements that `percentile` keeps, as TensorRT and onnxruntime do; either end loses half of
the rest."""
WORTH = 0.6
"""The share of the expected error of no clipping below which `auto` clips. Clipped elements are rare, and
later layers may depend on them: at 1 (`mse`) three of ten models lose by clipping; at 0.6 two do, one of them
less (docs/calibration.md), and the others gain as much."""

_LEAST_COUNT = 1e-6  # stands for zero, where the bin at an end holds only what was clipped onto it
_ROUNDS = 8  # of searching one end while the other stays; two or three are enough


def minmax(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the observed extremes."""
    return observed.lo, observed.hi


def moving_average(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the means over samples of each sample's extremes; the order of samples does not matter."""
    return observed.mean_lo, observed.mean_hi


def percentile(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the range of KEPT of the elements, to the nearest bin outwards."""
    histogram = observed.histogram
    if histogram is None or not histogram.total:
        return observed.lo, observed.hi
    beyond = (1 - KEPT) / 2 * histogram.total
    edges, counts = histogram.edges(), histogram.counts
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    lo = edges[np.searchsorted(below, beyond, side="right")]
    hi = edges[counts.size - np.searchsorted(above, beyond, side="right")]
    return max(float(lo), observed.lo), min(float(hi), observed.hi)


def entropy(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the clip of least Kullback-Leibler divergence between the values and their quantized form.

    Every clip t on the edge of a bin is tried, from as many bins as the grid has levels; the range is what
    was observed within -t..t. P is the histogram with clipped values counted at the ends, Q the mean of each
    step's bins where P has any (Migacz 2017, 8-bit inference with TensorRT, GTC S7310).
    """
    histogram = observed.histogram
    if histogram is None or not histogram.total:
        return observed.lo, observed.hi
    levels = spec.qtype.qmax - spec.qtype.qmin + 1
    counts = histogram.counts.astype(np.float64)
    if 0 < -histogram.first + 1 < counts.size:
        # Zeros are exact on any grid: their number is no reason for or against a clip.
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
    return max(-best * width, observed.lo), min(best * width, observed.hi)


def _divergence(counts: F64, start: int, stop: int, levels: int) -> float:
    """Return KL(P || Q) in nats for the bins from start to stop, on a grid of `levels` levels over them."""
    inside = counts[start:stop]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    bins = np.arange(inside.size)
    cells = bins * levels // inside.size if inside.size > levels else bins
    used = p > 0
    means = np.bincount(cells, inside) / np.maximum(np.bincount(cells, used), 1)
    q = np.where(used, np.maximum(means[cells], _LEAST_COUNT), 0.0)[used]
    p = p[used]
    return float((p * np.log(p / q)).sum() / p.sum() - np.log(p.sum() / q.sum()))


def mse(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the range, on bin edges, of least expected squared error by rounding and clipping together.

    The squared error of an element within is step**2 / 12 on average (Widrow and Kollar 2008, chapter 5),
    that of one beyond its distance squared. One end is searched while the other stays, until neither moves; a
    symmetric grid has one end.
    """
    histogram = observed.histogram
    if histogram is None or not histogram.total:
        return observed.lo, observed.hi
    steps = spec.qtype.qmax - spec.qtype.qmin
    if spec.symmetric:
        magnitudes = _magnitudes(histogram)
        ends = magnitudes.edges()[1:]
        hi = float(ends[np.argmin(_one_sided_errors(magnitudes, 0.0, ends, steps / 2))])
        return max(-hi, observed.lo), min(hi, observed.hi)
    lo, hi = min(observed.lo, 0.0), max(observed.hi, 0.0)
    for _ in range(_ROUNDS):
        before = lo, hi
        hi = _best_end(histogram, lo, hi, steps, upper=True)
        lo = _best_end(histogram, lo, hi, steps, upper=False)
        if (lo, hi) == before:
            break
    return max(lo, observed.lo), min(hi, observed.hi)


def expected_error(histogram: Histogram, lo: float, hi: float, steps: float) -> float:
    """Return the mean squared error of a grid of `steps` steps from lo to hi, per element."""
    x, n = histogram.centers(), histogram.counts
    beyond = np.maximum(x - hi, 0.0) ** 2 + np.maximum(lo - x, 0.0) ** 2
    inside = (x >= lo) & (x <= hi)
    total = (n * beyond).sum() + n[inside].sum() * ((hi - lo) / steps) ** 2 / 12
    return float(total / max(1, histogram.total))


def _best_end(histogram: Histogram, lo: float, hi: float, steps: float, *, upper: bool) -> float:
    """Return the best place for one end while the other stays: an edge on its side of zero, or zero."""
    side = histogram if upper else _mirrored(histogram)
    fixed, free = (lo, hi) if upper else (-hi, -lo)
    ends = side.edges()
    ends = ends[ends > 0]
    if not ends.size:
        return 0.0
    x = side.centers()
    inside_below = float(side.counts[(x < 0) & (x >= fixed)].sum())
    errors = _one_sided_errors(_positive(side), fixed, ends, steps, inside_below)
    best = float(ends[np.argmin(errors)])
    best = min(best, free) if ends[-1] > free else best
    return best if upper else -best


def _one_sided_errors(positive: Histogram, lo: float, ends: F64, steps: float, others: float = 0.0) -> F64:
    """Return the summed error for each upper end: of the positive elements, and of `others` always inside."""
    x, n = positive.centers(), positive.counts.astype(np.float64)
    count, first, second = (np.cumsum(n * x**power) for power in (0, 1, 2))
    upto = np.clip(np.searchsorted(x, ends) - 1, -1, x.size - 1)
    within = np.where(upto >= 0, count[upto], 0.0)
    tail = [total[-1] - np.where(upto >= 0, total[upto], 0.0) for total in (count, first, second)]
    clipped = tail[2] - 2 * ends * tail[1] + ends**2 * tail[0]
    return np.asarray(clipped + (within + others) * ((ends - lo) / steps) ** 2 / 12)


def _positive(histogram: Histogram) -> Histogram:
    """Return the histogram of the elements that are not negative."""
    start = max(0, -histogram.first)
    return Histogram(histogram.exponent, max(0, histogram.first), histogram.counts[start:])


def _mirrored(histogram: Histogram) -> Histogram:
    """Return the histogram of the negated elements."""
    last = histogram.first + histogram.counts.size - 1
    return Histogram(histogram.exponent, -last, histogram.counts[::-1])


def _magnitudes(histogram: Histogram) -> Histogram:
    """Return the histogram of the magnitudes."""
    above, below = _positive(histogram), _positive(_mirrored(histogram))
    if below.first == 0 and above.first == 0 and below.counts.size:  # bin 0 is in both
        below = Histogram(below.exponent, 1, below.counts[1:])
    size = max(above.first + above.counts.size, below.first + below.counts.size)
    counts = np.zeros(size, np.int64)
    for part in (above, below):
        counts[part.first : part.first + part.counts.size] += part.counts
    return Histogram(histogram.exponent, 0, counts)


def auto(observed: Range, spec: TensorSpec) -> tuple[float, float]:
    """Return the range of the estimator with the least expected error, tensor by tensor.

    The extremes stay unless another range is expected to be wrong by less than WORTH of theirs in the mean
    square, and where there is no histogram.
    """
    histogram = observed.histogram
    if histogram is None or not histogram.total:
        return minmax(observed, spec)
    ranges = [estimator(observed, spec) for estimator in (moving_average, percentile, entropy, mse)]
    best = min(ranges, key=lambda ends: _grid_error(histogram, ends, spec))
    gains = _grid_error(histogram, best, spec) < WORTH * _grid_error(histogram, minmax(observed, spec), spec)
    return best if gains else minmax(observed, spec)


def _grid_error(histogram: Histogram, ends: tuple[float, float], spec: TensorSpec) -> float:
    """Return the expected error of the grid that spans these ends and zero, symmetric where the spec is."""
    lo, hi = min(ends[0], 0.0), max(ends[1], 0.0)
    if spec.symmetric:
        lo, hi = -max(-lo, hi), max(-lo, hi)
    return expected_error(histogram, lo, hi, spec.qtype.qmax - spec.qtype.qmin)


ESTIMATORS: dict[str, Estimator] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
    "auto": auto,
}
"""The estimators by their names in tables/methods.py."""
