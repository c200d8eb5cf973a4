"""The Pareto front: every point is best for its weight, and no point that is best for some weight is missing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.build_network import RegionCosts
from qtool.placement.network import Network
from qtool.placement.pareto import ParetoPoint, between, envelope, spread
from qtool.placement.regions import Region
from qtool.plan.predict import TensorNoise
from tests.placement.networks import chain, networks, subsets
from tests.tiers import examples

Figures = tuple[float, float]


def every(network: Network) -> list[Figures]:
    """Seconds and noise of all choices."""
    return [(network.seconds(s), network.noise_of(s)) for s in subsets(network)]


def hull(points: list[Figures]) -> list[Figures]:
    """The corners of the lower convex hull that some weight above 0 is the best for."""
    actual: list[Figures] = []
    for point in sorted(set(points)):
        if actual and point[1] >= actual[-1][1]:
            continue
        while len(actual) > 1 and _left(actual[-2], actual[-1], point) <= 1e-9:
            actual.pop()
        actual.append(point)
    return actual


def _left(a: Figures, b: Figures, c: Figures) -> float:
    """Positive where b is below the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@given(networks())
@settings(max_examples=examples(200), deadline=None)
def test_every_point_is_the_best_for_its_weight(network: Network) -> None:
    choices = every(network)
    for point in envelope(network):
        best = min(seconds + point.weight * noise for seconds, noise in choices)
        assert point.seconds + point.weight * point.noise == pytest.approx(best)
        assert network.forced <= point.int8


@given(networks())
@settings(max_examples=examples(200), deadline=None)
def test_every_corner_is_found(network: Network) -> None:
    actual = {(round(p.seconds, 6), round(p.noise, 6)) for p in envelope(network)}
    for seconds, noise in hull(every(network)):
        assert (round(seconds, 6), round(noise, 6)) in actual


@given(networks())
@settings(max_examples=examples(100), deadline=None)
def test_faster_points_have_more_noise(network: Network) -> None:
    for fast, true in pairwise(envelope(network)):
        assert fast.seconds <= true.seconds
        assert fast.noise >= true.noise or fast.seconds == pytest.approx(true.seconds)


@given(networks(), st.integers(1, 3))
@settings(max_examples=examples(50), deadline=None)
def test_both_ends_are_found_with_few_cuts(network: Network, most: int) -> None:
    full, short = envelope(network), envelope(network, most)
    assert {full[0].int8, full[-1].int8} <= {p.int8 for p in short}
    assert len(short) <= most + 2


@given(networks())
@settings(max_examples=examples(100), deadline=None)
def test_between_two_points_regions_go_back_one_by_one(network: Network) -> None:
    for fast, true in pairwise(envelope(network)):
        inner = between(network, fast, true)
        steps = [fast, *map(inner.point, range(len(inner)))]
        for step in steps[1:]:
            actual = inner.fastest_within(step.noise)
            assert actual is not None
            assert actual.noise <= step.noise
            assert actual.seconds <= step.seconds
        assert inner.fastest_within(-1.0) is None
        for before, after in pairwise(steps):
            assert after.int8 < before.int8
            assert len(before.int8 - after.int8) == 1
            assert after.seconds == pytest.approx(network.seconds(after.int8))
            assert after.noise == pytest.approx(network.noise_of(after.int8))


@given(networks(), st.integers(1, 9))
@settings(max_examples=examples(100), deadline=None)
def test_a_spread_has_the_fastest_and_no_dominated_point(network: Network, count: int) -> None:
    points = envelope(network)
    chosen = spread(network, points, count)
    assert 1 <= len(chosen) <= count
    assert chosen == sorted(chosen, key=lambda p: (p.seconds, p.noise))
    assert min(p.seconds for p in chosen) == min(p.seconds for p in points)
    figures = {(p.seconds, p.noise) for p in chosen}
    assert not any(a[0] <= b[0] and a[1] <= b[1] for a in figures for b in figures if a != b)
    if count > 1:
        assert min(p.noise for p in chosen) == min(p.noise for p in points)


def test_an_empty_network_has_an_empty_spread() -> None:
    assert spread(Network((), {}, {}), [], 3) == []


def test_a_network_without_noise_has_one_point() -> None:
    network = Network((), {}, {})
    assert envelope(network) == [ParetoPoint(frozenset(), 0.0, 0.0, 0.0)]


def test_figures_of_a_large_front_are_those_of_its_assignments() -> None:
    network = chain(1000, seed=3)
    points = envelope(network, max_cuts=3)
    assert len(points) == 5
    chosen = spread(network, points, 40)
    assert len(chosen) == 40
    for point in chosen:
        assert point.seconds == pytest.approx(network.seconds(point.int8))
        assert point.noise == pytest.approx(network.noise_of(point.int8))


def test_only_the_first_step_stores_its_regions() -> None:
    """A set for every step would take memory quadratic in the regions."""
    network = chain(300, seed=4)
    points = envelope(network)
    steps = between(network, points[0], points[-1])
    assert len(steps) == len(points[0].int8 - points[-1].int8) - 1
    assert all(isinstance(name, str) for name in steps.moved)
    assert steps.point(len(steps) - 1).int8 == (points[0].int8 | points[-1].int8) - {*steps.moved}


def test_a_signal_of_zeros_makes_no_infinite_noise() -> None:
    errors = TensorNoise(("y",), np.array([0.0]), {"x": np.array([1.0])}, 1, 1)
    noise = RegionCosts({}, {}, {}, errors).noise("x")
    network = Network((Region("a", ("a",)),), {"a": (2.0, 1.0)}, {"a": noise})
    assert [point.int8 for point in envelope(network)] == [{"a"}, frozenset()]
