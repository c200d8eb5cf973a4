"""How fast models are side by side: interleaved, so that a drifting clock hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtool.session import Array, Session, running

_LEAST_ROUNDS = 9
_SLICE_SECONDS = 0.004  # a timed slice runs a model at least this long, or once


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float


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

    def speedup(self, name: str, against: str) -> Ratio:
        """Time of `against` / time of `name`, taken within each round."""
        ratios = [b / a for a, b in zip(self.seconds[name], self.seconds[against], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        return Ratio(median, low, high)


def race(
    sessions: Mapping[str, Session],
    samples: Mapping[str, Sequence[Mapping[str, Array]]],
    *,
    threads: int,
    seconds: float = 1.5,
) -> Race:
    """Time sessions in turn on the same samples, round after round, for about `seconds`.

    Each round runs every model over the samples once (or more often, when that is too short to time).

    Args:
        sessions: by name.
        samples: of each session, at least one and as many as of the others.
        threads: what the sessions were opened with, for the record.
    """
    repeats = {name: _repeats(session, samples[name]) for name, session in sessions.items()}
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < end:
        rounds.append({n: _time(s, samples[n], repeats[n]) for n, s in sessions.items()})
    return Race(threads, {name: tuple(r[name] for r in rounds) for name in sessions})


def _repeats(session: Session, samples: Sequence[Mapping[str, Array]]) -> int:
    _time(session, samples, 1)  # warm-up: memory arenas, lazily packed weights
    once = _time(session, samples, 1) * len(samples)
    return max(1, int(_SLICE_SECONDS / max(once, 1e-7)))


def _time(session: Session, samples: Sequence[Mapping[str, Array]], repeats: int) -> float:
    """Seconds for one inference."""
    with running(session):
        start = time.perf_counter()
        for _ in range(repeats):
            for sample in samples:
                session.run(sample)
        return (time.perf_counter() - start) / (repeats * len(samples))
