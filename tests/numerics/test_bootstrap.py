"""Intervals by resampling, against the same in plain Python, and against the truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from qtool.numerics.bootstrap import log_ratio_half_width, median_interval, quantile, student, tail


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
    interval = median_interval(values, seed=5, resamples=300)
    outside = tail(count)
    assert interval == pytest.approx((plain_quantile(medians, outside), plain_quantile(medians, 1 - outside)))


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
def test_it_covers_the_true_median_as_stated(count: int) -> None:
    random = np.random.default_rng(0)
    drawn = random.lognormal(0.0, 0.5, (1000, count))
    held = [low <= 1 <= high for low, high in (median_interval(r.tolist(), resamples=500) for r in drawn)]
    assert np.mean(held) >= 0.94


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_those_of_a_plain_computation(share: float) -> None:
    values = np.random.default_rng(1).exponential(size=217).tolist()
    assert quantile(values, share) == pytest.approx(plain_quantile(values, share))


@pytest.mark.parametrize(("share", "least"), [(0.5, 2), (0.9, 10), (0.99, 100)])
def test_too_few_values_have_no_quantile(share: float, least: int) -> None:
    assert quantile([1.0] * (least - 1), share) is None
    assert quantile([1.0] * least, share) == 1.0


# Tables of Student's t, two-sided 95%.
@pytest.mark.parametrize(
    ("free", "quantile_", "off"),
    [
        (1, 12.706, 1e-4),
        (2, 4.303, 1e-4),
        (3, 3.182, 1e-2),
        (7, 2.365, 1e-3),
        (30, 2.042, 1e-3),
        (1000, 1.962, 1e-3),
    ],
)
def test_students_quantiles_are_those_of_the_tables(free: int, quantile_: float, off: float) -> None:
    assert student(free) == pytest.approx(quantile_, rel=off)


def test_the_jackknife_is_that_of_a_plain_computation() -> None:
    random = np.random.default_rng(0)
    a, d = random.lognormal(size=9).tolist(), random.lognormal(size=9).tolist()
    without = [math.log((sum(a) - x) / (sum(d) - y)) for x, y in zip(a, d, strict=True)]
    mean = statistics.fmean(without)
    error = math.sqrt(8 / 9 * sum((w - mean) ** 2 for w in without))
    assert log_ratio_half_width(a, d) == pytest.approx(2.306 * error, rel=1e-3)
    assert log_ratio_half_width(d, a) == pytest.approx(log_ratio_half_width(a, d))
    assert log_ratio_half_width(np.multiply(a, 1e9), d) == pytest.approx(log_ratio_half_width(a, d))


def test_proportional_values_have_a_narrow_interval_and_one_value_none() -> None:
    assert log_ratio_half_width([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(0, abs=1e-12)
    assert log_ratio_half_width([1.0], [2.0]) == 0


def test_a_sum_that_one_value_makes_up_has_a_wide_interval_and_no_infinite_one() -> None:
    half = log_ratio_half_width([1.0] * 8, [5.0] + [0.0] * 7)
    assert 2 < half < 10


DRAWS: dict[str, Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
    "even": lambda r, n: (r.chisquare(100, n) / 100, r.chisquare(10, n) / 10),
    "uneven": lambda r, n: (r.lognormal(-0.125, 0.5, n), r.lognormal(-0.5, 1.0, n)),
    "proportional": lambda r, n: ((a := r.lognormal(-0.5, 1.0, n)), a * r.lognormal(-0.125, 0.5, n)),
}


@pytest.mark.parametrize("count", [8, 16, 64])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_jackknife_covers_the_true_ratio(
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], count: int
) -> None:
    """Nominally 95%: the table in its docstring. The true ratio is 1."""
    random = np.random.default_rng(count)
    drawn = [draw(random, count) for _ in range(1000)]
    held = [abs(math.log(a.sum() / d.sum())) <= log_ratio_half_width(a, d) for a, d in drawn]
    assert np.mean(held) >= 0.89
