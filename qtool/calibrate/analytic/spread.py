"""What is believed of the elements of a value: how they spread, and what they can't exceed.

A spread is a set of curves, one a channel: what an element is when the standard normal variable that
drives it is z, at nodes z from -5 to 5. A Gaussian is a straight line, ReLU of it a bent one, and
x * sigmoid(x) the product of two curves over the same z, so that written-out activations come out
exact. Moments are sums over the nodes, weighted by the normal density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qtool.calibrate.analytic.nodes import CDF, F64, LAPLACE, NODES, WEIGHTS, logarithms, mixture
from qtool.calibrate.ranges import HUGE, LOG_UNIT, Range

# Channels are told apart up to this many; beyond it, leading axes are pooled.
MOST_CHANNELS = 2**14
# Of a large constant, about this many rows show how it spreads.
_SAMPLED = 4096
# Constants as large as this are masks, if alone or among zeros: -1e4, -1e9 or -FLT_MAX are added to what
# a Softmax shall not see.
_MASK = 1e4
FLT_MAX = float(np.finfo(np.float32).max)

DECLARED = "declared"
CONSTANT = "constant"
BOUNDED = "bounded"
STATISTICS = "statistics"
ESTIMATED = "estimated"
# From the firmest to the roughest.
BASES = (DECLARED, CONSTANT, BOUNDED, STATISTICS, ESTIMATED)


class Source:
    """What drives a value's elements: two values of one source move together, others independently."""


@dataclass(frozen=True, eq=False)
class Spread:
    """What is believed of one value. Made by `spread` and the functions below it.

    Channels are whatever axes numpy broadcasting against the value's own shape can tell apart:
    [C, 1, 1] or [1, C, 1, 1] for images, [D] for features, [] when all elements are alike.

    Args:
        lo, hi: [*channels] what no element can exceed; -inf and inf where nothing is known.
        values: [NODES, *channels] what an element is at each node; None where that is unknown.
        basis: one of BASES.
        source: what drives it; None for a constant.
        masked: masks are among the elements or were added to them.
        shares: no element is negative, and along the last axis they add up to 1 at most.
    """

    lo: F64
    hi: F64
    values: F64 | None
    basis: str
    source: Source | None = field(default_factory=Source)
    masked: bool = False
    shares: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """The shape of the channels."""
        return self.lo.shape

    @property
    def known(self) -> bool:
        """Whether how it spreads is known, rather than bounds alone."""
        return self.values is not None

    @property
    def curves(self) -> F64:
        """The values of a known spread."""
        if self.values is None:
            raise ValueError("an unknown spread has no curves")
        return self.values

    @property
    def mean(self) -> F64:
        """[*channels]"""
        return np.asarray(np.tensordot(WEIGHTS, self.curves, 1))

    @property
    def variance(self) -> F64:
        """[*channels]"""
        return np.asarray(np.tensordot(WEIGHTS, (self.curves - self.mean) ** 2, 1))

    def reshaped(self, shape: Sequence[int]) -> Spread:
        """The same with channels of another shape."""
        values = None if self.values is None else self.values.reshape(NODES, *shape)
        return replace(self, lo=self.lo.reshape(shape), hi=self.hi.reshape(shape), values=values)

    def stretched(self, shape: tuple[int, ...]) -> Spread:
        """Channels broadcast to a shape of the same rank."""
        values = None if self.values is None else np.broadcast_to(self.values, (NODES, *shape))
        lo, hi = np.broadcast_to(self.lo, shape), np.broadcast_to(self.hi, shape)
        return replace(self, lo=lo, hi=hi, values=values)

    def aligned(self, rank: int) -> Spread:
        """The same with channels of exactly this many axes; those of more axes are pooled first."""
        x = self if len(self.channels) <= rank else self.scalar()
        return x.reshaped((1,) * (rank - len(x.channels)) + x.channels)

    def scalar(self) -> Spread:
        """All channels pooled: channels []."""
        return self.pooled(range(len(self.channels))).reshaped(())

    def pooled(self, axes: Sequence[int]) -> Spread:
        """An element of any index along these axes: the mixture of the channels. Axes keep length 1."""
        axes = tuple(a for a in axes if self.channels[a] != 1)
        if not axes:
            return self
        return replace(
            self,
            lo=self.lo.min(axes, keepdims=True),
            hi=self.hi.max(axes, keepdims=True),
            values=None if self.values is None else mixture(self.values, axes),
            source=Source(),
        )

    def range(self) -> Range | None:
        """The range that covers it and 0, masks left out; None when how it spreads is unknown."""
        if self.values is None or not self.values.size:
            return None
        logs, share = logarithms(self.values)
        lo, hi = float(self.values.min()), float(self.values.max())
        return Range(
            min(lo, 0.0), max(hi, 0.0), 1, int(self.masked), round(logs * LOG_UNIT), 1 if share else 0
        )


