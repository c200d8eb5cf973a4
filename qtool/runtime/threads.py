"""The threads that this process may use: onnxruntime takes all cores, whatever the container allows."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_CGROUP = Path("/sys/fs/cgroup")
_REQUESTED = ContextVar("requested threads", default=0)


def default_threads(cgroup: Path = _CGROUP) -> int:
    """Return the intra-op threads for a session; 0 where all cores are free, to leave the choice to it.

    Args:
        cgroup: where Linux shows the quota of a container: cpu.max in version 2, cpu/cpu.cfs_* in version 1.
    """
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    quota = _quota(cgroup)
    allowed = min(allowed, math.ceil(quota)) if quota else allowed
    return max(allowed, 1) if allowed < cores else 0


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return default_threads() or os.cpu_count() or 1


@contextmanager
def requested_threads(count: int) -> Iterator[None]:
    """Let `in_threads` use this many threads; 0: one for each usable core."""
    token = _REQUESTED.set(count)
    try:
        yield
    finally:
        _REQUESTED.reset(token)


def in_threads(work: Callable[[T], R], items: Sequence[T], *, ahead: int = 1) -> Iterator[R]:
    """Yield the results of a function of each item, in order. A few are computed at once.

    Args:
        work: releases the interpreter's lock most of the time, as numpy does.
        items: its arguments.
        ahead: items that are done or under way for each thread; their results are in memory.
    """
    threads = _REQUESTED.get() or usable_cores()
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in range(len(items)):
                while len(waiting) < ahead * threads and index + len(waiting) < len(items):
                    waiting.append(pool.submit(work, items[index + len(waiting)]))
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _quota(cgroup: Path) -> float:
    """Return the quota in cores; 0 for none."""
    try:
        parts = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            parts = [(cgroup / "cpu" / name).read_text().strip() for name in names]
        except OSError:
            return 0.0
    if len(parts) != 2 or not all(part.isdigit() for part in parts):  # "max", or -1: none
        return 0.0
    return int(parts[0]) / max(int(parts[1]), 1)
