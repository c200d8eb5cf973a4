"""The race measures all models alike; how fast they are is no test's business."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.evaluate.latency import Race, race
from qtool.session import Session
from tests.rewrite.flow import written


def test_a_race_times_every_model_in_every_round() -> None:
    result = written("residual", "generic")
    sessions = {
        "original": Session(result.original.SerializeToString(), threads=1),
        "quantized": Session(result.data, threads=1),
    }
    timed = race(sessions, dict.fromkeys(sessions, result.samples[:2]), threads=1, seconds=0.05)
    assert timed.threads == 1
    assert set(timed.seconds) == {"original", "quantized"}
    assert {len(s) for s in timed.seconds.values()} == {timed.rounds}
    assert timed.rounds >= 3
    assert all(t > 0 for s in timed.seconds.values() for t in s)
    ratio = timed.speedup("quantized", "original")
    assert 0 < ratio.low <= ratio.median <= ratio.high
    assert timed.milliseconds("quantized") > 0


def test_speedup_is_the_median_of_the_ratios_within_each_round() -> None:
    """Round by round, so that a machine that slows down midway hits both alike."""
    timed = Race(1, {"a": (1.0, 10.0, 2.0, 1.0, 1.0), "b": (2.0, 20.0, 4.0, 2.0, 2.0)})
    ratio = timed.speedup("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (2, 2, 2)
    assert timed.speedup("b", "a").median == 0.5
    assert timed.milliseconds("a") == pytest.approx(1000)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Whatever the noise: here a skewed one, as of a shared machine."""
    random = np.random.default_rng(0)
    held, races = 0, 400
    for _ in range(races):
        noise = random.lognormal(0.0, 0.5, 40)
        ratio = Race(1, {"a": (1.0,) * 40, "b": tuple(2 * noise)}).speedup("a", "b")
        held += ratio.low <= 2 <= ratio.high
    assert held / races >= 0.93
