"""Statistics of a tensor over samples. Merging is exact, so order and machine do not matter."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from qtool.calibration.histogram import Histogram

UNIT = 149
"""Every float32 is a multiple of 2**-UNIT."""
LOG_UNIT = 1 << 20
"""Logarithms are summed in units of 1 / LOG_UNIT: 250,000 elements of any magnitude fit 64 bits."""


@dataclass(frozen=True)
class Range:
    """The statistics of one tensor.

    Args:
        lo, hi: the least and the greatest value, without masks.
        count: number of elements.
        masked: number of them that were -inf or beyond 1e30, as masks are.
        log_sum, log_count: sum, in units of 2**-20, and number of log2 |x| over a sample of the elements
            that are not 0.
        samples: number of arrays.
        lo_sum, hi_sum: sums of the least and the greatest value of each array, in units of 2**-149: sums of
            integers are exact in any order.
        histogram: of a sample of the elements; None where it was not collected.
        infinite: number of the masked elements that were -inf, which every float type has.
    """

    lo: float
    hi: float
    count: int
    masked: int
    log_sum: int
    log_count: int
    samples: int = 1
    lo_sum: int = 0
    hi_sum: int = 0
    histogram: Histogram | None = None
    infinite: int = 0

    def merge(self, other: Range) -> Range:
        """Return the statistics of both: exact, in any order. The histogram is lost where one has none."""
        histograms = self.histogram, other.histogram
        return Range(
            min(self.lo, other.lo),
            max(self.hi, other.hi),
            self.count + other.count,
            self.masked + other.masked,
            self.log_sum + other.log_sum,
            self.log_count + other.log_count,
            self.samples + other.samples,
            self.lo_sum + other.lo_sum,
            self.hi_sum + other.hi_sum,
            histograms[0].merge(histograms[1]) if histograms[0] and histograms[1] else None,
            self.infinite + other.infinite,
        )

    @property
    def mean_lo(self) -> float:
        """The mean over arrays of the least value."""
        return math.ldexp(self.lo_sum / self.samples, -UNIT)

    @property
    def mean_hi(self) -> float:
        """The mean over arrays of the greatest value."""
        return math.ldexp(self.hi_sum / self.samples, -UNIT)

    @property
    def typical(self) -> float:
        """The geometric mean of |x| over elements that are not 0; 0 if all are.

        Zero is exact in any range. Unlike the mean, it hardly depends on a few outliers.
        """
        return 2.0 ** (self.log_sum / LOG_UNIT / self.log_count) if self.log_count else 0.0


Ranges = dict[str, Range]

HUGE = 1e30
"""Elements beyond it are masks, which are -inf or -FLT_MAX; no activation is as large."""


def merged(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the statistics of every tensor in either."""
    both = {name: ranges[name].merge(others[name]) for name in ranges.keys() & others.keys()}
    return {**ranges, **others, **both}


def digest(ranges: Ranges) -> str:
    """Return a sha256 of the ranges, for the model's metadata."""
    lines = (f"{k}\t{r.lo!r}\t{r.hi!r}\t{r.count}\t{r.masked}" for k, r in sorted(ranges.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
