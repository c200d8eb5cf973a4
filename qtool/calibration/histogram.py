"""Counts on a grid of bins whose width is a power of two, anchored at zero.

The width follows from the largest magnitude alone. When that grows, bins are joined in pairs, which gives
exactly the counts of the wider grid: histograms merge in any order to the same bits, and each sample is
counted once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
"""Bins on either side of zero. A bin is 1/8 to 1/16 of an 8-bit step."""
_LOG_BINS = BINS.bit_length() - 1
# The exponent for a tensor of zeros: below any float32.
_LEAST_EXPONENT = -160
# Elements that are binned together, so that intermediate arrays stay in the cache.
_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of elements: bin i is [i, i + 1) * width, bin -i is (-i - 1, -i] * width.

    Bin 0 is therefore twice as wide: rounding is towards zero, as where a tiny number underflows.

    Args:
        exponent: the width is 2**exponent.
        first: the index of the first bin in `counts`; negative below zero.
        counts: int64 [bins], from the first bin that is not empty to the last.
    """

    exponent: int
    first: int
    counts: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        same = (self.exponent, self.first) == (other.exponent, other.first)
        return same and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """The number of elements."""
        return int(self.counts.sum())

    def edges(self) -> NDArray[np.float64]:
        """Return the edges of all bins, float64 [bins + 1]."""
        index = np.arange(self.first, self.first + self.counts.size + 1, dtype=np.float64)
        return np.where(index <= 0, index - 1, index) * self.width

    def centers(self) -> NDArray[np.float64]:
        """Return the middle of each bin, float64 [bins]."""
        edges = self.edges()
        return np.asarray((edges[:-1] + edges[1:]) / 2)

    def merge(self, other: Histogram) -> Histogram:
        """Return the counts of both; exact, associative and commutative."""
        collected = Collector()
        collected.add_histogram(self)
        collected.add_histogram(other)
        return collected.histogram()


class Collector:
    """A histogram under construction: counts int64 [2 * BINS], zero in the middle."""

    def __init__(self) -> None:
        self.exponent = _LEAST_EXPONENT
        self.counts = np.zeros(2 * BINS, np.int64)

    def add(self, x: NDArray[np.float32], largest: float) -> None:
        """Count an array's elements, all finite.

        Args:
            x: of any shape.
            largest: the largest magnitude in it.
        """
        self._reach(largest)
        inverse = np.float32(math.ldexp(1.0, -self.exponent)) if self.exponent > -127 else None
        flat = x.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]
            # A power of two: exact except where it underflows. Beyond the powers of float32, in float64.
            scaled = (
                part * inverse if inverse is not None else np.ldexp(part, -self.exponent, dtype=np.float64)
            )
            bins = scaled.astype(np.int16)
            bins += BINS
            self.counts += np.bincount(bins.view(np.uint16), minlength=2 * BINS)

    def add_histogram(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        if not other.counts.size:
            return
        self._reach_exponent(other.exponent)
        bins = _joined(other.first + np.arange(other.counts.size), self.exponent - other.exponent)
        np.add.at(self.counts, bins + BINS, other.counts)

    def histogram(self) -> Histogram:
        """Return the counts so far."""
        used = np.flatnonzero(self.counts)
        if not used.size:
            return Histogram(_LEAST_EXPONENT, 0, np.zeros(0, np.int64))
        first, last = int(used[0]), int(used[-1])
        return Histogram(self.exponent, first - BINS, self.counts[first : last + 1].copy())

    def _reach(self, largest: float) -> None:
        """Widen the bins until a magnitude lies within them."""
        if largest > 0:
            # largest < 2**e, and so within BINS bins of 2**(e - log2(BINS)).
            self._reach_exponent(math.frexp(largest)[1] - _LOG_BINS)

    def _reach_exponent(self, exponent: int) -> None:
        if exponent <= self.exponent:
            return
        old, shift = self.counts, exponent - self.exponent
        self.counts = np.zeros_like(old)
        np.add.at(self.counts, _joined(np.arange(2 * BINS) - BINS, shift) + BINS, old)
        self.exponent = exponent


def _joined(bins: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Return the indices of bins on a grid 2**shift times as wide."""
    return np.asarray(np.sign(bins) * (np.abs(bins) >> min(shift, 62)))
