"""Rounds on simulated models with a simulated clock, so that the true ratios are known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from qtool.commands.bench import FASTER, SAME, SLOWER, UNDECIDED, verdict_of
from qtool.evaluate.bench_rounds import LEAST_ROUNDS, RoundTimes, median_seconds, run_rounds, speedup
from qtool.evaluate.latency import Ratio
from tests.tiers import examples


class Clock:
    """Seconds, which pass when somebody says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A model of a given speed, whose layout in memory makes it faster or slower for as long as it is open."""

    def __init__(
        self,
        clock: Clock,
        seconds: float,
        seed: int,
        layout: float = 0.02,
        noise: float = 0.03,
        load: float = 0.02,
    ) -> None:
        self.clock, self.seconds, self.layout, self.noise, self.load = clock, seconds, layout, noise, load
        self.random = np.random.default_rng(seed)
        self.calls: list[tuple[str, int, int, int]] = []

    def start(self) -> None:
        self.calls.append(("start", 0, 0, 0))
        self.clock.now += 0.2
        self.process = self.random.normal(0, self.layout / 2)

    def open(self, samples: int) -> float:
        self.calls.append(("open", 0, samples, 0))
        self.clock.now += self.load
        self.now = self.seconds * math.exp(self.process + self.random.normal(0, self.layout))
        return self.load

    def time(self, first: int, samples: int, repeats: int) -> list[float]:
        self.calls.append(("time", first, samples, repeats))
        actual = (self.now * np.exp(np.abs(self.random.normal(0, self.noise, samples * repeats)))).tolist()
        self.clock.now += sum(actual)
        return list(actual)

    def count(self, kind: str) -> int:
        return sum(call[0] == kind for call in self.calls)


def contest(
    *seconds: float, seed: int = 0, limit: float = 20.0, samples: int = 8, **options: float
) -> list[RoundTimes]:
    clock = Clock()
    racers = [Fake(clock, s, 1000 * seed + i, **options) for i, s in enumerate(seconds)]
    return run_rounds(racers, samples, limit, clock=clock)


def verdict(*seconds: float, seed: int) -> str:
    first, second = contest(*seconds, seed=seed, limit=30.0)
    return verdict_of(speedup(second, first))


def test_a_model_is_the_same_as_itself_every_time() -> None:
    assert {verdict(1e-3, 1e-3, seed=seed) for seed in range(examples(60))} == {SAME}


def test_a_difference_of_five_percent_is_always_detected() -> None:
    assert {verdict(1.05e-3, 1e-3, seed=seed) for seed in range(examples(30))} == {FASTER}
    assert {verdict(1e-3, 1.05e-3, seed=seed) for seed in range(examples(30))} == {SLOWER}


def test_the_order_of_models_does_not_matter() -> None:
    first, second = contest(2e-3, 1e-3)
    there, back = speedup(second, first), speedup(first, second)
    assert there.median == pytest.approx(1 / back.median)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low))


def test_it_ends_when_the_ratio_is_known() -> None:
    clock = Clock()
    racers = [Fake(clock, s, i, layout=0.001) for i, s in enumerate((2e-3, 1e-3))]
    first, second = run_rounds(racers, 8, 20.0, clock=clock)
    assert clock.now < 12
    ratio = speedup(second, first)
    assert ratio.high - ratio.low <= 0.02 * ratio.median
    assert 1.95 < ratio.median < 2.05
    assert len(first.turns) == len(second.turns) >= LEAST_ROUNDS


def test_it_ends_when_the_time_is_up() -> None:
    clock = Clock()
    racers = [Fake(clock, s, i, layout=0.3, noise=0.5) for i, s in enumerate((2e-3, 1e-3))]
    run_rounds(racers, 8, 5.0, clock=clock)
    assert 5.0 <= clock.now < 5.5


def test_a_model_slower_than_the_limit_still_has_one_turn() -> None:
    first, second = contest(9.0, 4.0, limit=1.0)
    assert [len(t.turns) for t in (first, second)] == [1, 1]
    assert min(len(first.singles), len(second.singles)) >= 1
    assert verdict_of(speedup(second, first)) == UNDECIDED


def test_one_model_is_timed_until_its_own_time_is_known() -> None:
    (timing,) = contest(1e-3, layout=0.001)
    actual = median_seconds(timing)
    assert actual.low <= actual.median <= actual.high
    assert actual.median == pytest.approx(1e-3, rel=0.1)


def test_every_round_starts_new_processes_and_opens_models_in_them_repeatedly() -> None:
    clock = Clock()
    racers = [Fake(clock, 1e-3, i) for i in range(3)]
    timings = run_rounds(racers, 4, 10.0, clock=clock)
    for racer, timing in zip(racers, timings, strict=True):
        assert racer.count("start") == len(timing.turns)
        assert racer.count("open") == len(timing.loads) == sum(map(len, timing.turns)) > racer.count("start")


def test_models_that_open_slowly_keep_their_processes() -> None:
    clock = Clock()
    racers = [Fake(clock, 1e-3, i, load=0.9) for i in range(2)]
    timings = run_rounds(racers, 4, 20.0, clock=clock)
    assert racers[0].count("start") == 1
    assert len(timings[0].turns) >= LEAST_ROUNDS


@pytest.mark.parametrize(("seconds", "samples"), [(1e-5, 8), (0.95e-3, 2), (0.1, 1)])
def test_turns_take_as_many_samples_as_can_be_repeated(seconds: float, samples: int) -> None:
    clock = Clock()
    racers = [Fake(clock, s, i, noise=1e-6, layout=1e-6) for i, s in enumerate((seconds, seconds / 2))]
    run_rounds(racers, 8, 20.0, clock=clock)
    for racer in racers:
        turns = [c for c in racer.calls if c[0] == "time"][1:]
        assert {c[2] for c in turns} == {samples}
        assert {c[1] for c in turns} == set(range(0, 8, samples))
    pairs = zip(*([c[1:3] for c in r.calls if c[0] == "time"] for r in racers), strict=True)
    assert all(ours == theirs for ours, theirs in pairs)


def test_interruptions_do_not_change_the_ratio() -> None:
    first, second = contest(1e-3, 1e-3, layout=1e-6, noise=1e-6)
    disturbed = RoundTimes(
        second.loads, [[[*turns[:-1], turns[-1] * 50] for turns in r] for r in second.turns]
    )
    assert speedup(disturbed, first).median == pytest.approx(1, abs=1e-3)
    assert statistics.median(first.singles) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Ratio(1.5, 1.4, 1.6), FASTER), (Ratio(1.03, 1.016, 1.04), FASTER), (Ratio(1.03, 1.014, 1.04), SAME),
        (Ratio(1.0, 0.98, 1.03), SAME), (Ratio(1.2, 0.9, 1.6), SAME), (Ratio(0.97, 0.96, 0.979), SLOWER),
        (Ratio(0.98, 0.97, 0.986), SAME), (Ratio(3.0, 0.0, math.inf), UNDECIDED),
    ],
)  # fmt: skip
def test_a_verdict_needs_an_interval_that_shows_it(ratio: Ratio, said: str) -> None:
    assert verdict_of(ratio) == said
    if said != UNDECIDED:
        mirrored = Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
        assert verdict_of(mirrored) == {FASTER: SLOWER, SLOWER: FASTER, SAME: SAME}[said]
