"""Which plan is the answer, and which are on the front."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.choose import SPAN_DB, Budget, Trial, choose, front

SPEEDS = st.floats(0.25, 8.0)
LEVELS = st.floats(-10.0, 120.0) | st.sampled_from([math.inf, -math.inf])


@st.composite
def trials(draw: st.DrawFn) -> tuple[Trial, ...]:
    many = draw(st.integers(1, 7))
    return tuple(
        Trial(f"p{i}", draw(LEVELS), speed := draw(SPEEDS), speed * 1.25, draw(st.integers(1, 1000)))
        for i in range(many)
    )


BUDGETS = st.builds(
    Budget,
    st.floats(0, 60),
    st.booleans(),
    st.just(0.0) | st.floats(0.5, 4),
    st.just(0) | st.integers(1, 1000),
)


@given(trials())
@settings(max_examples=300, deadline=None)
def test_no_trial_on_the_front_is_beaten_and_every_other_is(made: tuple[Trial, ...]) -> None:
    found = front(made)
    for trial in made:
        assert (trial in found) == (not any(other.beats(trial) for other in made))
    assert [t.speed for t in found] == sorted((t.speed for t in found), reverse=True)


@given(trials())
@settings(max_examples=100, deadline=None)
def test_to_beat_is_an_order(made: tuple[Trial, ...]) -> None:
    for a in made:
        assert not a.beats(a)
        for b in made:
            assert not (a.beats(b) and b.beats(a))
            assert all(a.beats(c) for c in made if a.beats(b) and b.beats(c))


@given(trials(), BUDGETS)
@settings(max_examples=300, deadline=None)
def test_the_budget_is_held_where_it_can_be(made: tuple[Trial, ...], budget: Budget) -> None:
    found = choose(made, budget)
    assert found in made
    assert found.holds(budget) == any(t.holds(budget) for t in made)


@given(trials(), BUDGETS)
@settings(max_examples=300, deadline=None)
def test_what_is_chosen_is_beaten_by_nothing_of_the_same_size(
    made: tuple[Trial, ...], budget: Budget
) -> None:
    made = tuple(replace(t, bytes=1) for t in made)
    found = choose(made, budget)
    if found.holds(budget) and not budget.speedup:
        better = [t for t in made if t.speed > found.speed * 1.01 and t.sqnr > found.sqnr]
        assert not any(t.holds(budget) for t in better)


def trial(name: str, sqnr: float, speed: float, size: int = 100) -> Trial:
    return Trial(name, sqnr, speed, speed, size)


FAST, TRUE, SLOW = trial("fast", 22.0, 2.0), trial("true", 34.0, 1.8), trial("slow", 50.0, 1.05)
ALL = (SLOW, FAST, TRUE)


def test_without_a_wish_accuracy_counts_up_to_some_decibels_above_the_floor() -> None:
    assert choose(ALL, Budget(20.0)) is TRUE
    assert choose(ALL, Budget(5.0)) is FAST, "both have enough of it"
    assert choose((FAST, SLOW), Budget(20.0 - SPAN_DB)) is FAST


def test_an_sqnr_that_was_asked_for_makes_it_the_fastest_that_holds() -> None:
    assert choose(ALL, Budget(20.0, asked_db=True)) is FAST
    assert choose(ALL, Budget(30.0, asked_db=True)) is TRUE
    assert choose(ALL, Budget(35.0, asked_db=True)) is SLOW


def test_speeds_that_are_the_same_leave_it_to_the_error() -> None:
    near = trial("near", 25.0, 1.995)
    assert choose((FAST, near), Budget(20.0, asked_db=True)) is near


def test_a_speed_that_was_asked_for_makes_it_the_truest_that_is_so_fast() -> None:
    assert choose(ALL, Budget(20.0, speedup=1.0)) is SLOW
    assert choose(ALL, Budget(20.0, speedup=1.5)) is TRUE
    assert choose(ALL, Budget(20.0, speedup=1.9)) is FAST


def test_a_speed_is_held_with_a_margin_where_one_does() -> None:
    assert choose(ALL, Budget(20.0, speedup=1.79)) is FAST
    assert choose((TRUE, SLOW), Budget(20.0, speedup=1.79)) is TRUE


def test_a_size_that_was_asked_for_leaves_out_what_is_larger() -> None:
    small = trial("small", 21.0, 1.1, 10)
    assert choose((*ALL, small), Budget(20.0, size=50)) is small


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_where_none_holds_it_is_the_nearest_to_the_error_asked_for(turn: int) -> None:
    lost = trial("lost", math.nan, 9.0)
    made = (lost, FAST, TRUE)
    assert choose(made[turn:] + made[:turn], Budget(40.0)) is TRUE
    assert choose(made[turn:] + made[:turn], Budget(20.0, size=1)) is FAST, "both have enough of it"
