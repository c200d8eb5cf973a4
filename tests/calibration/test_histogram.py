"""Histograms hold every element in its true bin, and merge to the bit in any order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.calibration.histogram import BINS, Collector, Histogram
from tests.tiers import examples

ARRAYS = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-(2.0**90), 2.0**90, width=32),
)


def counted(*arrays: np.ndarray) -> Histogram:
    collector = Collector()
    for array in arrays:
        collector.add(array, float(np.abs(array).max()))
    return collector.histogram()


def plainly(x: np.ndarray) -> Histogram:
    """All data in memory, exact fractions: what a histogram should be."""
    largest = float(np.abs(x).max())
    exponent = math.frexp(largest)[1] - BINS.bit_length() + 1 if largest else -160
    bins = [math.trunc(math.ldexp(float(v), -exponent)) for v in x.reshape(-1)]
    counts = np.bincount(np.array(bins) - min(bins))
    return Histogram(exponent, min(bins), counts.astype(np.int64))


@settings(max_examples=examples(200), deadline=None)
@given(ARRAYS)
def test_every_element_is_in_its_bin(x: np.ndarray) -> None:
    histogram = counted(x)
    assert histogram == plainly(x)
    assert histogram.total == x.size
    assert histogram.edges()[0] <= x.min()
    assert x.max() <= histogram.edges()[-1]


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(ARRAYS, min_size=2, max_size=4))
def test_in_parts_and_in_any_order_it_is_the_same(parts: list[np.ndarray]) -> None:
    together = plainly(np.concatenate(parts))
    assert counted(*parts) == together
    for order in itertools.permutations([counted(p) for p in parts]):
        merged = order[0]
        for other in order[1:]:
            merged = merged.merge(other)
        assert merged == together
    first, second, *rest = (counted(p) for p in parts)
    tail = second
    for other in rest:
        tail = tail.merge(other)
    assert first.merge(tail) == together


@pytest.mark.parametrize("shape", [(3, 70_001), (200_000,), ()])
def test_large_and_small_arrays(shape: tuple[int, ...]) -> None:
    x = np.asarray(np.random.default_rng(0).standard_normal(shape), np.float32)
    assert counted(x) == plainly(x)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38, -1e-38, 1e30, -1e30, 1.0, 2.0, -2048.0])
def test_odd_magnitudes(value: float) -> None:
    x = np.array([value, 0.0], np.float32)
    assert counted(x) == plainly(x)


def test_an_empty_histogram() -> None:
    empty = Collector().histogram()
    assert empty.total == 0
    some = counted(np.ones(3, np.float32))
    assert some.merge(empty) == some == empty.merge(some)
