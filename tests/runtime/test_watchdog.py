"""A dead process is told from a slow one by its CPU time, whatever the machine does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from qtool.runtime.watchdog import IDLE_SECONDS, LOOK, Death, Watchdog, thread_seconds


def deaths(
    looks: Iterator[tuple[int, Mapping[int, float]]], patience: float = 60, starved: bool = False
) -> list[tuple[int, Death]]:
    """Return the first death and the number of its look; a look a LOOK."""
    now = [0.0]
    dog = Watchdog(lambda: now[0], lambda: starved)
    for number, (beats, threads) in enumerate(looks):
        now[0] += LOOK
        if (death := dog.look(beats, threads, patience)) is not None:
            return [(number, death)]
    return []


def at(seconds: float) -> range:
    return range(int(seconds / LOOK))


def test_cpu_time_without_a_heartbeat_counts() -> None:
    (death,) = deaths((1, {7: n * LOOK}) for n in at(100))
    assert death[1] == Death(60, idle=False)
    assert death[0] * LOOK == pytest.approx(60, abs=2 * LOOK)


def test_a_starved_process_has_its_cpu_time() -> None:
    """One that gets a hundredth of the CPU lives a hundred times as long."""
    assert deaths((1, {7: n * LOOK / 100}) for n in at(5900)) == []
    assert len(deaths((1, {7: n * LOOK / 100}) for n in at(6200))) == 1


def test_threads_side_by_side_count_once() -> None:
    assert deaths((1, dict.fromkeys(range(64), n * LOOK)) for n in at(59)) == []


def test_a_heartbeat_starts_the_count_anew() -> None:
    assert deaths((n // 100, {7: n * LOOK}) for n in at(1000)) == []


def test_a_process_without_cpu_time_is_dead_after_ten_minutes() -> None:
    (death,) = deaths((1, {7: 3.0}) for _ in at(1000))
    assert death[1] == Death(IDLE_SECONDS, idle=True)
    assert death[0] * LOOK == pytest.approx(IDLE_SECONDS, abs=2 * LOOK)
    assert deaths(((1, {7: 3.0}) for _ in at(1000)), starved=True) == []
    assert deaths(((1, {7: 3.0}) for _ in at(1000)), patience=2000) == []
    assert deaths((1, {7: n // 1000 / 100}) for n in at(2000)) == [], "a little CPU time now and then is life"


def test_stopped_time_does_not_count() -> None:
    """Ctrl-Z, and later `fg`."""
    now = [0.0]
    dog = Watchdog(lambda: now[0], lambda: False)
    for _ in range(100):
        now[0] += 1000.0
        assert dog.look(1, {7: 3.0}, 60) is None


def test_without_proc_time_counts_while_the_machine_is_not_starved() -> None:
    assert len(deaths((1, {}) for _ in at(100))) == 1
    assert deaths(((1, {}) for _ in at(100)), starved=True) == []


def test_the_cpu_time_of_a_process_is_read() -> None:
    before = thread_seconds(os.getpid())
    while os.times().user < 0.1:
        pass
    assert max(thread_seconds(os.getpid()).values()) >= max(before.values())
    assert thread_seconds(2**22 + 1) == {}, "there is no such process"
