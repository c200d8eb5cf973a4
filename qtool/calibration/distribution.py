"""The assumed distribution of a value's elements, as a curve over a standard normal variable.

The curve holds the value of an element where the normal variable that drives it is z, at nodes from -5 to 5:
a Gaussian is a straight line, and Relu of it a bent one. Two values with one source are combined node by
node, so that x * sigmoid(x) written as two ops is exact. Moments are sums over the nodes, weighted by the
normal density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qtool.calibration.ranges import HUGE, LOG_UNIT, Range

F64 = NDArray[np.float64]

BASES = ("declared", "constant", "bounded", "statistics", "estimated")
"""What a range rests on, from the most to the least certain."""
DECLARED, CONSTANT, BOUNDED, STATISTICS, ESTIMATED = BASES

# Constants at least this large are masks: -1e4, -1e9 or -FLT_MAX is added to scores that Softmax must ignore.
_MASK = 1e4
_FLT_MAX = float(np.finfo(np.float32).max)
_MOST_POINTS = 2**16

NODES = 41
_Z = np.linspace(-5.0, 5.0, NODES)
_CDF: F64 = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _Z])
WEIGHTS: F64 = np.exp(-0.5 * _Z**2) / np.exp(-0.5 * _Z**2).sum()
"""[NODES] The share of the elements at each node."""

# Laplace's quantiles, which reach 10 sigma. Activations have heavier tails than a Gaussian (Banner et al.
# 2019, arXiv 1810.05723); in real models the largest element of a channel lies at 5 to 14 sigma.
_SLOPES = -np.sign(_Z) * np.log(2.0 * np.minimum(_CDF, _CDF[::-1]))
_LAPLACE: F64 = np.asarray(_SLOPES / np.sqrt(WEIGHTS @ _SLOPES**2))


class Source:
    """The variable that drives a value: elements of two values with one source vary together."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """The assumed distribution of the elements of one value, all channels pooled.

    Args:
        curve: [NODES] the value of an element at each node.
        basis: one of BASES.
        source: None for a constant scalar.
        masked: masks are among the elements, or were added to them.
    """

    curve: F64
    basis: str = ESTIMATED
    source: Source | None = field(default_factory=Source)
    masked: bool = False

    @property
    def mean(self) -> float:
        """The mean."""
        return float(WEIGHTS @ self.curve)

    @property
    def variance(self) -> float:
        """The variance."""
        return float(WEIGHTS @ (self.curve - self.mean) ** 2)

    def range(self) -> Range:
        """Return the range that covers the distribution and 0."""
        size = np.abs(self.curve)
        share = float(WEIGHTS[size > 0].sum())
        logs = float(WEIGHTS[size > 0] @ np.log2(size[size > 0])) / share if share else 0.0
        lo, hi = min(float(self.curve.min()), 0.0), max(float(self.curve.max()), 0.0)
        return Range(lo, hi, 1, int(self.masked), round(logs * LOG_UNIT), int(share > 0))


def uniform(lo: float, hi: float, basis: str = BOUNDED) -> Distribution | None:
    """Return the uniform distribution between two bounds; None unless they are finite and in order."""
    if not -HUGE < lo <= hi < HUGE:
        return None
    return Distribution(lo + (hi - lo) * np.concatenate([[0.0], _CDF[1:-1], [1.0]]), basis)


def bells(mean: F64 | float, variance: F64 | float, lo: F64 | float, hi: F64 | float) -> F64:
    """Return bell-shaped curves within bounds. All [] or [n] -> [NODES] or [NODES, n]."""
    deviation = np.sqrt(np.maximum(variance, 0.0))
    return np.clip(mean + _LAPLACE.reshape(-1, *(1,) * deviation.ndim) * deviation, lo, hi)


def pooled(
    points: F64,
    weights: F64,
    basis: str = ESTIMATED,
    masked: bool = False,
    ends: tuple[float, float] | None = None,
) -> Distribution | None:
    """Return the distribution of weighted points; None where one is not finite.

    Args:
        points: any shape; a subset is used beyond 65,536, with the extremes of all.
        weights: broadcasts to the points.
        basis, masked: of the result.
        ends: the least and the greatest value; None: those of the points.
    """
    if not points.size or not (np.abs(points) < HUGE).all():
        return None
    step = -(-points.size // _MOST_POINTS)
    shares = np.broadcast_to(weights, points.shape).reshape(-1)[::step]
    chosen = points.reshape(-1)[::step]
    order = np.argsort(chosen, kind="stable")
    passed = np.cumsum(shares[order]) - 0.5 * shares[order]
    curve = np.interp(_CDF, passed / shares.sum(), chosen[order])
    curve[0], curve[-1] = ends or (points.min(), points.max())
    return Distribution(curve, basis, masked=masked)


def either(parts: Sequence[Distribution]) -> Distribution | None:
    """Return the distribution of elements that come from any of the parts."""
    basis = max((part.basis for part in parts), key=BASES.index)
    curves = np.stack([part.curve for part in parts], axis=1)
    return pooled(curves, WEIGHTS[:, None], basis, any(part.masked for part in parts))


def scaled_noise(gamma: NDArray[np.floating], beta: NDArray[np.floating]) -> Distribution | None:
    """Return the distribution of gamma z + beta, for z of mean 0 and variance 1. [channels] both."""
    scale, shift = np.broadcast_arrays(*(np.asarray(a, np.float64).reshape(-1) for a in (gamma, beta)))
    return pooled(bells(shift, scale**2, -HUGE, HUGE), WEIGHTS[:, None], STATISTICS)


def constant_distribution(array: NDArray[np.generic]) -> Distribution | None:
    """Return the distribution of a constant's elements, without its masks unless it is a scalar."""
    if array.dtype.kind not in "fiub" or not array.size:
        return None
    flat = array.reshape(-1)
    x = np.asarray([flat.min(), flat.max(), *flat[:: -(-flat.size // _MOST_POINTS)]], np.float64)
    large = ~(np.abs(x) < _MASK)
    masked = bool(large.any() and (flat.size == 1 or (x == 0).any() or not (np.abs(x) < HUGE).all()))
    if flat.size == 1:
        return Distribution(np.full(NODES, np.clip(x[0], -_FLT_MAX, _FLT_MAX)), CONSTANT, None, masked)
    return pooled(x[~large] if masked else x, np.ones(1), CONSTANT, masked)