def spread(
    values: F64 | None,
    lo: F64 | float = -math.inf,
    hi: F64 | float = math.inf,
    basis: str = ESTIMATED,
    source: Source | None = None,
    *,
    masked: bool = False,
) -> Spread:
    """A sound spread of whatever was computed: values within bounds, nothing NaN, not too many channels.

    Without a source it is driven by one of its own.
    """
    lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    shape = np.broadcast_shapes(lo.shape, hi.shape, () if values is None else values.shape[1:])
    # What no activation comes near is no bound, and neither is NaN, which fails any comparison.
    lo = np.broadcast_to(np.where(lo > -HUGE, lo, -math.inf), shape)
    hi = np.broadcast_to(np.where(hi < HUGE, hi, math.inf), shape)
    sound = lo <= hi
    lo, hi = np.where(sound, lo, -math.inf), np.where(sound, hi, math.inf)
    if values is not None:
        values = np.clip(np.broadcast_to(raised(values, len(shape)), (NODES, *shape)), lo, hi)
        values = values if (np.abs(values) < HUGE).all() else None
    made = Spread(lo, hi, values, basis, source or Source(), masked)
    leading = 0
    while math.prod(shape[leading:]) > MOST_CHANNELS:
        leading += 1
    return made.pooled(range(leading)) if leading else made


def unknown(lo: F64 | float = -math.inf, hi: F64 | float = math.inf, *, masked: bool = False) -> Spread:
    """Nothing but bounds."""
    return spread(None, lo, hi, masked=masked)


def uniform(lo: F64 | float, hi: F64 | float, basis: str = BOUNDED) -> Spread:
    """Anything between bounds [*channels], as likely as anything else; unknown where they are infinite."""
    lo, hi = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    share = CDF.copy()
    share[0], share[-1] = 0.0, 1.0
    values = lo + (hi - lo) * share.reshape(-1, *(1,) * lo.ndim)
    return spread(values, lo, hi, basis)


def around(
    mean: F64,
    variance: F64,
    lo: F64 | float = -math.inf,
    hi: F64 | float = math.inf,
    basis: str = ESTIMATED,
    *,
    shape: F64 = LAPLACE,
    masked: bool = False,
) -> Spread:
    """A bell around a mean, within bounds. mean, variance: [*channels], shape: [NODES]."""
    mean, variance = np.broadcast_arrays(mean, variance)
    values = mean + np.sqrt(np.maximum(variance, 0.0)) * shape.reshape(-1, *(1,) * mean.ndim)
    return spread(values, lo, hi, basis, masked=masked)


def constant_spread(array: NDArray[np.generic]) -> Spread:
    """A constant: exact while it is small, else how its elements spread along the last axis."""
    if array.size > MOST_CHANNELS:
        return table_spread(array if array.shape[-1] <= MOST_CHANNELS else array.reshape(-1, 1))
    x = np.asarray(array, np.float64)
    lo = np.where(x > -HUGE, np.minimum(x, HUGE), -math.inf)  # NaN fails any comparison
    hi = np.where(x < HUGE, np.maximum(x, -HUGE), math.inf)
    values = np.broadcast_to(np.where(np.abs(x) < HUGE, x, 0.0), (NODES, *x.shape))
    return Spread(lo, hi, values, CONSTANT, None, _is_mask(x))


def _is_mask(x: F64) -> bool:
    large = ~(np.abs(x) < _MASK)
    return bool(large.any()) and (x.size == 1 or bool((x == 0).any()) or not bool((np.abs(x) < HUGE).all()))


def table_spread(table: NDArray[np.generic]) -> Spread:
    """Any row of a table, whichever it may be. table: [.., D], which may be huge -> channels [D]."""
    rows = table.reshape(-1, table.shape[-1])
    least, most = np.asarray(rows.min(0), np.float64), np.asarray(rows.max(0), np.float64)
    some = np.asarray(rows[:: max(1, len(rows) // _SAMPLED)], np.float64)
    values = np.quantile(np.where(np.abs(some) < HUGE, some, 0.0), CDF, axis=0)
    values[0] = np.where(np.abs(least) < HUGE, least, values[0])
    values[-1] = np.where(np.abs(most) < HUGE, most, values[-1])
    return spread(values, least, most, CONSTANT, masked=_is_mask(np.stack([least, most])) or _is_mask(some))


def any_of(inputs: Sequence[Spread]) -> Spread:
    """One of several spreads, each as likely as any."""
    rank = max(len(x.channels) for x in inputs)
    inputs = [x.aligned(rank) for x in inputs]
    shape = np.broadcast_shapes(*(x.channels for x in inputs))
    inputs = [x.stretched(shape) for x in inputs]
    lo, hi = np.minimum.reduce([x.lo for x in inputs]), np.maximum.reduce([x.hi for x in inputs])
    masked, basis = any(x.masked for x in inputs), weakest(*(x.basis for x in inputs))
    known = [x.values for x in inputs if x.values is not None]
    values = mixture(np.stack(known, 1), (0,))[:, 0] if len(known) == len(inputs) else None
    return spread(values, lo, hi, basis, masked=masked)


def raised(values: F64, rank: int) -> F64:
    """[NODES, *channels] with leading channel axes of 1 up to a rank."""
    return values.reshape(values.shape[0], *(1,) * (rank + 1 - values.ndim), *values.shape[1:])


def weakest(*bases: str) -> str:
    """The roughest of some bases."""
    return max(bases, key=BASES.index)
