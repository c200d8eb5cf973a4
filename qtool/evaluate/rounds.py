"""Models timed in rounds, each of which starts a process of every model anew, and in it opens the model again
and again.

Where a session's memory comes to lie changes its speed, by 5% for some models, for as long as it is open. Two
sessions of one and the same model so differ, however long they are timed. So what an interval is over are
rounds. While the models are open they take short turns: a drifting clock or a busy neighbour hits all alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qtool.evaluate.latency import Ratio, per_inference
from qtool.numerics.bootstrap import median_interval

# An interval from fewer rounds is not what it says (numerics/bootstrap.py).
LEAST_ROUNDS = 6
TIGHT = 0.02  # an interval this wide settles any question that is worth asking
_SETTLED_ROUNDS = 8  # what looks tight after fewer may be luck
_TURN_SECONDS = 0.01  # a turn runs a model at least this long, or once
_REPEATS = 5  # of each sample of a turn, where they fit in: enough for their median to mean something
_OPEN_SECONDS = 0.12  # that models are open, or as long as opening takes
_ROUND_SECONDS = 0.5  # of a round, or as long as starting takes
_ROUNDS_AT_LEAST = 10  # that are to fit into the time there is


class Racer(Protocol):
    """A model that can be timed, wherever it runs."""

    def start(self) -> None:
        """Begin a process of its own, instead of the one before."""

    def open(self, samples: int) -> float:
        """Open it anew, and warm it up on the first samples: seconds that opening took."""

    def turn(self, first: int, samples: int, repeats: int) -> list[float]:
        """Seconds of single inferences: of `samples` samples from `first` on, `repeats` times."""


@dataclass
class Timing:
    """What was measured of one model, in seconds.

    Args:
        loads: of opening it, each time.
        turns: of a typical inference in each turn: by round, and in that by opening.
        singles: of all single inferences.
    """

    loads: list[float] = field(default_factory=list)
    turns: list[list[list[float]]] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)


def speedup(of: Timing, against: Timing) -> Ratio:
    """Time of `against` / time of `of`, with the 95% bootstrap interval over rounds.

    In logarithms, so that swapping the two gives the reciprocal. Too few rounds tell nothing: 0 to inf.
    """
    return _over_rounds(
        [
            [[math.log(b / a) for a, b in zip(*turns, strict=True)] for turns in zip(*opened, strict=True)]
            for opened in zip(of.turns, against.turns, strict=True)
        ]
    )


def typical(timing: Timing) -> Ratio:
    """Seconds of a typical inference, with its interval."""
    return _over_rounds([[[math.log(s) for s in turns] for turns in opened] for opened in timing.turns])


def _over_rounds(logs: Sequence[Sequence[Sequence[float]]]) -> Ratio:
    rounds = [statistics.median(statistics.median(turns) for turns in opened) for opened in logs]
    middle = math.exp(statistics.median(rounds))
    if len(rounds) < LEAST_ROUNDS:
        return Ratio(middle, 0.0, math.inf)
    low, high = median_interval(rounds)
    return Ratio(middle, math.exp(low), math.exp(high))


def run_rounds(
    racers: Sequence[Racer],
    samples: int,
    max_seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda seconds: None,
) -> list[Timing]:
    """Time models until every ratio to the first is known well enough, or the time is up.

    Args:
        racers: at least one; all take the same samples.
        samples: how many each has.
        max_seconds: a turn that is begun is ended, and there is one of each model at least.
        clock: seconds.
        progress: called with the seconds that have passed.
    """
    contest = _Contest(racers, samples, clock)
    began, share, anew = clock(), max_seconds / _ROUNDS_AT_LEAST, True
    while clock() < began + max_seconds and not _is_settled(contest.timings):
        starting = contest.round(anew, share, began + max_seconds)
        anew = anew and starting < share  # else the processes stay, for there to be rounds enough
        progress(clock() - began)
    return contest.timings


class _Contest:
    """Models in a race; arguments as of `run_rounds`."""

    def __init__(self, racers: Sequence[Racer], samples: int, clock: Callable[[], float]) -> None:
        self._racers = racers
        self._samples = samples
        self._clock = clock
        self._course: _Course | None = None
        self._openings = self._turns = 0
        self.timings = [Timing() for _ in racers]

    def round(self, anew: bool, share: float, end: float) -> float:
        """Open all models once at least, and let them take turns: the seconds until they first did.

        Args:
            anew: in new processes.
            share: seconds that a round may take, where that is enough for a turn each.
            end: the time at which all is over.
        """
        began = self._clock()
        for racer, timing in zip(self._racers, self.timings, strict=True):
            timing.turns.append([])
            if anew:
                racer.start()
        opening, course = self._open()
        starting = self._clock() - began
        closing = self._clock() + max(_ROUND_SECONDS, min(starting, share - starting))
        while True:
            now = self._clock()
            self._take_turns(course, min(end, now + max(_OPEN_SECONDS, min(opening, share - opening))))
            if self._clock() + opening >= min(closing, end):
                return starting
            opening, course = self._open()

    def _open(self) -> tuple[float, _Course]:
        """Open all models: the seconds that it took, and what a turn is."""
        began = self._clock()
        self._openings += 1
        warming = self._course.samples if self._course else self._samples
        for index in self._order(self._openings):
            self.timings[index].loads.append(self._racers[index].open(warming))
            self.timings[index].turns[-1].append([])
        opening = self._clock() - began
        self._course = self._course or _course(self._racers, self._samples)
        return opening, self._course

    def _order(self, number: int) -> list[int]:
        """The models, each time beginning with another one."""
        many = len(self._racers)
        return [(number + place) % many for place in range(many)]

    def _take_turns(self, course: _Course, end: float) -> None:
        """A turn of each model on the same samples, again and again."""
        while True:
            self._turns += 1
            first = self._turns * course.samples % self._samples
            for index in self._order(self._turns):
                seconds = self._racers[index].turn(first, course.samples, course.repeats[index])
                timing = self.timings[index]
                timing.turns[-1][-1].append(per_inference(seconds, course.samples))
                timing.singles += seconds
            if self._clock() >= end:
                return


@dataclass(frozen=True)
class _Course:
    """What a turn is.

    Args:
        samples: that it takes.
        repeats: of them, by model.
    """

    samples: int
    repeats: tuple[int, ...]


def _course(racers: Sequence[Racer], samples: int) -> _Course:
    """As many samples a turn as leave the slowest model time to repeat them; all models do the same."""
    each = [max(sum(racer.turn(0, samples, 1)) / samples, 1e-9) for racer in racers]
    chosen = max(1, min(samples, int(_TURN_SECONDS / (_REPEATS * max(each)))))
    return _Course(chosen, tuple(math.ceil(_TURN_SECONDS / (seconds * chosen)) for seconds in each))


def _is_settled(timings: Sequence[Timing]) -> bool:
    """Whether all models are known well enough against the first; a single one, by itself."""
    if len(timings[0].turns) < _SETTLED_ROUNDS:
        return False
    first, *others = timings
    found = [speedup(other, first) for other in others] or [typical(first)]
    return all(r.high - r.low <= TIGHT * r.median for r in found)
