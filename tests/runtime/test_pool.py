"""Calls in worker processes: their results, errors and deaths, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qtool.errors import DataError, QtoolError
from qtool.runtime.pool import all_results, opened
from tests.runtime.pool_work import work


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
