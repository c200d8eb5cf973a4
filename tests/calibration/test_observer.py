"""Statistics of many tensors at once are those of each tensor alone, and of all elements."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qtool.calibration.observer import COUNTED, LOGGED, Observer, stride
from qtool.calibration.ranges import merged
from tests.graphs import rng
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
floats = st.floats(-(2.0**90), 2.0**90, width=32)
samples = st.lists(
    st.tuples(
        *(npst.arrays(np.float32, st.sampled_from([(0,), (3,), (2, 2)]), elements=floats) for _ in "abc")
    ),
    min_size=1,
    max_size=6,
)


def tallied(made: list[tuple[np.ndarray, ...]], histograms: bool = True) -> Observer:
    observer = Observer(["a", "b", "c"], histograms)
    for arrays in made:
        assert observer.add(arrays) is None
    return observer


@LAW
@given(made=samples)
def test_extremes_and_sums_are_exact(made: list[tuple[np.ndarray, ...]]) -> None:
    ranges = tallied(made).ranges()
    for i, name in enumerate("abc"):
        parts = [arrays[i] for arrays in made if arrays[i].size]
        assert (name in ranges) == bool(parts)
        if not parts:
            continue
        observed = ranges[name]
        assert (observed.lo, observed.hi) == (min(p.min() for p in parts), max(p.max() for p in parts))
        assert (observed.count, observed.samples) == (sum(p.size for p in parts), len(parts))
        assert Fraction(observed.lo_sum, 2**149) == sum(Fraction(float(p.min())) for p in parts)
        assert Fraction(observed.hi_sum, 2**149) == sum(Fraction(float(p.max())) for p in parts)


@LAW
@given(made=samples, cut=st.integers(0, 6))
def test_samples_that_are_cut_up_merge_to_the_whole(made: list[tuple[np.ndarray, ...]], cut: int) -> None:
    parts = [tallied(part).ranges() for part in (made[:cut], made[cut:])]
    assert merged(*parts) == tallied(made).ranges()


def test_reading_statistics_early_changes_nothing() -> None:
    made = [(rng(i).standard_normal(50).astype(np.float32),) * 3 for i in range(40)]
    observed_names = Observer(["a", "b", "c"], True)
    for arrays in made:
        observed_names.add(arrays)
        observed_names.ranges()
    assert observed_names.ranges() == tallied(made).ranges()


def test_reused_buffers_are_not_the_last_sample() -> None:
    memory = np.zeros(100, np.float32)
    repeated, fresh = Observer(["x"], True), Observer(["x"], True)
    for i in range(20):
        memory[:] = rng(i).standard_normal(100)
        repeated.add([memory])
        fresh.add([memory.copy()])
    assert repeated.ranges() == fresh.ranges()


@pytest.mark.parametrize(
    "size", [1, COUNTED - 1, COUNTED, 2 * COUNTED - 1, 2 * COUNTED, 16 * 32 * 32, 10**6, 3_072_000]
)
@pytest.mark.parametrize("least", [LOGGED, COUNTED])
def test_strides_are_coprime_and_draw_the_requested_share(size: int, least: int) -> None:
    step = stride(size, least)
    assert math.gcd(step, size) == 1
    taken = -(-size // step)
    assert min(size, least) * 0.6 <= taken <= max(2 * least, 1)


def test_a_part_of_a_large_tensor_has_its_distribution() -> None:
    """Channels that differ, on images whose width the stride might divide: no row or channel is left out."""
    x = rng(0).standard_normal((1, 64, 64, 64)).astype(np.float32) * np.arange(1, 65).reshape(1, 64, 1, 1)
    observer = Observer(["x"], True)
    observer.add([x.astype(np.float32)])
    histogram = observer.ranges()["x"].histogram
    assert histogram is not None
    assert COUNTED * 0.7 <= histogram.total <= 2 * COUNTED
    spread = math.sqrt(float((histogram.counts * histogram.centers() ** 2).sum() / histogram.total))
    assert spread == pytest.approx(float(np.sqrt((x**2).mean())), rel=0.1)


@pytest.mark.parametrize("histograms", [False, True])
@pytest.mark.parametrize(("wrong", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_errors_name_the_tensor(wrong: float, word: str, histograms: bool) -> None:
    observer = Observer(["a", "b"], histograms)
    assert observer.add([np.ones(3, np.float32), np.array([0.0, wrong], np.float32)]) == ("b", word)


def test_masks_are_in_no_histogram() -> None:
    observer = Observer(["x"], True)
    for row in ([1.0, -np.inf], [2.0, 3.0], [-3.4e38, 0.0]):
        assert observer.add([np.array(row, np.float32)]) is None
    observed = observer.ranges()["x"]
    assert (observed.lo, observed.hi, observed.masked, observed.count) == (0.0, 3.0, 2, 6)
    assert observed.histogram is not None
    assert observed.histogram.total == 4


def test_nonnegative_values_have_minimum_zero() -> None:
    observer = Observer(["r", "x"], True, frozenset({"r"}))
    for row in ([1.0, 2.0], [3.0, 0.5]):
        assert observer.add([np.array(row, np.float32)] * 2) is None
    ranges = observer.ranges()
    assert (ranges["r"].lo, ranges["r"].hi, ranges["r"].lo_sum) == (0.0, 3.0, 0)
    assert (ranges["x"].lo, ranges["x"].hi) == (0.5, 3.0)


@pytest.mark.parametrize(("wrong", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_errors_name_nonnegative_tensors(wrong: float, word: str) -> None:
    observer = Observer(["r"], False, frozenset({"r"}))
    assert observer.add([np.array([0.0, wrong], np.float32)]) == ("r", word)
