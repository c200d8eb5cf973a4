"""The choice of the best trial, and the Pareto front of trials."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.evaluate.criteria import Criteria
from qtool.placement.trials import SPAN_DB, Trial, choose, pareto_front
from tests.tiers import examples

SPEEDS = st.floats(0.25, 8.0)
LEVELS = st.floats(-10.0, 120.0) | st.sampled_from([math.inf, -math.inf])


def trial(name: str, sqnr: float, speed: float, size: int = 100, below: float = 0.0) -> Trial:
    """A trial whose SQNR has an interval that starts `below` dB under it."""
    return Trial(name, sqnr, sqnr - below, speed, speed * 1.25, None, size)


@st.composite
def trials(draw: st.DrawFn) -> tuple[Trial, ...]:
    many = draw(st.integers(1, 7))
    return tuple(
        trial(f"p{i}", draw(LEVELS), draw(SPEEDS), draw(st.integers(1, 1000)), draw(st.floats(0, 9)))
        for i in range(many)
    )


CRITERIA = st.builds(
    Criteria,
    floor_db=st.floats(0, 60),
    user_floor=st.booleans(),
    speedup=st.just(0.0) | st.floats(0.5, 4),
    size=st.just(0) | st.integers(1, 1000),
)


@given(trials())
@settings(max_examples=examples(300), deadline=None)
def test_no_trial_on_the_front_is_dominated_and_every_other_is(made: tuple[Trial, ...]) -> None:
    actual = pareto_front(made)
    for trial in made:
        assert (trial in actual) == (not any(other.dominates(trial) for other in made))
    assert [t.speed for t in actual] == sorted((t.speed for t in actual), reverse=True)


@given(trials())
@settings(max_examples=examples(100), deadline=None)
def test_dominance_is_an_order(made: tuple[Trial, ...]) -> None:
    for a in made:
        assert not a.dominates(a)
        for b in made:
            assert not (a.dominates(b) and b.dominates(a))
            assert all(a.dominates(c) for c in made if a.dominates(b) and b.dominates(c))


@given(trials(), CRITERIA)
@settings(max_examples=examples(300), deadline=None)
def test_the_criteria_are_met_where_they_can_be(made: tuple[Trial, ...], criteria: Criteria) -> None:
    actual = choose(made, criteria)
    assert actual in made
    assert actual.holds(criteria) == any(t.holds(criteria) for t in made)


@given(trials(), CRITERIA)
@settings(max_examples=examples(300), deadline=None)
def test_the_choice_is_not_dominated_by_one_of_the_same_size(
    made: tuple[Trial, ...], criteria: Criteria
) -> None:
    made = tuple(replace(t, bytes=1) for t in made)
    actual = choose(made, criteria)
    if actual.holds(criteria) and not criteria.speedup:
        better = [t for t in made if t.speed > actual.speed * 1.01 and t.sqnr > actual.sqnr]
        assert not any(t.holds(criteria) for t in better)


FAST, TRUE, SLOW = trial("fast", 22.0, 2.0), trial("true", 34.0, 1.8), trial("slow", 50.0, 1.05)
ALL = (SLOW, FAST, TRUE)


def test_by_default_accuracy_counts_up_to_some_decibels_above_the_floor() -> None:
    assert choose(ALL, Criteria(20.0)) is TRUE
    assert choose(ALL, Criteria(5.0)) is FAST, "both have enough of it"
    assert choose((FAST, SLOW), Criteria(20.0 - SPAN_DB)) is FAST


def test_with_a_floor_from_the_user_the_fastest_that_holds_is_chosen() -> None:
    assert choose(ALL, Criteria(20.0, user_floor=True)) is FAST
    assert choose(ALL, Criteria(30.0, user_floor=True)) is TRUE
    assert choose(ALL, Criteria(35.0, user_floor=True)) is SLOW


def test_at_equal_speeds_the_error_decides() -> None:
    near = trial("near", 25.0, 1.995)
    assert choose((FAST, near), Criteria(20.0, user_floor=True)) is near


def test_with_a_least_speed_the_most_accurate_is_chosen() -> None:
    assert choose(ALL, Criteria(20.0, speedup=1.25)) is SLOW
    assert choose(ALL, Criteria(20.0, speedup=1.9)) is TRUE
    assert choose(ALL, Criteria(20.0, speedup=2.4)) is FAST


def test_a_speed_is_held_with_a_margin_where_possible() -> None:
    assert choose(ALL, Criteria(20.0, speedup=2.24)) is FAST
    assert choose((TRUE, SLOW), Criteria(20.0, speedup=2.24)) is TRUE


def test_accuracy_is_accepted_by_the_lower_end_of_its_interval() -> None:
    sure, unsure = trial("sure", 31.0, 1.5), trial("unsure", 33.0, 1.9, below=4.0)
    assert choose((sure, unsure), Criteria(30.0, user_floor=True)) is sure
    assert choose((sure, unsure), Criteria(28.0, user_floor=True)) is unsure


def test_larger_models_than_the_limit_are_left_out() -> None:
    small = trial("small", 21.0, 1.1, 10)
    assert choose((*ALL, small), Criteria(20.0, size=50)) is small


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_where_none_holds_the_nearest_to_the_floor_is_chosen(turn: int) -> None:
    lost = trial("lost", math.nan, 9.0)
    made = (lost, FAST, TRUE)
    assert choose(made[turn:] + made[:turn], Criteria(40.0)) is TRUE
    assert choose(made[turn:] + made[:turn], Criteria(20.0, size=1)) is FAST, "both have enough of it"
