"""Which of the plans that were built and run is the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Where nobody says how much accuracy is wanted, it counts from the least that is allowed up to so many dB
# above that: as much as this share of all the speed that there is to gain. See docs/placement.md.
SPAN_DB = 15.0
SPAN_WORTH = 0.75
# Where all that there is to gain is less than this, speed counts by as much less: a few percent are no reason
# to lose accuracy.
LEAST_GAIN = 1.25
# How much faster than asked for a plan is to be, where there is one: another race may say that much less.
_SURE = 1.03
# Speeds nearer than this are the same, as far as a race of a second can tell.
_SAME = 1.01


@dataclass(frozen=True)
class Budget:
    """What is asked of the answer.

    Args:
        floor_db: the least SQNR in dB.
        asked_db: whether the user set that; then the fastest plan that holds it is the answer.
        speedup: the least, against the original model; 0 where none is asked for. Then the truest plan
            that is so fast is the answer.
        size: the most bytes of the model; 0: any.
    """

    floor_db: float
    asked_db: bool = False
    speedup: float = 0.0
    size: int = 0


@dataclass(frozen=True)
class Trial:
    """A plan that was built and run.

    Args:
        name: of the plan.
        sqnr: dB of the worst output, on held-out samples.
        speed: time of the prepared FP32 model / its time, medians of interleaved rounds.
        speedup: the same against the original.
        bytes: of the model.
        units: how many are in int8, of those that were measured.
        timed: whether the speeds were; else they are predicted.
    """

    name: str
    sqnr: float
    speed: float
    speedup: float
    bytes: int
    units: int = 0
    timed: bool = True

    def beats(self, other: Trial) -> bool:
        """Whether it is as fast, as true and as small, and more so in one of these at least."""
        ours, theirs = self._merits, other._merits
        return all(a >= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

    @property
    def _merits(self) -> tuple[float, float, float]:
        return self.speed, self.sqnr, -self.bytes

    def holds(self, budget: Budget) -> bool:
        """Whether all that is asked of it holds."""
        return (
            self.sqnr >= budget.floor_db
            and self.speedup >= budget.speedup
            and (not budget.size or self.bytes <= budget.size)
        )


@dataclass(frozen=True)
class Gain:
    """What one step of recovery came to.

    Args:
        name: a row of tables/recoveries.py.
        before, after: SQNR of the worst output in dB, on held-out samples.
        seconds: that it took.
        kept: whether the result has it.
        first: it was tried on all that can be in int8, before placement, on which it bears.
        failed: why it could not be tried; '' where it was.
    """

    name: str
    before: float
    after: float
    seconds: float
    kept: bool
    first: bool = False
    failed: str = ""


def choose(trials: Sequence[Trial], budget: Budget) -> Trial:
    """The best of those that hold the budget; where none does, the one that comes nearest to the SQNR.

    Args:
        trials: at least one.
        budget: what is asked.
    """
    able = [t for t in trials if t.holds(budget)]
    if not able:
        return max(trials, key=lambda t: (min(_worth(t.sqnr), budget.floor_db), t.speed))
    if budget.speedup:
        able = [t for t in able if t.speedup >= budget.speedup * _SURE] or able
        return max(able, key=lambda t: (t.sqnr, t.speed))
    fastest = max(t.speed for t in able)
    if budget.asked_db:
        return max((t for t in able if t.speed * _SAME >= fastest), key=lambda t: t.sqnr)
    gain = max(math.log(fastest), math.log(LEAST_GAIN))
    return max(able, key=lambda t: (math.log(t.speed) / gain + SPAN_WORTH * _share(t.sqnr, budget), t.sqnr))


def _worth(sqnr: float) -> float:
    """An SQNR that can be compared: outputs that are no numbers are the worst there are."""
    return -math.inf if math.isnan(sqnr) else sqnr


def _share(sqnr: float, budget: Budget) -> float:
    """How much of the accuracy that counts a plan has: 0 at the floor, 1 from SPAN_DB above it."""
    return min(max((sqnr - budget.floor_db) / SPAN_DB, 0.0), 1.0)


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that no other one beats in speed, error and size, the fastest first."""
    able = (t for t in trials if not any(other.beats(t) for other in trials))
    return tuple(sorted(able, key=lambda t: (-t.speed, -t.sqnr, t.bytes)))
