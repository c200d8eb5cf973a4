"""What samples hold: figures of one input, gathered sample by sample in float64."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Elements that are looked at together: what is made of them in float64 stays small.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Figures:
    """Of finite numbers; `infinite` counts the others, which only masks have. No numbers: all are 0."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    infinite: int = 0


class Moments:
    """Extremes, mean and variance of numbers that come in pieces, by the merging rule of Chan et al."""

    def __init__(self) -> None:
        self.count = self.infinite = 0
        self.low, self.high = math.inf, -math.inf
        self.integral = True
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Take in a piece, of one axis."""
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
        apart = mean - self._mean
        self._squares += float(np.square(values - mean).sum())
        self._squares += apart * apart * self.count * values.size / total
        self._mean += apart * values.size / total
        self.count = total

    def figures(self) -> Figures:
        """All of it so far."""
        if not self.count:
            return Figures(0, 0.0, 0.0, 0.0, 0.0, self.infinite)
        std = math.sqrt(max(self._squares, 0.0) / self.count)
        return Figures(self.count, self.low, self.high, self._mean, std, self.infinite)


class Tally:
    """One input over many samples.

    Args:
        axis: that of the channels, for figures of each of them; None: there are none.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.given: Counter[str] = Counter()
        self.whole = Moments()
        self.channels: list[Moments] = []

    def add(self, array: NDArray[Any], given: str) -> None:
        """Take in a sample's array, which was of the type `given` before it became the model's."""
        self.shapes[array.shape] += 1
        self.given[given] += 1
        if array.dtype.kind not in "fiub":
            return
        self.whole.add(array.reshape(-1))
        if self._axis is None:
            return
        planes = np.moveaxis(array, self._axis, 0)
        self.channels += [Moments() for _ in range(len(planes) - len(self.channels))]
        for moments, plane in zip(self.channels, planes, strict=False):
            moments.add(plane.reshape(-1))
