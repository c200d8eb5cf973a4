"""Pools, reductions and Softmax: many elements to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.curves import applied
from qtool.calibrate.analytic.many import CHANNELS_TOGETHER, TOGETHER, averaged, greatest
from qtool.calibrate.analytic.nodes import F64, WEIGHTS
from qtool.calibrate.analytic.spread import BOUNDED, Spread, around, spread, unknown


def _kernel(call: Call) -> int:
    return math.prod(call.attribute_ints("kernel_shape") or [1])


def _spatial(call: Call) -> Spread:
    """The channels of axis 1 alone."""
    rank = call.rank()
    x = call[0].scalar() if rank is None else call[0].aligned(rank)
    return x.pooled([a for a in range(len(x.channels)) if a != 1])


def average_pool(call: Call) -> Spread:
    """AveragePool; padding may count as zeros."""
    x = _spatial(call)
    if call.whole("count_include_pad", 0):
        x = replace(x, lo=np.minimum(x.lo, 0.0), hi=np.maximum(x.hi, 0.0))
    return averaged(x, _kernel(call))


def max_pool(call: Call) -> list[Spread]:
    """MaxPool; its second output are indices."""
    return [greatest(_spatial(call), _kernel(call)), *[unknown()] * (len(call.node.outputs) - 1)]


def global_average(call: Call) -> Spread:
    """GlobalAveragePool."""
    return averaged(_spatial(call), _count(call, range(2, call.rank() or 2)))


def global_max(call: Call) -> Spread:
    """GlobalMaxPool."""
    return greatest(_spatial(call), _count(call, range(2, call.rank() or 2)))


def _count(call: Call, axes: Sequence[int]) -> int | None:
    """How many elements lie along some axes of the first input."""
    dims = call.dims()
    if dims is None:
        return None
    counts = [dims[a] for a in axes]
    known = [n for n in counts if n is not None]
    return math.prod(known) if len(known) == len(counts) else None


def _reduced(call: Call) -> tuple[Spread, int | None, tuple[int, ...]]:
    """The input pooled along the axes that a Reduce node takes, their number of elements, and the axes."""
    rank = call.rank()
    if rank is None:
        return call[0].scalar(), None, ()
    axes = call.ints(1, "axes")
    if axes is None and call.has(1):
        return call[0].scalar(), None, ()
    if not axes:
        axes = [] if call.whole("noop_with_empty_axes", 0) else list(range(rank))
    taken = tuple(sorted({a % rank for a in axes}))
    return call[0].aligned(rank), _count(call, taken), taken


def _dropped(call: Call, x: Spread, axes: tuple[int, ...]) -> Spread:
    """Without the reduced axes, where the node does not keep them."""
    if call.whole("keepdims", 1) or not axes:
        return x
    return x.reshaped([n for i, n in enumerate(x.channels) if i not in axes])


def _mean(x: Spread, count: int | None, axes: tuple[int, ...]) -> Spread:
    """The mean along some axes. That the channels there differ in their means makes it no wider."""
    if all(x.channels[a] == 1 for a in axes):
        return averaged(x, count, TOGETHER)
    lo, hi = x.lo.min(axes, keepdims=True), x.hi.max(axes, keepdims=True)
    if x.values is None:
        return unknown(lo, hi)
    mean, variance = x.mean.mean(axes, keepdims=True), x.variance.mean(axes, keepdims=True)
    return averaged(around(mean, variance, lo, hi, masked=x.masked), count, CHANNELS_TOGETHER)


def reduce_mean(call: Call) -> Spread:
    """ReduceMean."""
    x, count, axes = _reduced(call)
    return _dropped(call, _mean(x, count, axes), axes)


def reduce_sum(call: Call) -> Spread:
    """ReduceSum: the mean times the count, which must be known."""
    x, count, axes = _reduced(call)
    if count is None:
        lo = np.where(x.lo >= 0, 0.0, -math.inf).min(axes, keepdims=True)
        hi = np.where(x.hi <= 0, 0.0, math.inf).max(axes, keepdims=True)
        return _dropped(call, unknown(lo, hi), axes)
    return _dropped(call, applied(lambda v: v * count, _mean(x, count, axes)), axes)


def reduce_max(call: Call) -> Spread:
    """ReduceMax."""
    x, count, axes = _reduced(call)
    return _dropped(call, greatest(x.pooled(axes), count), axes)


def reduce_min(call: Call) -> Spread:
    """ReduceMin: the greatest, upside down."""
    x, count, axes = _reduced(call)
    upside = applied(np.negative, x.pooled(axes))
    return _dropped(call, applied(np.negative, greatest(upside, count)), axes)


def reduce_l2(call: Call) -> Spread:
    """ReduceL2: the root of a sum of squares, which the largest element alone makes."""
    x, count, axes = _reduced(call)
    square = applied(np.square, x, (0.0,))
    lo = np.sqrt(square.lo.max(axes, keepdims=True))
    if count is None or square.values is None:
        return _dropped(call, unknown(np.zeros(lo.shape)), axes)
    made = applied(lambda v: v * count, _mean(square, count, axes))
    return _dropped(call, applied(np.sqrt, made), axes)


def softmax(call: Call) -> Spread:
    """Softmax: shares of 1. Each is e^x over the sum of e^x, of independent Gaussian x."""
    x, rank = call[0], call.rank()
    axis = call.whole("axis", -1)
    last = rank is not None and axis % rank == rank - 1
    n = None if rank is None else (call.dims() or ())[axis]
    made = _shares(x.scalar(), n or _TYPICAL_LENGTH)
    return replace(made, shares=last)


_TYPICAL_LENGTH = 64  # of a dynamic axis


def _shares(x: Spread, n: int) -> Spread:
    """[] -> [] between 0 and 1, either of which an element may come near."""
    if x.values is None:
        values = np.full(WEIGHTS.shape, 1.0 / n)
    else:
        grown = np.exp(x.values - x.values.max())
        values = np.minimum(grown / (n * float(WEIGHTS @ grown)), 1.0)
    values = np.sort(values)
    values[0], values[-1] = 0.0, 1.0
    return spread(values, 0.0, 1.0, BOUNDED)


def log_softmax(call: Call) -> Spread:
    """LogSoftmax: x less the logarithm of the sum of e^x."""
    x, rank = call[0].scalar(), call.rank()
    if x.values is None:
        return unknown(hi=0.0)
    n = None if rank is None else (call.dims() or ())[call.whole("axis", -1)]
    top = x.values.max()
    total: F64 = top + np.log((n or _TYPICAL_LENGTH) * (WEIGHTS @ np.exp(x.values - top)))
    return around(x.mean - total, x.variance, hi=0.0)


def cumulative(call: Call) -> Spread:
    """CumSum: anything up to the whole sum."""
    x = call[0]
    lo, hi = np.where(x.lo >= 0, 0.0, -math.inf), np.where(x.hi <= 0, 0.0, math.inf)
    return unknown(lo.min(initial=math.inf), hi.max(initial=-math.inf))
