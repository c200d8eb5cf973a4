"""The speed of models side by side, and which differences are larger than the noise.

Models take turns within each round, so that a drifting clock slows all alike, and are compared by the ratio
of their times within a round. Rounds are added until every ratio is known to 3%, or a limit is reached; where
all of the first few rounds agree to 3%, those suffice. With one thread the time is that of the processor:
other programs hardly change it, and on an idle machine it equals the time on the wall.

The interval leaves one thing out: the place of a session's memory changes its speed by up to 5% for some
models, as long as it is open. `qtool bench` (bench_rounds.py) opens models anew to average over that.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

from qtool.data.samples import Samples
from qtool.evaluate.float_io import session_inputs
from qtool.runtime.noise import Noise
from qtool.runtime.session import Array, Session, running
from qtool.tables.runtimes import DEFAULT

# Two races of the same models on the same machine differ by about this much: a smaller difference between two
# models decides nothing.
HALF_WIDTH = 0.03
# The smallest and largest of fewer rounds hold the median with less than 95% certainty: 1 - 2 / 2**6 = 97%.
CERTAIN_ROUNDS = 6
# A model that is surely slower than the fastest one by more than this need not be timed more closely.
_CLEARLY_SLOWER = 0.9
# Enough for shapes to differ.
_SAMPLES = 4
_Z95 = 1.96
_TURN_SECONDS = 0.004  # a turn runs a model at least this long, or once
_PASSES = 3  # to estimate the time of a sample: one may be interrupted
_LONGEST_TURN = 1.0  # seconds; a turn takes as many samples as fit, one at least


@dataclass(frozen=True)
class Limits:
    """When a race ends.

    Args:
        least_rounds: rounds before an interval counts: with fewer it is narrow by chance too often, and the
            ratios of all rounds must be as close.
        most_rounds: the most rounds. With timings that vary by 15% from round to round, an interval of 3%
            takes about 150 rounds (1.25 * 1.96 * 0.15 / 0.03, squared); beyond that predictions decide.
        seconds: no round begins after this long, once there are `fewest_rounds`.
        fewest_rounds: with fewer than CERTAIN_ROUNDS the cost table decides.
        half_width: the half-width of an interval that is narrow enough, as a share of the ratio.
    """

    least_rounds: int = 15
    most_rounds: int = 150
    seconds: float = 20.0
    fewest_rounds: int = CERTAIN_ROUNDS
    half_width: float = HALF_WIDTH

    def within(self, seconds: float) -> Limits:
        """Return the limits of a race that may take only so long; all others take `seconds` or less."""
        if seconds >= self.seconds:
            return self
        return replace(self, seconds=seconds, fewest_rounds=1)


LIMITS = Limits()

Clock = Callable[[], float]
"""Returns seconds since any moment."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: the median over rounds, and the 95% interval of that median."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    @property
    def holds_one(self) -> bool:
        """Whether the interval contains 1: the two may be equally fast."""
        return self.low <= 1 <= self.high

    def times(self, other: Ratio) -> Ratio:
        """Return the product with a ratio of another race: independent errors add up by their squares."""
        down = math.hypot(math.log(self.median / self.low), math.log(other.median / other.low))
        up = math.hypot(math.log(self.high / self.median), math.log(other.high / other.median))
        median = self.median * other.median
        return Ratio(median, median * math.exp(-down), median * math.exp(up))


