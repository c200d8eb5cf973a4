"""A race measures all models alike and tells differences from noise. No test depends on real speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data.iterables import InMemory
from qtool.evaluate.latency import (
    CERTAIN_ROUNDS,
    HALF_WIDTH,
    Limits,
    Pace,
    Race,
    Ratio,
    per_inference,
    race,
    race_models,
    settle,
    turn_order,
)
from tests.rewrite.flow import written
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
TIMES = st.floats(1e-5, 1.0)
RACES = st.integers(1, 20).flatmap(
    lambda rounds: st.dictionaries(
        st.sampled_from("abcd"), st.lists(TIMES, min_size=rounds, max_size=rounds).map(tuple), min_size=1
    ).map(lambda seconds: Race(1, seconds))
)


def noisy(true: Mapping[str, float], rounds: int, noise: float, seed: int = 0) -> Race:
    """A race of models of known times: lognormal noise on each, and a drift that hits all of a round alike."""
    random = np.random.default_rng(seed)
    drift = np.cumsum(random.normal(0, 0.1, rounds))
    return Race(
        1,
        {n: tuple((t * np.exp(drift + random.normal(0, noise, rounds))).tolist()) for n, t in true.items()},
    )


def test_a_race_times_every_model_in_every_round() -> None:
    result = written("residual", "generic")
    models = {"original": result.original.SerializeToString(), "quantized": result.data}
    source = InMemory(result.samples)
    timed = race_models(models, source, limits=Limits(least_rounds=3, most_rounds=3))
    assert timed.threads == 1
    assert set(timed.seconds) == {"original", "quantized"}
    assert [len(s) for s in timed.seconds.values()] == [3, 3]
    assert timed.rounds == 3
    assert all(t > 0 for s in timed.seconds.values() for t in s)
    ratio = timed.ratio("quantized", "original")
    assert 0 < ratio.low <= ratio.median <= ratio.high
    assert timed.milliseconds("quantized") > 0


def test_the_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    """Round by round, so that a machine that slows down midway hits both alike."""
    timed = Race(1, {"a": (1.0, 10.0, 2.0, 1.0, 1.0), "b": (2.0, 20.0, 4.0, 2.0, 2.0)})
    ratio = timed.ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (2, 2, 2)
    assert ratio.half_width == 0
    assert timed.ratio("b", "a").median == 0.5
    assert timed.milliseconds("a") == pytest.approx(1000)
    assert timed.fastest == "a"


def test_the_half_width_is_a_share_of_the_median() -> None:
    assert Ratio(2.0, 1.9, 2.2).half_width == pytest.approx(0.075)


def test_the_interval_covers_the_true_median_as_stated() -> None:
    """Whatever the noise: here a skewed one, as of a shared machine."""
    random = np.random.default_rng(0)
    held, races = 0, 400
    for _ in range(races):
        noise = random.lognormal(0.0, 0.5, 40)
        ratio = Race(1, {"a": (1.0,) * 40, "b": tuple(2 * noise)}).ratio("a", "b")
        held += ratio.low <= 2 <= ratio.high
    assert held / races >= 0.93


def test_an_inference_takes_the_mean_over_samples_of_the_median_over_repeats() -> None:
    assert per_inference([1.0, 2.0, 9.0, 2.0, 1.0, 2.0], 2) == 1.5


@pytest.mark.parametrize("models", range(1, 8))
def test_each_model_follows_each_other_one_equally_often(models: int) -> None:
    orders = [turn_order(models, number) for number in range(2 * models)]
    assert all(sorted(order) == list(range(models)) for order in orders)
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert set(follows.values()) <= {2}
    assert len(follows) == models * (models - 1)
    places = Counter((place, model) for order in orders for place, model in enumerate(order))
    assert set(places.values()) == {2}


def turns(*sequences: tuple[float, ...]) -> dict[str, Callable[[int], float]]:
    """Models a, b .. whose times by round are given; the last one goes on for ever."""
    return {
        name: lambda number, s=s: s[min(number, len(s) - 1)]  # type: ignore[misc]
        for name, s in zip("abcd", sequences, strict=False)
    }


QUICK = Limits(least_rounds=8, most_rounds=40, seconds=100.0)


@pytest.mark.parametrize(
    ("first", "rounds"), [((1.0,), CERTAIN_ROUNDS), ((1.0, 1.0, 1.2, 1.0), 8)], ids=["all alike", "one not"]
)
def test_a_quiet_race_ends_early_only_if_all_rounds_agree(first: tuple[float, ...], rounds: int) -> None:
    """One round in eight is off: the interval of the median leaves it out, and holds from 8 rounds on."""
    assert race(turns(first, (1.0,)), threads=1, limits=QUICK, clock=lambda: 0.0).rounds == rounds


def test_rounds_are_added_until_every_ratio_to_the_fastest_is_known() -> None:
    """The first rounds of the third model are all over the place; the second is clearly slower."""
    wild = (*((1.05, 1.6) * 5), 1.3)
    timed = race(turns((1.0,), (2.0,), wild), threads=1, limits=QUICK, clock=lambda: 0.0)
    assert 8 < timed.rounds < 40
    assert timed.is_settled()
    assert max(timed.ratio(n, "a").half_width for n in "ac") <= HALF_WIDTH
    before = Race(1, {n: s[:-1] for n, s in timed.seconds.items()})
    assert not before.is_settled()


def test_endless_noise_ends_at_the_most_rounds() -> None:
    timed = race(turns((1.0,), (1.0, 2.0) * 50), threads=1, limits=QUICK, clock=lambda: 0.0)
    assert timed.rounds == 40
    assert not timed.is_settled()


@pytest.mark.parametrize(
    ("seconds", "left", "rounds"),
    [
        (1000.0, math.inf, CERTAIN_ROUNDS),
        (10.0, math.inf, 10),
        (0.0, math.inf, 40),
        (10.0, 30.0, 3),
        (10.0, 0.0, 1),
    ],
)
def test_a_race_ends_by_time_after_enough_rounds(seconds: float, left: float, rounds: int) -> None:
    """A round takes `seconds`; the limit is 100, or what a budget has left: then one round is enough."""
    begun = []

    def steady(number: int) -> float:
        begun.append(number)
        return 1.0

    noisy_turns = turns((1.0, 2.0) * 50) | {"b": steady}
    timed = race(noisy_turns, threads=1, limits=QUICK.within(left), clock=lambda: seconds * len(begun))
    assert timed.rounds == rounds


def test_equal_models_get_one_speed() -> None:
    actual = settle(noisy({"a": 1.0, "b": 1.005, "c": 1.0}, 60, 0.02))
    assert set(actual.paces.values()) == {Pace.EQUAL}
    assert set(actual.speeds.values()) == {1.0}
    assert not actual.unreliable


def test_a_slower_model_has_its_own_median() -> None:
    timed = noisy({"a": 1.0, "b": 1.1, "c": 3.0}, 60, 0.02)
    actual = settle(timed, {"a": 1.0, "b": 9.0, "c": 9.0})
    assert actual.fastest == "a"
    assert actual.paces == {"a": Pace.EQUAL, "b": Pace.SLOWER, "c": Pace.SLOWER}
    assert actual.speeds == {"a": 1.0, "b": timed.ratio("b", "a").median, "c": timed.ratio("c", "a").median}
    assert actual.ratio("a", "b") == pytest.approx(1.1, rel=0.02)
    assert not actual.unreliable


@pytest.mark.parametrize("predicted", [0.5, 1.02, 1.2, 50.0])
def test_where_noise_hides_the_order_the_prediction_decides_within_the_interval(predicted: float) -> None:
    timed = noisy({"a": 1.0, "b": 1.02}, 20, 0.4)
    other = next(n for n in "ab" if n != timed.fastest)
    ratio = timed.ratio(other, timed.fastest)
    actual = settle(timed, {timed.fastest: 2.0, other: 2.0 * predicted})
    assert actual.unreliable and actual.paces[other] is Pace.UNCLEAR
    assert actual.speeds[other] == pytest.approx(min(max(predicted, ratio.low), ratio.high))


def test_no_prediction_makes_a_slow_model_fast() -> None:
    timed = noisy({"a": 1.0, "b": 1.0, "c": 4.0}, 20, 0.4)
    actual = settle(timed, {"a": 1.0, "b": 1.0, "c": 9.0})
    assert actual.paces["c"] is Pace.SLOWER
    assert actual.speeds["c"] == timed.ratio("c", timed.fastest).median


def test_without_predictions_the_medians_stay_and_are_unreliable() -> None:
    timed = noisy({"a": 1.0, "b": 1.0}, 20, 0.4)
    actual = settle(timed)
    assert actual.unreliable
    assert actual.speeds == {n: timed.ratio(n, timed.fastest).median for n in "ab"}
    assert settle(timed, {"z": 3.0}) == actual


def test_few_rounds_are_never_clear() -> None:
    rounds = CERTAIN_ROUNDS - 1
    timed = Race(1, {"a": (1.0,) * rounds, "b": (2.0,) * rounds})
    assert settle(timed).paces == {"a": Pace.EQUAL, "b": Pace.UNCLEAR}
    assert settle(timed).speeds == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize(("noise", "rounds"), [(0.01, 15), (0.05, 60), (0.3, 150)])
def test_equal_models_are_rarely_distinguished(noise: float, rounds: int) -> None:
    """The fastest of two equal models is the one that noise favoured: slower is said in some 5% of races."""
    actual = [settle(noisy({"a": 1.0, "b": 1.0}, rounds, noise, seed)) for seed in range(200)]
    different = sum(bool({Pace.SLOWER, Pace.FASTER} & set(f.paces.values())) for f in actual)
    assert different / len(actual) <= 0.1


@pytest.mark.parametrize(("noise", "rounds"), [(0.01, 15), (0.05, 60), (0.08, 120)])
def test_a_difference_of_ten_percent_is_nearly_always_detected(noise: float, rounds: int) -> None:
    actual = [settle(noisy({"a": 1.1, "b": 1.0}, rounds, noise, seed)) for seed in range(200)]
    calls = sum(f.fastest == "b" and f.paces["a"] is Pace.SLOWER for f in actual)
    assert calls / len(actual) >= 0.95


@LAW
@given(timed=RACES)
def test_paces_and_speeds_follow_from_the_ratios(timed: Race) -> None:
    actual = settle(timed)
    assert actual.fastest in timed.seconds
    assert actual.paces[actual.fastest] is Pace.EQUAL
    assert actual.speeds[actual.fastest] == 1.0
    assert actual.unreliable == (Pace.UNCLEAR in actual.paces.values())
    for name, pace in actual.paces.items():
        ratio = timed.ratio(name, actual.fastest)
        assert actual.speeds[name] == (1.0 if pace is Pace.EQUAL else ratio.median)
        if name != actual.fastest and pace is not Pace.UNCLEAR:
            assert (pace is Pace.EQUAL) == (ratio.low <= 1 <= ratio.high)
            assert (pace is Pace.SLOWER) == (ratio.high < 1)


@LAW
@given(timed=RACES, factor=st.sampled_from([0.25, 4.0]), predicted=st.lists(TIMES, min_size=4, max_size=4))
def test_results_do_not_depend_on_clock_or_units(timed: Race, factor: float, predicted: list[float]) -> None:
    clocked = Race(1, {n: tuple(t * factor for t in s) for n, s in timed.seconds.items()})
    guess = dict(zip("abcd", predicted, strict=True))
    first, second = settle(timed, guess), settle(clocked, {n: g * factor for n, g in guess.items()})
    if first.fastest == second.fastest:  # of equal ones, rounding picks
        assert first.paces == second.paces
        assert first.speeds == pytest.approx(second.speeds)
