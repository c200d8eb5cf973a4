"""The values of tensors on samples: in FP32 and in the quantized model, with ranges and channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qtool.calibration.observer import stride
from qtool.evaluate.analysis.model import ChannelRanges, Histogram
from qtool.numerics.metrics import sqnr_db
from qtool.plan.read_back.inputs import Stored

BINS = 64
# Values of a tensor in a sample that its histogram is made of, about.
_KEPT = 2048
# A channel is an outlier if its magnitude is this many times that of the median channel.
_OUTLIER = 8.0
# More channels have no ranges of their own.
_MOST_CHANNELS = 4096


@dataclass(frozen=True)
class Grid:
    """The grid of an activation; at run time it follows each sample.

    Args:
        scale, zero: of the grid; nan at run time.
        qmin, qmax: the least and the greatest integer.
    """

    scale: float
    zero: float
    qmin: int
    qmax: int

    def of(self, x: NDArray[np.floating]) -> Grid:
        """Return the grid of one sample."""
        if not math.isnan(self.scale):
            return self
        lo, hi = min(float(x.min(initial=0.0)), 0.0), max(float(x.max(initial=0.0)), 0.0)
        scale = (hi - lo) / (self.qmax - self.qmin) or 1.0
        return Grid(scale, round(self.qmin - lo / scale), self.qmin, self.qmax)

    @property
    def low(self) -> float:
        """The least value that it holds."""
        return (self.qmin - self.zero) * self.scale

    @property
    def high(self) -> float:
        """The greatest value that it holds."""
        return (self.qmax - self.zero) * self.scale

    def rounded(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return values after quantization."""
        q = np.clip(np.rint(x / np.float32(self.scale)) + self.zero, self.qmin, self.qmax)
        return np.asarray((q - self.zero) * np.float32(self.scale), np.float32)


@dataclass
class Statistics:
    """The sums over samples of one tensor.

    Args:
        axis: of its channels; None: it has none.
    """

    axis: int | None
    count: int = 0
    clipped: int = 0
    power: float = 0.0
    error: float = 0.0
    steps: float = 0.0
    accumulated: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    kept: list[NDArray[np.float32]] = field(default_factory=list)
    after: list[NDArray[np.float32]] = field(default_factory=list)
    channels: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def add(
        self,
        x: NDArray[np.float32],
        other: NDArray[np.float32] | None,
        grid: Grid | None,
        *,
        channels: bool = True,
    ) -> None:
        """Add a sample.

        Args:
            x, other: the tensor in FP32 and in the quantized model.
            grid: of the tensor; None where it is not quantized.
            channels: whether it counts for the ranges of channels: another tensor of the same scale does not.
        """
        finite = np.isfinite(x) & (np.abs(x) < 1e30)  # without masks
        values = x[finite]
        if not values.size:
            return
        self.count += values.size
        self.power += float(np.square(values, dtype=np.float64).sum())
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if other is not None and other.shape == x.shape:
            d = np.asarray(other[finite], np.float64) - values
            self.accumulated += float(np.square(d[np.isfinite(d)]).sum())
        part = values[:: stride(values.size, _KEPT)]
        self.kept.append(part.astype(np.float32))
        if grid is not None:
            own = grid.of(values)
            d = own.rounded(values).astype(np.float64) - values
            self.error += float(np.square(d).sum())
            self.steps += float(np.square(d / own.scale).sum())
            half = own.scale / 2
            self.clipped += int(np.count_nonzero((values < own.low - half) | (values > own.high + half)))
            self.after.append(own.rounded(part))
        axis = self.axis if channels else None
        if axis is not None and -x.ndim <= axis < x.ndim and x.shape[axis] <= _MOST_CHANNELS:
            others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
            clean = np.where(finite, x, np.float32(0))
            self.channels.append((clean.min(axis=others), clean.max(axis=others)))

    @property
    def own_sqnr(self) -> float:
        """SQNR of the tensor itself, rounded."""
        return sqnr_db(self.power, self.error)

    @property
    def accumulated_sqnr(self) -> float:
        """SQNR of the tensor in the quantized model."""
        return sqnr_db(self.power, self.accumulated)

    @property
    def rmse_steps(self) -> float:
        """RMSE / scale."""
        return math.sqrt(self.steps / self.count) if self.count else math.nan

    def histogram(self) -> Histogram | None:
        """Return the histogram of the values that were kept."""
        if not self.kept or not self.after:
            return None
        return histogram(np.concatenate(self.kept), np.concatenate(self.after))

    def channel_ranges(self) -> ChannelRanges | None:
        """Return the range of each channel over all samples; None where their number differs."""
        if self.axis is None or not self.channels or len({lo.shape for lo, _ in self.channels}) > 1:
            return None
        low = np.min([lo for lo, _ in self.channels], axis=0)
        high = np.max([hi for _, hi in self.channels], axis=0)
        return ranges_of(self.axis, low, high, low == high)


def histogram(before: NDArray[np.float32], after: NDArray[np.float32]) -> Histogram:
    """Return both histograms over the range of the values before."""
    low, high = float(before.min()), float(before.max())
    high = high if high > low else low + 1.0
    counts = [np.histogram(np.clip(a, low, high), BINS, (low, high))[0] for a in (before, after)]
    return Histogram(low, high, *(c.astype(np.int64) for c in counts))


def ranges_of(
    axis: int, low: NDArray[np.float32], high: NDArray[np.float32], dead: NDArray[np.bool_]
) -> ChannelRanges:
    """Return the ranges of channels, with those that are dead or outliers."""
    magnitude = np.maximum(np.abs(low), np.abs(high))
    alive = magnitude[~dead]
    limit = _OUTLIER * float(np.median(alive)) if alive.size else math.inf
    outliers = np.flatnonzero(magnitude > limit) if limit > 0 else np.zeros(0, int)
    return ChannelRanges(
        axis,
        low.astype(np.float32),
        high.astype(np.float32),
        tuple(np.flatnonzero(dead).tolist()),
        tuple(outliers.tolist()),
    )


def weight_statistics(array: NDArray[np.float32], stored: Stored, axis: int | None) -> Statistics:
    """Return the statistics of a weight."""
    made = Statistics(axis)
    made.add(array, None, None)
    d = stored.array.astype(np.float64) - array
    made.error = float(np.square(d).sum())
    part = slice(None, None, stride(array.size, _KEPT * 4))
    made.kept = [array.reshape(-1)[part]]
    made.after = [stored.array.reshape(-1)[part]]
    if stored.steps is None:
        made.steps = math.nan
    else:
        made.steps = float(np.square(d / np.where(stored.steps > 0, stored.steps, 1)).sum())
    return made
