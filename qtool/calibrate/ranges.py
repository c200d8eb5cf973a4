"""Statistics of one tensor over samples; they merge, so order and machine do not matter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Range:
    """What was seen of one tensor.

    Args:
        lo, hi: the least and the greatest finite value.
        count: elements seen.
        nonzero: of them, those that are not 0.
        abs_sum: sum of |x| over finite elements, float64.
        infinite: elements that were +-inf or beyond 1e30 (masks are written so).
    """

    lo: float
    hi: float
    count: int
    nonzero: int
    abs_sum: float
    infinite: int = 0

    def merge(self, other: Range) -> Range:
        """Both seen together. Sums are rounded float64; lo, hi and counts are exact."""
        return Range(
            min(self.lo, other.lo),
            max(self.hi, other.hi),
            self.count + other.count,
            self.nonzero + other.nonzero,
            self.abs_sum + other.abs_sum,
            self.infinite + other.infinite,
        )

    @property
    def mean_magnitude(self) -> float:
        """The mean of |x| over the elements that are not 0 (0 is exact in any range); 0 if all are."""
        return self.abs_sum / self.nonzero if self.nonzero else 0.0


Ranges = dict[str, Range]

# Masks add -inf or -FLT_MAX; no honest activation comes near.
HUGE = 1e30


def observe(x: NDArray[np.floating]) -> Range | None:
    """The statistics of one array; None when it is empty or holds NaN (see `has_nan`)."""
    if not x.size:
        return None
    lo, hi = float(x.min()), float(x.max())
    if lo >= -HUGE and hi <= HUGE:
        return Range(lo, hi, x.size, int(np.count_nonzero(x)), float(np.abs(x).sum(dtype=np.float64)))
    finite = x[np.abs(x) <= HUGE]
    return Range(
        float(finite.min(initial=0.0)),
        float(finite.max(initial=0.0)),
        x.size,
        int(np.count_nonzero(finite)),
        float(np.abs(finite).sum(dtype=np.float64)),
        x.size - finite.size,
    )


def digest(ranges: Ranges) -> str:
    """A sha256 of the ranges, for the model's metadata."""
    lines = (f"{k}\t{r.lo!r}\t{r.hi!r}\t{r.count}\t{r.infinite}" for k, r in sorted(ranges.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