@dataclass(frozen=True)
class Race:
    """Models timed together: seconds for one inference, by model, a value a round."""

    threads: int
    seconds: dict[str, tuple[float, ...]]

    @property
    def rounds(self) -> int:
        return len(next(iter(self.seconds.values())))

    def milliseconds(self, name: str) -> float:
        """The median time of one inference."""
        return statistics.median(self.seconds[name]) * 1e3

    def ratio(self, name: str, against: str, *, every_round: bool = False) -> Ratio:
        """Return the time of `against` / the time of `name`, over rounds.

        The interval is between order statistics and holds for any distribution (Conover, Practical
        Nonparametric Statistics, 3rd ed., 3.2). With fewer than CERTAIN_ROUNDS, or on demand, it spans all
        values; with fewer it is less than 95% certain.
        """
        ratios = sorted(b / a for a, b in zip(self.seconds[name], self.seconds[against], strict=True))
        below = 0 if every_round else max(0, int(len(ratios) / 2 - _Z95 * math.sqrt(len(ratios)) / 2))
        return Ratio(statistics.median(ratios), ratios[below], ratios[-1 - below])

    @cached_property
    def fastest(self) -> str:
        """The model with the least time, by the median over rounds of its share of the round's mean."""
        means = [statistics.fmean(math.log(s) for s in r) for r in zip(*self.seconds.values(), strict=True)]
        shares = {
            name: statistics.median(math.log(s) - mean for s, mean in zip(seconds, means, strict=True))
            for name, seconds in self.seconds.items()
        }
        return min(shares, key=lambda name: shares[name])

    def is_settled(self, half_width: float = HALF_WIDTH, *, every_round: bool = False) -> bool:
        """Whether each model's ratio to the fastest is known to this half-width, or it is clearly slower.

        Args:
            half_width: as a share of the ratio.
            every_round: the ratios of all rounds must lie so close, not the interval of their median.
        """
        ratios = [self.ratio(name, self.fastest, every_round=every_round) for name in self.seconds]
        return all(r.half_width <= half_width or r.high < _CLEARLY_SLOWER for r in ratios)


class Pace(StrEnum):
    """The comparison of a model with the fastest of its race."""

    FASTER = "faster"
    EQUAL = "equal"
    SLOWER = "slower"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class SettledSpeeds:
    """The speeds to decide by.

    Args:
        fastest: the fastest model measured.
        speeds: model -> its speed relative to the fastest.
        paces: model -> its comparison with the fastest, as measured; the fastest is equal to itself.
        unreliable: noise hides the order of the models: the speeds are predictions, or uncertain medians
            where there are no predictions.
    """

    fastest: str
    speeds: Mapping[str, float]
    paces: Mapping[str, Pace]
    unreliable: bool

    def ratio(self, name: str, against: str) -> float:
        """Return the speed of `name` / the speed of `against`."""
        return self.speeds[name] / self.speeds[against]


def is_faster(speed: float) -> bool:
    """Return whether a ratio to decide by is a gain: more than two races of the same models differ by."""
    return speed > 1 + HALF_WIDTH


def settle(race: Race, predicted: Mapping[str, float] | None = None) -> SettledSpeeds:
    """Return the speeds to decide by, and which differences are noise.

    1. The ratio to the fastest excludes 1: slower (or faster), by the measured median.
    2. It holds 1 and is known to 3%: equal, and the speed is that of the fastest.
    3. It holds 1 and is known less well, or there are fewer than CERTAIN_ROUNDS: unclear. The predicted
       ratio decides, moved into the measured interval if it lies outside. Without a prediction for both, the
       median stays. Either way the speeds are unreliable.

    Args:
        race: of any models.
        predicted: model -> its speed by the cost table, in any unit, above 0.
    """
    ratios = {name: race.ratio(name, race.fastest) for name in race.seconds}
    certain = race.rounds >= CERTAIN_ROUNDS
    paces = {
        name: Pace.EQUAL if name == race.fastest else _pace(ratio) if certain else Pace.UNCLEAR
        for name, ratio in ratios.items()
    }
    speeds = {name: 1.0 if paces[name] is Pace.EQUAL else ratios[name].median for name in ratios}
    unreliable = Pace.UNCLEAR in paces.values()
    predicted = predicted or {}
    for name, pace in paces.items():
        if pace is Pace.UNCLEAR and name in predicted and race.fastest in predicted:
            ratio = ratios[name]
            speeds[name] = min(max(predicted[name] / predicted[race.fastest], ratio.low), ratio.high)
    return SettledSpeeds(race.fastest, speeds, paces, unreliable)


def _pace(ratio: Ratio) -> Pace:
    if not ratio.holds_one:
        return Pace.FASTER if ratio.low > 1 else Pace.SLOWER
    return Pace.EQUAL if ratio.half_width <= HALF_WIDTH else Pace.UNCLEAR


