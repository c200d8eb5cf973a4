"""The observer: collects statistics of all observed tensors, in a few numpy calls a sample.

A small model runs in half a millisecond and has dozens of tensors, so work tensor by tensor must cost next to
nothing. Extremes are of all elements. The typical magnitude and the histogram of a large tensor are of every
k-th element, with k coprime to the size, so that all rows and channels take part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import numpy as np
from numpy.typing import NDArray

from qtool.calibration.histogram import Collector
from qtool.calibration.ranges import HUGE, LOG_UNIT, UNIT, Range, Ranges

COUNTED = 4096
"""Elements of a tensor in a sample that go into its histogram: about this number, at most twice."""
LOGGED = 512
"""Elements that go into the typical magnitude, likewise."""
# Samples whose elements are counted together.
_BATCH = 16
# Elements whose minimum and maximum are computed one after the other, while they are in the cache.
_CHUNK = 1 << 17
# np.frexp of a float32: a mantissa of 24 bits, 0.5 <= |m| < 1, and an exponent from -148 to 128.
_MANTISSA = 24
_LEAST_EXPONENT = -148
_EXPONENTS = 128 - _LEAST_EXPONENT + 1

Floats = NDArray[np.floating]


class _Layout:
    """The layout of the arrays of samples of one shape.

    Args:
        sizes: of the arrays.
        counted: the number of elements of each that are counted, about.
    """

    def __init__(self, sizes: list[int], counted: int) -> None:
        self.sizes = sizes
        self.index = np.flatnonzero(sizes)  # without empty ones
        self._strides = [stride(sizes[i], counted) for i in self.index]
        lengths = [-(-sizes[i] // step) for i, step in zip(self.index, self._strides, strict=True)]
        ends = np.cumsum([0, *lengths])
        self.starts, self.width = ends[:-1], int(ends[-1])
        self._arrays: list[Floats | None] = [None] * len(self.index)
        self.flat: list[Floats] = [np.zeros(0)] * len(self.index)
        self.parts: list[Floats] = [np.zeros(0)] * len(self.index)

    def set_views(self, arrays: Sequence[Floats]) -> None:
        """Make views of these arrays; those of an array that is the same as last time stay."""
        for k, i in enumerate(self.index.tolist()):
            if arrays[i] is not self._arrays[k]:
                self._arrays[k] = arrays[i]
                self.flat[k] = arrays[i].reshape(-1)
                self.parts[k] = self.flat[k][:: self._strides[k]]


class Observer:
    """The statistics of some tensors, sample by sample.

    Args:
        names: of the tensors.
        histograms: whether to collect histograms, too.
        positive: names of those that are never negative: their minimum is taken to be 0, since any grid has
            a zero.
    """

    def __init__(self, names: Sequence[str], histograms: bool, positive: Set[str] = frozenset()) -> None:
        size = len(names)
        self._signed = np.array([name not in positive for name in names], bool)
        self._names = list(names)
        self._counted = COUNTED if histograms else LOGGED
        self._collectors = [Collector() for _ in names] if histograms else []
        self._lo = np.full(size, np.inf)
        self._hi = np.full(size, -np.inf)
        self._integers = {
            key: np.zeros(size, np.int64)
            for key in ("count", "masked", "infinite", "logs", "log_count", "samples")
        }
        # Sums of extremes: per tensor and exponent the mantissas, which are integers.
        self._sums = np.zeros((2, size, _EXPONENTS), np.int64)
        self._layout = _Layout([], 1)
        self._waiting = np.zeros((0, 0), np.float32)
        self._rows = 0

    def add(self, arrays: Sequence[Floats]) -> tuple[str, str] | None:
        """Add the arrays of a sample, in the order of the names: floats of any shapes.

        Returns:
            the name of a tensor that holds NaN or +infinity (-inf is a mask), and which of them; else None.
        """
        layout = self._layout_of(arrays)
        if not layout.flat:
            return None
        lo, hi = _extremes(layout.flat, self._signed[layout.index].tolist())
        parts = self._row(layout)
        masked, infinite = np.zeros((2, len(lo)), np.int64)
        for i in np.flatnonzero(~((lo >= -HUGE) & (hi <= HUGE))):
            flat = layout.flat[i].astype(np.float32, copy=False)  # float16 can't hold HUGE
            if np.isnan(lo[i]) or hi[i] == np.inf:
                return self._names[layout.index[i]], "NaN" if np.isnan(flat).any() else "infinity"
            unmasked = flat[np.abs(flat) <= HUGE]
            lo[i], hi[i] = unmasked.min(initial=0.0), unmasked.max(initial=0.0)
            masked[i] = flat.size - unmasked.size
            infinite[i] = np.count_nonzero(np.isneginf(flat))
        if masked.any():
            np.clip(parts, -2 * HUGE, 2 * HUGE, out=parts)
        self._integers["infinite"][layout.index] += infinite
        self._take(layout, lo, hi, masked)
        self._take_logs(layout, parts)
        if self._collectors:
            self._rows += 1
            if self._rows == len(self._waiting):
                self._count()
        return None

    def ranges(self) -> Ranges:
        """Return the statistics so far, without tensors that never held an element."""
        self._count()
        n = {key: values.tolist() for key, values in self._integers.items()}
        ranges: Ranges = {}
        for i, name in enumerate(self._names):
            if not n["samples"][i]:
                continue
            lo_sum, hi_sum = (_exact(self._sums[end, i]) for end in (0, 1))
            ranges[name] = Range(
                float(self._lo[i]),
                float(self._hi[i]),
                n["count"][i],
                n["masked"][i],
                n["logs"][i],
                n["log_count"][i],
                n["samples"][i],
                lo_sum,
                hi_sum,
                self._collectors[i].histogram() if self._collectors else None,
                n["infinite"][i],
            )
        return ranges

    def _layout_of(self, arrays: Sequence[Floats]) -> _Layout:
        """Return the layout of these arrays, which is mostly that of the sample before."""
        sizes = [array.size for array in arrays]
        if sizes != self._layout.sizes:
            self._count()
            self._layout = _Layout(sizes, self._counted)
            rows = _BATCH if self._collectors else 1
            self._waiting = np.empty((rows, self._layout.width), np.float32)
        self._layout.set_views(arrays)
        return self._layout

    def _row(self, layout: _Layout) -> NDArray[np.float32]:
        """Return all parts end to end, in the next row of the batch to be counted."""
        row: NDArray[np.float32] = self._waiting[self._rows]
        np.concatenate(layout.parts, out=row, casting="same_kind")
        return row

    def _take(
        self, layout: _Layout, lo: NDArray[np.float64], hi: NDArray[np.float64], masked: NDArray[np.int64]
    ) -> None:
        at = layout.index
        self._lo[at] = np.minimum(self._lo[at], lo)
        self._hi[at] = np.maximum(self._hi[at], hi)
        for end, values in enumerate((lo, hi)):
            mantissa, exponent = np.frexp(values.astype(np.float32))
            self._sums[end, at, exponent - _LEAST_EXPONENT] += np.ldexp(mantissa, _MANTISSA).astype(np.int64)
        n = self._integers
        n["count"] += layout.sizes
        n["masked"][at] += masked
        n["samples"][at] += 1

    def _take_logs(self, layout: _Layout, parts: NDArray[np.float32]) -> None:
        if self._collectors:  # a subset of the subset
            pieces = [p[:: stride(p.size, LOGGED)] for p in np.split(parts, layout.starts[1:])]
            starts = np.cumsum([0, *(p.size for p in pieces)])[:-1]
            parts = np.concatenate(pieces)
        else:
            starts = layout.starts
        magnitude = np.abs(parts)
        used = (magnitude > 0) & (magnitude <= HUGE)
        logs = np.log2(np.where(used, magnitude, np.float32(1)))
        n = self._integers
        sums = np.add.reduceat(logs, starts, dtype=np.float64)
        n["logs"][layout.index] += np.rint(sums * LOG_UNIT).astype(np.int64)
        n["log_count"][layout.index] += np.add.reduceat(used, starts, dtype=np.int64)

    def _count(self) -> None:
        """Add the batch to the histograms."""
        layout, rows = self._layout, self._rows
        self._rows = 0
        if not rows:
            return
        ends = [*layout.starts[1:].tolist(), layout.width]
        for i, start, end in zip(layout.index.tolist(), layout.starts.tolist(), ends, strict=True):
            block = self._waiting[:rows, start:end]
            if self._integers["masked"][i]:
                block = block[np.abs(block) <= HUGE]
            self._collectors[i].add(block, max(-self._lo[i], self._hi[i]))


def stride(size: int, least: int) -> int:
    """Return a step coprime to `size` that takes about `least` of its elements, or more."""
    step = max(1, size // least)
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _extremes(arrays: list[Floats], signed: list[bool]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the minimum (0 where it is not signed) and maximum of each array; NaN where it holds one."""
    lo, hi = [], []
    least, greatest = np.minimum.reduce, np.maximum.reduce
    for flat, both in zip(arrays, signed, strict=True):
        if not both:
            top = greatest(flat)
            lo.append(0.0 if top == top else np.nan)
            hi.append(top)
        elif flat.size <= _CHUNK:
            lo.append(least(flat))
            hi.append(greatest(flat))
        else:
            chunks = [flat[at : at + _CHUNK] for at in range(0, flat.size, _CHUNK)]
            ends = [(least(c), greatest(c)) for c in chunks]
            lo.append(least([e[0] for e in ends]))
            hi.append(greatest([e[1] for e in ends]))
    return np.array(lo, np.float64), np.array(hi, np.float64)


def _exact(mantissas: NDArray[np.int64]) -> int:
    """Return the sum over exponents, in units of 2**-149."""
    total = 0
    for column in np.flatnonzero(mantissas).tolist():
        exponent = column + _LEAST_EXPONENT - _MANTISSA + UNIT
        total += int(mantissas[column]) << exponent if exponent >= 0 else int(mantissas[column]) >> -exponent
    return total
