"""Trials: candidates that were built and run, their Pareto front, and the choice of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qtool.evaluate.criteria import Criteria

# Without a criterion from the user, SQNR counts from the floor up to SPAN_DB above it; the whole span is
# worth this share of the largest gain in speed. See docs/placement.md.
SPAN_DB = 15.0
SPAN_WORTH = 0.75
# The least gain that speeds are compared with: where int8 gains a few percent, accuracy decides.
LEAST_GAIN = 1.25
# Prefer candidates 3% faster than requested: repeated timings vary by that much.
_SURE = 1.03
# Speeds closer than this are equal, as a race of some seconds resolves no more.
_SAME = 1.01


@dataclass(frozen=True)
class Trial:
    """A candidate that was built and run.

    Args:
        name: of the candidate.
        sqnr: dB of the worst output on the select set.
        sqnr_low: the lower end of its 95% interval over samples, which the criteria apply to.
        speed: its speed against optimized FP32, to decide by.
        speedup: that against the original.
        interval: the 95% interval of the measured speedup; None where it was not timed.
        bytes: of the model.
        regions: number of int8 regions.
        keeps_task: it changes no more decisions than the criteria allow.
    """

    name: str
    sqnr: float
    sqnr_low: float
    speed: float
    speedup: float
    interval: tuple[float, float] | None
    bytes: int
    regions: int = 0
    keeps_task: bool = True

    @property
    def timed(self) -> bool:
        """Whether it was raced; if not, the cost table predicts its speed."""
        return self.interval is not None

    def dominates(self, other: Trial) -> bool:
        """Whether it is at least as fast, accurate and small as another one, and better in one of these."""
        ours, theirs = self._merits, other._merits
        return all(a >= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

    @property
    def _merits(self) -> tuple[float, float, float]:
        return self.speed, self.sqnr, -self.bytes

    def holds(self, criteria: Criteria) -> bool:
        """Whether it meets all criteria."""
        return (
            self.keeps_task
            and self.sqnr_low >= criteria.floor_db
            and self.speedup >= criteria.speedup
            and (not criteria.size or self.bytes <= criteria.size)
        )


def choose(trials: Sequence[Trial], criteria: Criteria) -> Trial:
    """Return the best trial of those that meet the criteria; where none does, the one nearest to the floor.

    Args:
        trials: at least one.
        criteria: the acceptance criteria.
    """
    able = [t for t in trials if t.holds(criteria)]
    if not able:
        return max(
            trials, key=lambda t: (min(_comparable(t.sqnr_low), criteria.floor_db), t.keeps_task, t.speed)
        )
    if criteria.speedup:
        able = [t for t in able if t.speedup >= criteria.speedup * _SURE] or able
        return max(able, key=lambda t: (t.sqnr, t.speed))
    fastest = max(t.speed for t in able)
    if criteria.user_floor:
        return max((t for t in able if t.speed * _SAME >= fastest), key=lambda t: t.sqnr)
    gain = max(math.log(fastest), math.log(LEAST_GAIN))
    return max(able, key=lambda t: (math.log(t.speed) / gain + SPAN_WORTH * _share(t.sqnr, criteria), t.sqnr))


def _comparable(sqnr: float) -> float:
    """An SQNR for comparisons: nan counts as the worst."""
    return -math.inf if math.isnan(sqnr) else sqnr


def _share(sqnr: float, criteria: Criteria) -> float:
    """The share of the accuracy that counts: 0 at the floor, 1 from SPAN_DB above it."""
    return min(max((sqnr - criteria.floor_db) / SPAN_DB, 0.0), 1.0)


def pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the trials that no other one dominates in speed, SQNR and size, the fastest first."""
    points = (t for t in trials if not any(other.dominates(t) for other in trials))
    return tuple(sorted(points, key=lambda t: (-t.speed, -t.sqnr, t.bytes)))
