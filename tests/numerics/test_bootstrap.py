"""The bootstrap of a median, against the same in plain Python, and against the truth."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from qtool.numerics.bootstrap import median_interval, quantile, tail


def plain_quantile(values: list[float], share: float) -> float:
    """Linear between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@pytest.mark.parametrize("count", [1, 2, 6, 7, 40])
def test_the_interval_is_that_of_a_plain_computation(count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count).tolist()
    drawn = np.random.default_rng(5).integers(0, count, (300, count))
    medians = [statistics.median(values[i] for i in row) for row in drawn]
    found = median_interval(values, seed=5, resamples=300)
    outside = tail(count)
    assert found == pytest.approx((plain_quantile(medians, outside), plain_quantile(medians, 1 - outside)))


def test_the_interval_is_the_same_every_time_and_mirrored_for_negated_values() -> None:
    values = np.random.default_rng(0).standard_normal(15).tolist()
    low, high = median_interval(values)
    assert (low, high) == median_interval(values)
    assert median_interval([-v for v in values]) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("count", "student"), [(6, 2.571), (8, 2.365), (15, 2.145), (40, 2.023), (10_000, 1.960)]
)
def test_few_values_leave_less_outside_as_student_has_it(count: int, student: float) -> None:
    expected = statistics.NormalDist().cdf(-student * math.sqrt(count / (count - 1)))
    assert tail(count) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("count", [6, 7, 8, 10, 15, 40])
def test_it_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(0)
    drawn = random.lognormal(0.0, 0.5, (1000, count))
    held = [low <= 1 <= high for low, high in (median_interval(r.tolist(), resamples=500) for r in drawn)]
    assert np.mean(held) >= 0.94


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_those_of_a_plain_computation(share: float) -> None:
    values = np.random.default_rng(1).exponential(size=217).tolist()
    assert quantile(values, share) == pytest.approx(plain_quantile(values, share))


@pytest.mark.parametrize(("share", "least"), [(0.5, 2), (0.9, 10), (0.99, 100)])
def test_a_quantile_of_too_few_values_is_not_told(share: float, least: int) -> None:
    assert quantile([1.0] * (least - 1), share) is None
    assert quantile([1.0] * least, share) == 1.0
