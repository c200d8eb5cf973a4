"""Calls in worker processes: their results, errors and deaths, one by one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from qtool.errors import DataError, QtoolError, RuntimeFailure
from qtool.runtime.heartbeat import step
from qtool.runtime.pool import all_results, opened

Progress = Callable[[str, int, int], None]


def work(what: str, folder: Path, shared: list[int], progress: Progress) -> int:
    """Add up a shared list, or end in some other way."""
    progress("work", 1, 1)
    mark = folder / what
    if what == "killed once" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        with step("m.onnx", "onnxruntime runs it", RuntimeFailure):
            os.kill(os.getpid(), signal.SIGSEGV)
    if what == "error":
        raise DataError("no samples", "add some")
    return sum(shared)


def test_each_call_has_its_own_end(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    names = ["plain", "killed once", "crash", "error", "killed", "plain"]
    with opened(2) as pool:
        shared = pool.share([1, 2])
        calls = [(name, tmp_path, shared) for name in names]
        ends = dict(pool.outcomes(work, calls, lambda done, total: progress.append((done, total))))
        assert all_results(pool, work, calls[:1]) == [3]
        with pytest.raises(DataError, match="no samples"):
            all_results(pool, work, [calls[names.index("error")], calls[0]])
    texts = [e.message if isinstance(e, QtoolError) else e for e in (ends[n] for n in range(len(names)))]
    assert texts == [
        3, 3, "m.onnx: a native library crashed (SIGSEGV): onnxruntime runs it", "no samples",
        "killed by the system (work): out of memory?", 3,
    ]  # fmt: skip
    assert progress[-1] == (6, 6)
