"""Statistics of one tensor over samples; they merge, so order and machine do not matter."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from qtool.calibrate.histogram import Histogram

# Every float32 is a whole number of 2**-149.
UNIT = 149
# Of sums of logarithms: a quarter of a million elements of any magnitude fit 64 bits.
LOG_UNIT = 1 << 20


@dataclass(frozen=True)
class Range:
    """What was seen of one tensor.

    Args:
        lo, hi: the least and the greatest value, masks left out.
        count: elements seen.
        masked: of them, those that were -inf or beyond 1e30 (masks are written so).
        log_sum, log_count: sum, in units of 2**-20, and number of log2 |x| over a sample of the elements
            that are not 0.
        samples: how many arrays that was.
        lo_sum, hi_sum: of the least and greatest value of each array, in units of 2**-149. Integers add up
            exactly, whatever the order.
        histogram: how many of a sample of the elements lie where; None where nobody asked for it.
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

    def merge(self, other: Range) -> Range:
        """Both seen together: exact, and the same in any order. A histogram that one lacks is lost."""
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
        )

    @property
    def mean_lo(self) -> float:
        """The mean of each array's least value."""
        return math.ldexp(self.lo_sum / self.samples, -UNIT)

    @property
    def mean_hi(self) -> float:
        """The mean of each array's greatest value."""
        return math.ldexp(self.hi_sum / self.samples, -UNIT)

    @property
    def typical(self) -> float:
        """The geometric mean of |x| over elements that are not 0; 0 if all are.

        Zero is exact in any range. Unlike the mean, it is not carried away by a few outliers, nor by a
        mask that half of the elements wear.
        """
        return 2.0 ** (self.log_sum / LOG_UNIT / self.log_count) if self.log_count else 0.0


Ranges = dict[str, Range]

# Masks add -inf or -FLT_MAX; no honest activation comes near.
HUGE = 1e30


def merged(ranges: Ranges, others: Ranges) -> Ranges:
    """What was seen of every tensor, by either."""
    both = {name: ranges[name].merge(others[name]) for name in ranges.keys() & others.keys()}
    return {**ranges, **others, **both}


def digest(ranges: Ranges) -> str:
    """A sha256 of the ranges, for the model's metadata."""
    lines = (f"{k}\t{r.lo!r}\t{r.hi!r}\t{r.count}\t{r.masked}" for k, r in sorted(ranges.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
