"""Rounds of a bench: each starts a new process of every model, and opens the model in it repeatedly.

The place of a session's memory changes its speed by up to 5% for some models, as long as it is open: two
sessions of the same model differ, however long they are timed. So intervals are over rounds. While the models
are open they take short turns, so that a drifting clock or a busy neighbour slows all of them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qtool.evaluate.latency import Ratio, per_inference, turn_order
from qtool.numerics.bootstrap import median_interval

# With fewer rounds an interval is less than 95% certain (numerics/bootstrap.py).
LEAST_ROUNDS = 6
TIGHT = 0.02  # full width of an interval that is narrow enough
_SETTLED_ROUNDS = 8  # with fewer, an interval may be narrow by chance
_TURN_SECONDS = 0.01  # a turn runs a model at least this long, or once
_REPEATS = 5  # of each sample in a turn, where they fit: enough for a median
_OPEN_SECONDS = 0.12  # models stay open this long, or as long as opening takes
_ROUND_SECONDS = 0.5  # of a round, or as long as starting takes
_ROUNDS_AT_LEAST = 10  # rounds that should fit into the time limit


class TimedModel(Protocol):
    """A model that can be timed, in whatever process."""

    def start(self) -> None:
        """Start a new process in place of the last one."""

    def open(self, samples: int) -> float:
        """Open the model anew and warm it up on the first samples; return the seconds of opening it."""

    def time(self, first: int, samples: int, repeats: int) -> list[float]:
        """Return the seconds of each inference, of some samples from `first` on, `repeats` times."""


@dataclass
class RoundTimes:
    """The times of one model, in seconds.

    Args:
        loads: of opening it, each time.
        turns: of a typical inference in each turn: by round, then by opening.
        singles: of every inference.
    """

    loads: list[float] = field(default_factory=list)
    turns: list[list[list[float]]] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)


def speedup(of: RoundTimes, against: RoundTimes) -> Ratio:
    """Return the time of `against` / the time of `of`, with the 95% bootstrap interval over rounds.

    Taken in logarithms: swapping the two gives the reciprocal. With too few rounds the interval is 0 to inf.
    """
    return _over_rounds(
        [
            [[math.log(b / a) for a, b in zip(*turns, strict=True)] for turns in zip(*opened, strict=True)]
            for opened in zip(of.turns, against.turns, strict=True)
        ]
    )


def median_seconds(times: RoundTimes) -> Ratio:
    """Return the seconds of a typical inference, with their interval."""
    return _over_rounds([[[math.log(s) for s in turns] for turns in opened] for opened in times.turns])


def _over_rounds(logs: Sequence[Sequence[Sequence[float]]]) -> Ratio:
    rounds = [statistics.median(statistics.median(turns) for turns in opened) for opened in logs]
    middle = math.exp(statistics.median(rounds))
    if len(rounds) < LEAST_ROUNDS:
        return Ratio(middle, 0.0, math.inf)
    low, high = median_interval(rounds)
    return Ratio(middle, math.exp(low), math.exp(high))


def run_rounds(
    models: Sequence[TimedModel],
    samples: int,
    max_seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda seconds: None,
) -> list[RoundTimes]:
    """Time models until every ratio to the first is known to 1%, or the time is up.

    Args:
        models: at least one; all have the same samples.
        samples: number of samples of each.
        max_seconds: time limit; a turn that has begun is finished, and each model takes one turn at least.
        clock: seconds.
        progress: called with the seconds that have passed.
    """
    rounds = _Rounds(models, samples, clock)
    began, share, new_processes = clock(), max_seconds / _ROUNDS_AT_LEAST, True
    while clock() < began + max_seconds and not _is_settled(rounds.times):
        starting = rounds.run(new_processes, share, began + max_seconds)
        # Where starting takes long, processes are kept: otherwise there would be too few rounds.
        new_processes = new_processes and starting < share
        progress(clock() - began)
    return rounds.times


@dataclass(frozen=True)
class _Turn:
    """The work of a turn.

    Args:
        samples: number of samples.
        repeats: by model, how often it runs each of them.
    """

    samples: int
    repeats: tuple[int, ...]


class _Rounds:
    """The rounds of a bench; arguments as in `run_rounds`."""

    def __init__(self, models: Sequence[TimedModel], samples: int, clock: Callable[[], float]) -> None:
        self._models = models
        self._samples = samples
        self._clock = clock
        self._turn: _Turn | None = None
        self._openings = self._turns = 0
        self.times = [RoundTimes() for _ in models]

    def run(self, new_processes: bool, share: float, end: float) -> float:
        """Run a round: open all models, once at least, and let them take turns.

        Args:
            new_processes: start them first.
            share: seconds that the round may take, where they suffice for a turn of each model.
            end: the time limit.

        Returns:
            The seconds until all models were open for the first time.
        """
        began = self._clock()
        for model, times in zip(self._models, self.times, strict=True):
            times.turns.append([])
            if new_processes:
                model.start()
        opening, turn = self._open()
        starting = self._clock() - began
        closing = self._clock() + max(_ROUND_SECONDS, min(starting, share - starting))
        while True:
            now = self._clock()
            self._take_turns(turn, min(end, now + max(_OPEN_SECONDS, min(opening, share - opening))))
            if self._clock() + opening >= min(closing, end):
                return starting
            opening, turn = self._open()

    def _open(self) -> tuple[float, _Turn]:
        """Open all models; the seconds that it took, and the work of a turn."""
        began = self._clock()
        self._openings += 1
        samples = self._turn.samples if self._turn else self._samples
        for index in turn_order(len(self._models), self._openings):
            self.times[index].loads.append(self._models[index].open(samples))
            self.times[index].turns[-1].append([])
        opening = self._clock() - began
        self._turn = self._turn or _turn(self._models, self._samples)
        return opening, self._turn

    def _take_turns(self, turn: _Turn, end: float) -> None:
        """Let the models take turns on the same samples until `end`."""
        while True:
            self._turns += 1
            first = self._turns * turn.samples % self._samples
            for index in turn_order(len(self._models), self._turns):
                seconds = self._models[index].time(first, turn.samples, turn.repeats[index])
                times = self.times[index]
                times.turns[-1][-1].append(per_inference(seconds, turn.samples))
                times.singles += seconds
            if self._clock() >= end:
                return


def _turn(models: Sequence[TimedModel], samples: int) -> _Turn:
    """As many samples as the slowest model has time to repeat; the same number for all models."""
    each = [max(sum(model.time(0, samples, 1)) / samples, 1e-9) for model in models]
    chosen = max(1, min(samples, int(_TURN_SECONDS / (_REPEATS * max(each)))))
    return _Turn(chosen, tuple(math.ceil(_TURN_SECONDS / (seconds * chosen)) for seconds in each))


def _is_settled(times: Sequence[RoundTimes]) -> bool:
    """Whether every ratio to the first model is known to 1%; of one model, its own time."""
    if len(times[0].turns) < _SETTLED_ROUNDS:
        return False
    first, *others = times
    ratios = [speedup(other, first) for other in others] or [median_seconds(first)]
    return all(r.high - r.low <= TIGHT * r.median for r in ratios)
