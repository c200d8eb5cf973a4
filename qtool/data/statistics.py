"""Minimum, maximum, mean and variance of inputs, gathered sample by sample for `qtool data`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Elements that are converted to float64 at once.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Figures:
    """Statistics of finite numbers; all are 0 if there are none. `infinite` counts the other numbers."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    infinite: int = 0


class Moments:
    """Extremes, mean and variance of numbers in pieces, by the merging rule of Chan et al. (1983)."""

    def __init__(self) -> None:
        self.count = self.infinite = 0
        self.low, self.high = math.inf, -math.inf
        self.integral = True
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Add an array of one axis."""
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK].astype(np.float64)
            finite = block[np.isfinite(block)]
            self.infinite += block.size - finite.size
            if finite.size:
                self._merge(finite)

    def _merge(self, values: NDArray[np.float64]) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.integral = self.integral and bool(np.array_equal(values, np.rint(values)))
        mean = float(values.mean())
        total = self.count + values.size
        difference = mean - self._mean
        self._squares += float(np.square(values - mean).sum())
        self._squares += difference * difference * self.count * values.size / total
        self._mean += difference * values.size / total
        self.count = total

    def figures(self) -> Figures:
        """Return the statistics of all numbers so far."""
        if not self.count:
            return Figures(0, 0.0, 0.0, 0.0, 0.0, self.infinite)
        std = math.sqrt(max(self._squares, 0.0) / self.count)
        return Figures(self.count, self.low, self.high, self._mean, std, self.infinite)


class InputStatistics:
    """Statistics of one input over many samples.

    Args:
        axis: of the channels, for statistics of each channel; None: there are no channels.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.source_dtypes: Counter[str] = Counter()
        self.all = Moments()
        self.channels: list[Moments] = []

    def add(self, array: NDArray[Any], source_dtype: str) -> None:
        """Add the array of a sample.

        Args:
            array: in the type of the model's input.
            source_dtype: its type in the sample, before it was cast.
        """
        self.shapes[array.shape] += 1
        self.source_dtypes[source_dtype] += 1
        if array.dtype.kind not in "fiub":
            return
        self.all.add(array.reshape(-1))
        if self._axis is None:
            return
        planes = np.moveaxis(array, self._axis, 0)
        self.channels += [Moments() for _ in range(len(planes) - len(self.channels))]
        for moments, plane in zip(self.channels, planes, strict=False):
            moments.add(plane.reshape(-1))
