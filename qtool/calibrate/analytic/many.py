"""Many elements to one: how their mean and their greatest spread."""

from __future__ import annotations

import math

import numpy as np

from qtool.calibrate.analytic.nodes import CDF, F64, GAUSSIAN, NODES, WEIGHTS, quantiles
from qtool.calibrate.analytic.spread import ESTIMATED, Source, Spread, around, spread

# Of what varies in a channel, the share that neighbouring positions have in common, and that different
# channels have. It decides how far the taps of a kernel add up, and how much an average evens out.
# From a quarter to three quarters, results on real models differ by 1 or 2 dB.
TOGETHER = 0.5
CHANNELS_TOGETHER = 0.1
# The mean of fewer elements than these has their tails; that of more is a Gaussian.
_FEW = 16


def averaged(x: Spread, count: int | None, together: float = TOGETHER) -> Spread:
    """The mean of some elements, None for very many: what they have in common stays, the rest evens out."""
    if x.values is None:
        return x
    mean, kept = x.mean, together + ((1.0 - together) / count if count else 0.0)
    if count and count < _FEW:
        values = mean + math.sqrt(kept) * (x.values - mean)
        return spread(values, x.lo, x.hi, ESTIMATED, masked=x.masked)
    variance = kept * x.variance
    made = around(mean, variance, x.lo, x.hi, shape=GAUSSIAN, masked=x.masked)
    if made.values is None or not ((x.lo >= 0) & (mean > 0)).all():
        return made
    # Below its mean, what is never negative approaches 0 without reaching it: a norm divides by this.
    lower = mean * np.exp(np.sqrt(variance) / mean * GAUSSIAN.reshape(-1, *(1,) * mean.ndim))
    lower_half = np.arange(NODES) < NODES // 2
    values = np.where(lower_half.reshape(-1, *(1,) * mean.ndim), lower, made.values)
    return spread(values, x.lo, x.hi, ESTIMATED, masked=x.masked)


def greatest(x: Spread, count: int | None) -> Spread:
    """The greatest of some elements; what they have in common makes them count for fewer."""
    if x.values is None or not count or count == 1:
        return Spread(x.lo, x.hi, x.values, x.basis, Source(), x.masked)
    independent = 1.0 + (count - 1) * (1.0 - TOGETHER)
    columns = x.values.reshape(NODES, -1)
    values: F64 = quantiles(columns, WEIGHTS, CDF ** (1.0 / independent)).reshape(x.values.shape)
    return spread(values, x.lo, x.hi, x.basis, masked=x.masked)
