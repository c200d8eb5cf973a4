"""The nodes at which a spread is known, and sums over them: numpy in, numpy out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# One element in 1.7 million lies beyond; with Laplace's tails that is 10 sigma. Nagel et al. 2019 (arXiv
# 1906.04721) take 6; on real models the largest of a channel was seen at 5 to 14.
Z: F64 = np.linspace(-5.0, 5.0, 41)
NODES = len(Z)
WEIGHTS: F64 = np.exp(-0.5 * Z**2) / np.exp(-0.5 * Z**2).sum()
CDF: F64 = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in Z])


def _laplace() -> F64:
    """Laplace's quantiles at the nodes, of variance 1."""
    tail = np.minimum(CDF, CDF[::-1])
    curve = -np.sign(Z) * np.log(2.0 * tail)
    return np.asarray(curve / np.sqrt(WEIGHTS @ curve**2))


GAUSSIAN: F64 = Z
# Activations have heavier tails than a Gaussian: Banner et al. 2019 (arXiv 1810.05723) fit them so, too.
LAPLACE: F64 = _laplace()


def mixture(values: F64, axes: tuple[int, ...]) -> F64:
    """Curves pooled over channel axes: at each node the mixture's quantile, the least and most at the ends.

    values: [NODES, *channels] -> the same with 1 for each of the axes.
    """
    moved = np.moveaxis(values, [a + 1 for a in axes], range(1, 1 + len(axes)))
    count = math.prod(moved.shape[1 : 1 + len(axes)])
    columns = moved.reshape(NODES * count, -1)
    shape = [1 if i in axes else n for i, n in enumerate(values.shape[1:])]
    made = quantiles(columns, np.repeat(WEIGHTS / count, count), CDF)
    made[0], made[-1] = columns.min(0), columns.max(0)
    return made.reshape(NODES, *shape)


def reaching(values: F64, least: F64 | float, most: F64 | float) -> F64:
    """Curves whose ends go as far as some values, which are so rare that no moment shows it."""
    made, falls = values.copy(), values[0] > values[-1]
    made[0], made[-1] = np.where(falls, most, least), np.where(falls, least, most)
    return made


def quantiles(x: F64, weights: F64, levels: F64) -> F64:
    """Quantiles of weighted samples, column by column.

    x: [n, columns], weights: [n], their sum 1, levels: [NODES] -> [NODES, columns].
    """
    order = np.argsort(x, axis=0, kind="stable")
    ranked = np.take_along_axis(x, order, 0)
    passed = np.cumsum(weights[order], axis=0) - 0.5 * weights[order]
    return np.stack([np.interp(levels, passed[:, i], ranked[:, i]) for i in range(x.shape[1])], -1)


def logarithms(values: F64) -> tuple[float, float]:
    """The mean of log2 |x| over elements that are not 0, and their share. values: [NODES, *channels].

    Between two nodes x runs straight from a to b, and ln |x| is (b ln |b| - a ln |a|) / (b - a) - 1 on
    average, which is finite even where x crosses 0.
    """
    a, b = values[:-1], values[1:]
    weights = np.diff(CDF).reshape(-1, *(1,) * (values.ndim - 1)) * _lifted(values)
    level = np.abs(b - a) <= 1e-6 * np.maximum(np.abs(a), np.abs(b))
    sloped = (_x_ln_x(b) - _x_ln_x(a)) / (b - a) - 1.0
    logs = np.where(weights > 0, np.where(level, np.log(np.abs(a)), sloped), 0.0)
    share = float(weights.sum())
    return (float((weights * logs).sum()) / share / math.log(2.0), share) if share else (0.0, 0.0)


def _lifted(values: F64) -> F64:
    """The share of each step between nodes in which x is not 0: [NODES - 1, *channels].

    Where a curve leaves 0 (a Relu) it does so within a step, at the slope of the step behind.
    """
    steps = np.abs(np.diff(values, axis=0))
    zero = values == 0
    share = np.where(zero[:-1] & zero[1:], 0.0, 1.0)
    rises = zero[:-2] & zero[1:-1] & ~zero[2:]
    falls = ~zero[:-2] & zero[1:-1] & zero[2:]
    following = np.concatenate([steps[1:], steps[-1:]])
    share[1:] = np.where(rises, np.fmin(1.0, steps[1:] / following[1:]), share[1:])
    share[:-1] = np.where(
        falls, np.fmin(1.0, steps[:-1] / np.concatenate([steps[:1], steps[:-2]])), share[:-1]
    )
    return share


def _x_ln_x(x: F64) -> F64:
    return np.where(x == 0, 0.0, x * np.log(np.abs(x)))
