"""Functions of two or more variables, element by element: sums, products, choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.curves import Function, applied, near_zero
from qtool.calibrate.analytic.nodes import F64, NODES, WEIGHTS, reaching
from qtool.calibrate.analytic.spread import (
    Spread,
    any_of,
    around,
    constant_spread,
    raised,
    spread,
    unknown,
    weakest,
)

Pair = Callable[[F64, F64], F64]
Moments = Callable[[Spread, Spread], tuple[F64, F64]]

# Of two independent variables every fourth node each is taken: steps of one sigma, ends included.
_EVERY = 4


@dataclass(frozen=True)
class Combination:
    """A function of two variables, monotone in each while the other stays: its corners are its extremes.

    Args:
        f: the function.
        moments: mean and variance of f of two independent spreads, where there is a formula.
    """

    f: Pair
    moments: Moments | None = None

    def __call__(self, call: Call) -> Spread:
        """All inputs, one after the other: Sum, Max and Min take any number."""
        inputs = [call[i] for i in range(call.count)]
        same = len(inputs) == 2 and call.value(0) is call.value(1)
        if same and call.node.op_type == "Mul":
            return applied(np.square, inputs[0], (0.0,))
        return reduce(self.of, inputs)

    def of(self, a: Spread, b: Spread) -> Spread:
        """f of two spreads: exact where they move together, else as if they were independent."""
        lo, hi = corners(self.f, a, b)
        masked = a.masked or b.masked
        if a.values is None or b.values is None:
            return unknown(lo, hi, masked=masked)
        basis = weakest(a.basis, b.basis)
        if a.source is None or b.source is None or a.source is b.source:
            values = self.f(*paired(a, b))
            made = spread(values, lo, hi, basis, a.source or b.source, masked=masked)
            return replace(made, source=None) if a.source is b.source is None and made.known else made
        moments = self.moments(a, b) if self.moments else _moments(self.f, a, b)
        return self._reaching(a, b, around(*moments, lo, hi, masked=masked))

    def _reaching(self, a: Spread, b: Spread, made: Spread) -> Spread:
        """As far as either operand reaches while the other is what it mostly is."""
        if made.values is None:
            return made
        (x, y), (mean_x, mean_y) = paired(a, b), (a.mean, b.mean)
        ends = [self.f(end, mean_y) for end in (x.min(0), x.max(0))]
        ends += [self.f(mean_x, end) for end in (y.min(0), y.max(0))]
        least, most = np.fmin.reduce([made.values[0], *ends]), np.fmax.reduce([made.values[-1], *ends])
        values = reaching(made.values, least, most)
        return spread(values, made.lo, made.hi, made.basis, made.source, masked=made.masked)


def paired(a: Spread, b: Spread) -> tuple[F64, F64]:
    """The curves of two known spreads, shaped so that they broadcast."""
    rank = max(len(a.channels), len(b.channels))
    return raised(a.curves, rank), raised(b.curves, rank)


def corners(f: Pair, a: Spread, b: Spread) -> tuple[F64, F64]:
    """The bounds of f: its least and greatest at the corners; 0 * inf and inf - inf are no corners."""
    at = [f(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return np.fmin.reduce(np.broadcast_arrays(*at)), np.fmax.reduce(np.broadcast_arrays(*at))


def _moments(f: Pair, a: Spread, b: Spread) -> tuple[F64, F64]:
    """Mean and variance of f of two independent spreads, by summing over a grid of their nodes."""
    x, y = paired(a, b)
    weights = WEIGHTS[::_EVERY] / WEIGHTS[::_EVERY].sum()
    first = second = np.zeros(())
    for i, p in zip(range(0, NODES, _EVERY), weights, strict=True):
        made = f(x[i], y[::_EVERY])
        first = first + p * np.tensordot(weights, made, 1)
        second = second + p * np.tensordot(weights, made**2, 1)
    return first, second - first**2


def _sum(a: Spread, b: Spread) -> tuple[F64, F64]:
    return a.mean + b.mean, a.variance + b.variance


def _difference(a: Spread, b: Spread) -> tuple[F64, F64]:
    return a.mean - b.mean, a.variance + b.variance


def _product(a: Spread, b: Spread) -> tuple[F64, F64]:
    mean = a.mean * b.mean
    return mean, (a.variance + a.mean**2) * (b.variance + b.mean**2) - mean**2


ADD = Combination(np.add, _sum)
SUBTRACT = Combination(np.subtract, _difference)
MULTIPLY = Combination(np.multiply, _product)
DIVIDE = Combination(np.divide)
COMBINATIONS: dict[str, Combination] = {
    "Add": ADD,
    "Sum": ADD,
    "Sub": SUBTRACT,
    "Mul": MULTIPLY,
    "Max": Combination(np.maximum),
    "Min": Combination(np.minimum),
}


def divide(call: Call) -> Spread:
    """x / y, of which nothing is known where y may come near 0: the reach of 1 / y is chance then."""
    a, b = call[0], call[1]
    made = DIVIDE.of(a, b)
    crosses = (b.lo <= 0) & (b.hi >= 0)
    lo, hi = np.where(crosses, -math.inf, made.lo), np.where(crosses, math.inf, made.hi)
    values = None if near_zero(b) else made.values
    return spread(values, lo, hi, made.basis, made.source, masked=made.masked)


def mean(call: Call) -> Spread:
    """Mean: the sum of all inputs over their number."""
    count = call.count
    return applied(lambda x: x / count, reduce(ADD.of, [call[i] for i in range(count)]))


def prelu(call: Call) -> Spread:
    """x, or slope * x below 0."""
    x = call[0]
    made = Combination(lambda x, slope: np.where(x < 0, slope * x, x)).of(x, call[1])
    crosses = (x.lo < 0) & (x.hi > 0)
    lo, hi = (
        np.where(crosses, np.fmin(made.lo, 0.0), made.lo),
        np.where(crosses, np.fmax(made.hi, 0.0), made.hi),
    )
    return spread(made.values, lo, hi, made.basis, made.source, masked=made.masked)


def biased(f: Function, turn: float) -> Callable[[Call], Spread]:
    """f(x + bias), where the bias may be left out."""
    return lambda call: applied(f, ADD.of(call[0], call[1]) if call.has(1) else call[0], (turn,))


def where(call: Call) -> Spread:
    """One or the other, each as likely as not; what is put in for a mask does not count."""
    a, b = call[1], call[2]
    for kept, mask in ((a, b), (b, a)):
        if mask.source is None and mask.masked:
            lo, hi = np.minimum(a.lo, b.lo), np.maximum(a.hi, b.hi)
            return replace(spread(kept.values, lo, hi, kept.basis, masked=True), source=kept.source)
    return any_of([a, b])


def scaler(call: Call) -> Spread:
    """ai.onnx.ml Scaler: (x - offset) * scale, a feature each."""
    offset, scale = (np.asarray(call.node.attributes[name].as_floats()) for name in ("offset", "scale"))
    return MULTIPLY.of(SUBTRACT.of(call[0], constant_spread(offset)), constant_spread(scale))
