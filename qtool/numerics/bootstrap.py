"""How sure a median is, by the bootstrap (Efron, 1979): no word on how the values are distributed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
CERTAINTY = 0.95


def median_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, certainty: float = CERTAINTY
) -> tuple[float, float]:
    """Between which values the median lies: percentiles of the medians of resamples.

    Symmetric: the negated values have the negated interval. Below six values it is less certain than it
    says, since nothing can lie outside of what was seen (1 - 2 * 0.5^n at best).

    Args:
        values: at least one; independent of each other.
        seed: the same seed gives the same interval.
    """
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    medians = np.median(np.asarray(values, np.float64)[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - certainty) / 2, (1 + certainty) / 2])
    return float(low), float(high)


def quantile(values: Sequence[float], share: float) -> float | None:
    """What a share of the values does not exceed; None where too few were seen to tell it from the largest.

    Args:
        values: in any order.
        share: from 0.5 up, below 1.
    """
    if len(values) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.quantile(np.asarray(values, np.float64), share))
