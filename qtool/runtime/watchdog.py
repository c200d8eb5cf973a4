"""The watchdog: whether a process is dead, by its heartbeats and its CPU time, and never by a slow machine.

On a busy machine a healthy process may wait for minutes between two heartbeats. So time counts while the
process has the CPU. Where it uses none, it is dead after IDLE_SECONDS on a machine that has CPU to give.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LOOK = 0.5  # seconds between looks
IDLE_SECONDS = 600
# The CPU seconds of a worker process that go to its imports, and do not count.
IMPORTS_SECONDS = 5
# Percentage of time in which some process waits for a CPU, memory or a disk: a starved machine has more.
_PRESSURE = 20.0
_WAITS = ("cpu", "memory", "io")


@dataclass(frozen=True)
class Death:
    """A process is dead.

    Args:
        seconds: without a heartbeat; of CPU time, or of time where it used none.
        idle: it used no CPU time.
    """

    seconds: float
    idle: bool


def starved() -> bool:
    """Whether processes wait for this machine: by its load, and by Linux's pressure files."""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1):
        return True
    return any(_pressure(name) > _PRESSURE for name in _WAITS)


def _pressure(name: str) -> float:
    """Return the percentage of the last minute in which some process waited for a resource."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # 'some avg10=0.00 avg60=0.00 ..'
        return float(Path("/proc/pressure", name).read_text().split()[2].removeprefix("avg60="))
    return 0.0


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each thread of a process and its descendants; {} without /proc."""
    seconds: dict[int, float] = {}
    waiting = [(pid, 0.0)]
    while waiting:
        process, free = waiting.pop()
        with contextlib.suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208 - it runs twice a second
                with contextlib.suppress(OSError, ValueError, IndexError):
                    task = Path(f"/proc/{process}/task/{thread}")
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                    seconds[int(thread)] = max(used - free, 0.0)
                    children = (task / "children").read_text().split()
                    waiting += [(int(child), float(IMPORTS_SECONDS)) for child in children]
    return seconds


class Watchdog:
    """Tells a dead process from a slow one.

    The busiest thread's CPU time counts: an inference on 64 threads uses 64 seconds a second.

    Args:
        clock: monotonic seconds.
        is_starved: whether the machine is.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, is_starved: Callable[[], bool] = starved
    ) -> None:
        self._clock, self._is_starved = clock, is_starved
        self._looked = clock()
        self._beats = -1
        self._before: Mapping[int, float] = {}
        self._at_beat: Mapping[int, float] = {}
        self._idle = 0.0

    def look(self, beats: int, threads: Mapping[int, float], patience: float) -> Death | None:
        """Return the death of the process; None while it lives.

        Args:
            beats: its heartbeats so far.
            threads: the CPU seconds of each thread; {}: unknown, and time on a machine that is not starved
                counts in their place.
            patience: the CPU seconds that it may take without a heartbeat.
        """
        now = self._clock()
        # After a long look both processes were stopped (Ctrl-Z): that time does not count.
        passed, self._looked = min(now - self._looked, 2 * LOOK), now
        if not threads:
            threads = {0: self._before.get(0, 0.0) + (0.0 if self._is_starved() else passed)}
        works = any(used > self._before.get(thread, 0.0) for thread, used in threads.items())
        self._before = threads
        if beats != self._beats:
            self._beats, self._at_beat, works = beats, threads, True
        if works:
            self._idle = 0.0
        elif not self._is_starved():
            self._idle += passed
        if max(used - self._at_beat.get(thread, 0.0) for thread, used in threads.items()) > patience:
            return Death(patience, idle=False)
        longest = max(IDLE_SECONDS, patience)
        return Death(longest, idle=True) if self._idle > longest else None
