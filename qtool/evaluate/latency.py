"""How fast models are side by side: interleaved, so that a drifting clock hits all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from qtool.data.fit import fit
from qtool.data.samples import Source
from qtool.evaluate.ports import bare, feed, in_floats
from qtool.session import Array, Session, running

SECONDS = 1.5  # that a race usually takes
_LEAST_ROUNDS = 9
# Enough samples for shapes to differ, few enough to be brief.
_SAMPLES = 4
_Z95 = 1.96
_TIGHT = 0.02  # an interval this wide settles any question that is worth asking
PATIENCE = 4.0  # times as long as usual, when a noisy machine leaves the question open
_SLICE_SECONDS = 0.004  # a timed slice runs a model at least this long, or once


@dataclass(frozen=True)
class Ratio:
    """How many times as fast: the median over rounds, and the 95% interval of that median."""

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
        """Time of `against` / time of `name`, taken within each round.

        The interval is between order statistics, as far from the middle as a fair coin strays in as many
        throws: true of any distribution (Conover, Practical Nonparametric Statistics, 3rd ed., 3.2).
        """
        ratios = sorted(b / a for a, b in zip(self.seconds[name], self.seconds[against], strict=True))
        below = max(0, int(len(ratios) / 2 - _Z95 * math.sqrt(len(ratios)) / 2))
        return Ratio(statistics.median(ratios), ratios[below], ratios[-1 - below])


def race(
    sessions: Mapping[str, Session],
    samples: Mapping[str, Sequence[Mapping[str, Array]]],
    *,
    threads: int,
    seconds: float = SECONDS,
    patience: float = PATIENCE,
) -> Race:
    """Time sessions in turn on the same samples, round after round, for about `seconds`.

    For up to `patience` times as long while noise leaves open whether the last one is faster than the others.

    Each round runs every model over the samples once (or more often, when that is too short to time).

    Args:
        sessions: by name.
        samples: of each session, at least one and as many as of the others.
        threads: what the sessions were opened with, for the record.
    """
    repeats = {name: _repeats(session, samples[name]) for name, session in sessions.items()}
    rounds: list[dict[str, float]] = []
    start = time.perf_counter()
    while True:
        rounds.append({n: _time(s, samples[n], repeats[n]) for n, s in sessions.items()})
        spent = (time.perf_counter() - start) / seconds
        if len(rounds) < _LEAST_ROUNDS or spent < 1:
            continue
        race = Race(threads, {name: tuple(r[name] for r in rounds) for name in sessions})
        if spent > patience or _is_settled(race):
            return race


def race_models(
    models: Mapping[str, Path | bytes],
    samples: Source,
    threads: int = 0,
    *,
    seconds: float = SECONDS,
    patience: float = PATIENCE,
) -> Race:
    """Time models on the first few samples of a source, with one thread unless more are asked for."""
    opened = {
        name: in_floats(Session(m, threads=threads or 1, name=f"the {name} model"))
        for name, m in models.items()
    }
    chosen = list(islice(samples.read(), _SAMPLES))
    fed = {
        name: [feed(m, fit(s, m.inputs, m.input_dtypes, samples.name)) for s in chosen]
        for name, m in opened.items()
    }
    sessions = {name: bare(m) for name, m in opened.items()}
    return race(sessions, fed, threads=threads or 1, seconds=seconds, patience=patience)


def _is_settled(race: Race) -> bool:
    """Whether the last model is known to be faster or slower than each other one, or just how fast."""
    *others, last = race.seconds
    ratios = [race.speedup(last, other) for other in others]
    return all(r.low > 1 or r.high < 1 or r.high - r.low <= _TIGHT * r.median for r in ratios)


def _repeats(session: Session, samples: Sequence[Mapping[str, Array]]) -> int:
    _time(session, samples, 1)  # warm-up: memory arenas, lazily packed weights
    once = _time(session, samples, 1) * len(samples)
    return max(1, int(_SLICE_SECONDS / max(once, 1e-7)))


def _time(session: Session, samples: Sequence[Mapping[str, Array]], repeats: int) -> float:
    """Seconds for one inference."""
    return statistics.fmean(single_times(session, samples, repeats))


def single_times(session: Session, samples: Sequence[Mapping[str, Array]], repeats: int) -> list[float]:
    """Seconds of each inference: all samples once, then again .."""
    clock = time.perf_counter
    with running(session):
        ticks = [clock()]
        for _ in range(repeats):
            for sample in samples:
                session.run(sample)
                ticks.append(clock())
    return [end - start for start, end in pairwise(ticks)]
