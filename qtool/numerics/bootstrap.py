"""Confidence intervals of medians and of ratios of sums, by resampling: no distribution is assumed.

The bootstrap (Efron, 1979) for medians, the jackknife (Tukey, 1958) for ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
CERTAINTY = 0.95
# The largest share of a sum that one value counts with in the jackknife: without a limit the logarithm of the
# rest would diverge, and an interval of 20 dB is as good as unknown.
_LARGEST_SHARE = 0.9


def median_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, certainty: float = CERTAINTY
) -> tuple[float, float]:
    """Return the interval of a median: percentiles of the medians of resamples.

    Symmetric: the negated values have the negated interval. It holds the stated certainty from six values on;
    no interval of fewer can reach beyond them.

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
    """Return the share of resamples beyond each end of an interval.

    Less than (1 - certainty) / 2, since few values vary less than their distribution: by as much as
    Student's t exceeds the normal (Hesterberg, What Teachers Should Know About the Bootstrap, 2014, 4.3).
    """
    if count < 2:
        return 0.0
    return NormalDist().cdf(-student(count - 1, certainty) * math.sqrt(count / (count - 1)))


def student(free: int, certainty: float = CERTAINTY) -> float:
    """Return the value that |t| of Student's distribution exceeds with a probability of 1 - certainty.

    Exact for 1 and 2 degrees of freedom, 1% too small for 3, closer for more.

    Args:
        free: degrees of freedom, 1 or more.
        certainty: between 0 and 1.
    """
    if free == 1:
        return math.tan(math.pi * certainty / 2)
    if free == 2:
        return certainty * math.sqrt(2 / (1 - certainty**2))
    z = NormalDist().inv_cdf((1 + certainty) / 2)
    # From the normal quantile (Abramowitz and Stegun, 26.7.5).
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / free + g2 / free**2 + g3 / free**3


def log_ratio_half_width(above: ArrayLike, below: ArrayLike, certainty: float = CERTAINTY) -> float:
    """Return half the width of the interval of ln(sum(above) / sum(below)), a ratio of sums over samples.

    The jackknife: the changes of the logarithm where one sample is left out, with Student's t for the count
    of samples (Miller, The jackknife - a review, Biometrika 61, 1974). The share of 4000 simulated runs where
    a 95% interval held the true ratio (tests/numerics/test_bootstrap.py repeats a part):

    | energies of signal and noise, a value a sample    | n = 8 | 16   | 32   | 64   |
    |---------------------------------------------------|-------|------|------|------|
    | chi-squared, 100 and 10 degrees of freedom        | 0.95  | 0.95 | 0.95 | 0.95 |
    | lognormal, sigma 0.5 and 0.5                      | 0.95  | 0.95 | 0.96 | 0.95 |
    | lognormal, sigma 0.5 and 1                        | 0.92  | 0.92 | 0.93 | 0.94 |
    | lognormal, sigma 1, noise proportional times 0.5  | 0.91  | 0.91 | 0.92 | 0.94 |
    | one sample in ten has five times the noise        | 0.79  | 0.83 | 0.90 | 0.93 |

    No method mends the last row: few samples often hold no such sample. The delta method is less
    certain (0.86 instead of 0.91 at n = 8), and so is the bootstrap (0.87 instead of 0.92), which costs more.

    Args:
        above, below: [n], not negative, a value a sample; each with a sum that is positive and finite.
        certainty: between 0 and 1.

    Returns:
        0 for a single sample, which does not tell how samples differ.
    """
    p, q = (np.asarray(values, np.float64) for values in (above, below))
    count = len(p)
    if count < 2:
        return 0.0
    without = [np.log1p(-np.minimum(v / v.sum(), _LARGEST_SHARE)) for v in (p, q)]
    changes = without[0] - without[1]
    spread = math.sqrt((count - 1) / count * float(np.square(changes - changes.mean()).sum()))
    return student(count - 1, certainty) * spread


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return a quantile of values; None for too few values to tell it from the largest.

    Args:
        values: in any order.
        share: from 0.5 up, below 1.
    """
    if len(values) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.quantile(np.asarray(values, np.float64), share))