def race(
    turns: Mapping[str, Callable[[int], float]],
    *,
    threads: int,
    limits: Limits = LIMITS,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Time models in turn, round after round, until a limit is reached.

    Args:
        turns: model -> a function from the round's number to the seconds of one inference.
        threads: of the runtime, for the record.
        limits: when to stop.
        clock: seconds.
    """
    rounds: list[dict[str, float]] = []
    names, start = list(turns), clock()
    while True:
        number = len(rounds)
        rounds.append({names[i]: turns[names[i]](number) for i in turn_order(len(names), number)})
        done = len(rounds)
        timed = Race(threads, {name: tuple(r[name] for r in rounds) for name in names})
        if done >= limits.most_rounds:
            return timed
        if done >= limits.fewest_rounds and clock() - start >= limits.seconds:
            return timed
        few = done < limits.least_rounds
        # A round for each place in the order of turns, at least.
        least = min(limits.least_rounds, max(CERTAIN_ROUNDS, len(names)))
        if done >= least and timed.is_settled(limits.half_width, every_round=few):
            return timed


def turn_order(models: int, number: int) -> list[int]:
    """Return the order in which models take their turns in a round.

    A Williams design (1949): in each block of `models` rounds each model has each place once; over two blocks
    each follows each other one equally often. So no model always runs after the same other one.

    Args:
        models: number of models.
        number: of the round, from 0.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(models)]
    order = [(number + step) % models for step in zigzag]
    return order[::-1] if number // models % 2 else order


def race_models(
    models: Mapping[str, Path | bytes],
    samples: Samples,
    threads: int = 0,
    *,
    runtimes: Mapping[str, str] | None = None,
    limits: Limits = LIMITS,
) -> Race:
    """Time models on the first few samples of a source, with one thread unless `threads` says more.

    Args:
        runtimes: model -> its runtime, where that is not onnxruntime.
    """
    runtimes = runtimes or {}
    sessions = {
        name: Session(
            m,
            threads=threads or 1,
            name=f"the {name} model",
            runtime=runtimes.get(name, DEFAULT),
            noise=Noise.RUNTIME,
        )
        for name, m in models.items()
    }
    chosen = list(islice(samples.read(), _SAMPLES))
    inputs = {name: session_inputs(s, chosen, samples.name) for name, s in sessions.items()}
    # With one thread a runtime computes in the thread that calls it.
    clock = time.thread_time if (threads or 1) == 1 else time.perf_counter
    each = [_seconds(session, inputs[name], clock) for name, session in sessions.items()]
    count = max(1, min(len(chosen), int(_LONGEST_TURN / max(each))))
    repeats = _repeats(min(each) * count, max(each) * count)
    turns = {name: _turn(session, inputs[name], count, repeats, clock) for name, session in sessions.items()}
    return race(turns, threads=threads or 1, limits=limits)


def _seconds(session: Session, samples: Sequence[Mapping[str, Array]], clock: Clock) -> float:
    """Estimate the seconds of an inference. The first pass warms up: memory arenas, packed weights."""
    first = statistics.fmean(single_times(session, samples, 1, clock))
    if first > _TURN_SECONDS:  # a turn runs each sample once, however fast the model is once warm
        return first
    passes = (statistics.fmean(single_times(session, samples, 1, clock)) for _ in range(_PASSES))
    return max(min(passes), 1e-7)


def _repeats(fastest: float, slowest: float) -> int:
    """The number of times that a turn runs its samples: the same for all, so that none is timed warmer.

    The first run of a turn finds the caches that another model left, and is slower by up to 2x.

    Args:
        fastest, slowest: seconds for the samples of a turn, by the fastest and by the slowest model.
    """
    return max(1, min(math.ceil(_TURN_SECONDS / fastest), int(_LONGEST_TURN / slowest)))


def _turn(
    session: Session, samples: Sequence[Mapping[str, Array]], count: int, repeats: int, clock: Clock
) -> Callable[[int], float]:
    """Return a function that times `count` samples, other ones each round, `repeats` times."""

    def turn(number: int) -> float:
        chosen = [samples[(number * count + i) % len(samples)] for i in range(count)]
        return per_inference(single_times(session, chosen, repeats, clock), count)

    return turn


def per_inference(seconds: Sequence[float], samples: int) -> float:
    """Return the seconds of one inference: the mean over samples of the median over repeats.

    Args:
        seconds: of each inference: of all samples, then of all of them again, and so on.
        samples: number of samples.
    """
    return statistics.fmean(statistics.median(seconds[i::samples]) for i in range(samples))


def single_times(
    session: Session,
    samples: Sequence[Mapping[str, Array]],
    repeats: int,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Return the seconds of each inference: of all samples, then of all of them again, and so on."""
    with running(session):
        ticks = [clock()]
        for _ in range(repeats):
            for sample in samples:
                session.run(sample)
                ticks.append(clock())
    return [end - start for start, end in pairwise(ticks)]
