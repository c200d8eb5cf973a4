"""Bit allocation never exceeds its limit, and is optimal where steps are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.bit_allocation import Level, allocate
from qtool.tables.qtypes import FLOAT32, INT8, UINT2, UINT4, QType
from tests.tiers import examples

TYPES = (UINT2, UINT4, INT8, FLOAT32)
Levels = Mapping[str, Sequence[Level]]


@st.composite
def any_levels(draw: st.DrawFn) -> Levels:
    """Weights of one to three levels, in any order."""
    actual = {}
    for i in range(draw(st.integers(1, 4))):
        types = draw(st.lists(st.sampled_from(TYPES), min_size=1, unique=True))
        actual[f"w{i}"] = [Level(t, draw(st.integers(1, 50)), draw(st.floats(0, 1))) for t in types]
    return actual


@st.composite
def convex_levels(draw: st.DrawFn) -> Levels:
    """Three levels each, in steps of equal bytes; the second step saves less noise than the first."""
    actual = {}
    for i in range(draw(st.integers(1, 4))):
        start, least = draw(st.integers(1, 9)), draw(st.integers(0, 9))
        second = draw(st.integers(1, 9))
        first = second + draw(st.integers(0, 9))
        noises = (least + second + first, least + second, least)
        actual[f"w{i}"] = [Level(t, start + 10 * n, float(noises[n])) for n, t in enumerate(TYPES[1:])]
    return actual


def of(levels: Levels, chosen: Mapping[str, QType]) -> list[Level]:
    return [next(one for one in levels[name] if one.qtype is chosen[name]) for name in levels]


def smallest(levels: Levels) -> int:
    return sum(min(one.bytes for one in actual) for actual in levels.values())


@given(any_levels(), st.integers(0, 200))
@settings(max_examples=examples(300), deadline=None)
def test_the_limit_is_never_exceeded(levels: Levels, most: int) -> None:
    chosen = allocate(levels, most)
    assert chosen.keys() == levels.keys()
    size = sum(one.bytes for one in of(levels, chosen))
    assert size <= max(most, smallest(levels))


@given(convex_levels(), st.integers(0, 200))
@settings(max_examples=examples(300), deadline=None)
def test_with_equal_steps_the_choice_is_optimal(levels: Levels, most: int) -> None:
    most = max(most, smallest(levels))
    actual = sum(one.noise for one in of(levels, allocate(levels, most)))
    every = (c for c in product(*levels.values()) if sum(one.bytes for one in c) <= most)
    assert actual == pytest.approx(min(sum(one.noise for one in c) for c in every))


@given(any_levels(), st.integers(0, 200), st.integers(0, 50))
@settings(max_examples=examples(200), deadline=None)
def test_with_enough_bytes_the_noise_is_least(levels: Levels, most: int, more: int) -> None:
    full = sum(max(one.bytes for one in actual) for actual in levels.values())
    best = sum(min(one.noise for one in actual) for actual in levels.values())
    assert sum(one.noise for one in of(levels, allocate(levels, full + more))) == pytest.approx(best)


def test_a_level_above_the_hull_is_passed_over() -> None:
    """8 bits that save next to nothing: better floats for one weight than 8 bits for two."""
    levels = {
        name: [Level(UINT4, 10, 1.0), Level(INT8, 20, 0.99), Level(FLOAT32, 40, 0.0)] for name in ("a", "b")
    }
    assert allocate(levels, 50) == {"a": FLOAT32, "b": UINT4}
