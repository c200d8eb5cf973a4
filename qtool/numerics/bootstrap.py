"""How sure a median is, by the bootstrap (Efron, 1979): no word on how the values are distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
CERTAINTY = 0.95


def median_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, certainty: float = CERTAINTY
) -> tuple[float, float]:
    """Between which values the median lies: percentiles of the medians of resamples.

    Symmetric: the negated values have the negated interval. From six values on it is as certain as it says;
    nothing that was not seen can lie in an interval of fewer.

    Args:
        values: at least one; independent of each other.
        seed: the same seed gives the same interval.
    """
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    medians = np.median(np.asarray(values, np.float64)[drawn], axis=1)
    outside = tail(len(values), certainty)
    low, high = np.quantile(medians, [outside, 1 - outside])
    return float(low), float(high)


def tail(count: int, certainty: float = CERTAINTY) -> float:
    """The share of resamples beyond each end of an interval.

    Less than (1 - certainty) / 2, since few values vary less than what they are drawn from: as much less as
    Student's t is beyond the normal (Hesterberg, What Teachers Should Know About the Bootstrap, 2014, 4.3).
    """
    if count < 2:
        return 0.0
    z, free = NormalDist().inv_cdf((1 + certainty) / 2), count - 1
    # Student's quantile from the normal one (Abramowitz and Stegun, 26.7.5).
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * math.sqrt(count / free))


def quantile(values: Sequence[float], share: float) -> float | None:
    """What a share of the values does not exceed; None where too few were seen to tell it from the largest.

    Args:
        values: in any order.
        share: from 0.5 up, below 1.
    """
    if len(values) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.quantile(np.asarray(values, np.float64), share))
