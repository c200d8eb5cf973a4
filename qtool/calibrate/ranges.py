"""Statistics of one tensor over samples; they merge, so order and machine do not matter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A stride brings large activations down to about this many elements for the typical magnitude.
_SAMPLED = 16_384


@dataclass(frozen=True)
class Range:
    """What was seen of one tensor.

    Args:
        lo, hi: the least and the greatest value, masks left out.
        count: elements seen.
        masked: of them, those that were +-inf or beyond 1e30 (masks are written so).
        log_sum, log_count: sum and number of log2 |x| over a sample of the elements that are not 0.
    """

    lo: float
    hi: float
    count: int
    masked: int
    log_sum: float
    log_count: int

    def merge(self, other: Range) -> Range:
        """Both seen together. The sum is rounded float64; the rest is exact."""
        return Range(
            min(self.lo, other.lo),
            max(self.hi, other.hi),
            self.count + other.count,
            self.masked + other.masked,
            self.log_sum + other.log_sum,
            self.log_count + other.log_count,
        )

    @property
    def typical(self) -> float:
        """The geometric mean of |x| over elements that are not 0; 0 if all are.

        Zero is exact in any range. Unlike the mean, it is not carried away by a few outliers, nor by a
        mask that half of the elements wear.
        """
        return float(2.0 ** (self.log_sum / self.log_count)) if self.log_count else 0.0


Ranges = dict[str, Range]

# Masks add -inf or -FLT_MAX; no honest activation comes near.
HUGE = 1e30


def observe(x: NDArray[np.floating]) -> Range | None:
    """The statistics of one array; None when it is empty. lo is nan when it holds NaN."""
    if not x.size:
        return None
    if x.dtype == np.float16:
        x = x.astype(np.float32)  # which can hold HUGE
    lo, hi = float(x.min()), float(x.max())
    masked = 0
    if lo < -HUGE or hi > HUGE:
        kept = x[np.abs(x) <= HUGE]
        masked = x.size - kept.size
        lo, hi = float(kept.min(initial=0.0)), float(kept.max(initial=0.0))
        x = kept
    sampled = np.abs(x.reshape(-1)[:: max(1, x.size // _SAMPLED)])
    logs = np.log2(sampled[sampled > 0], dtype=np.float64)
    return Range(lo, hi, x.size + masked, masked, float(logs.sum()), logs.size)


def digest(ranges: Ranges) -> str:
    """A sha256 of the ranges, for the model's metadata."""
    lines = (f"{k}\t{r.lo!r}\t{r.hi!r}\t{r.count}\t{r.masked}" for k, r in sorted(ranges.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
