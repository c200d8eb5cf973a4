"""State that several threads of a program share with the library: notes of steps, and the threads of a BLAS."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import qtool
from qtool.errors import ModelError, RuntimeFailure
from qtool.runtime import heartbeat
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.threads import in_threads, requested_threads
from tests.rewrite.zoo import CASES


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[mmap.mmap]:
    monkeypatch.setattr(heartbeat, "_notes", heartbeat._Notes())
    shared = mmap.mmap(-1, heartbeat.PAGE_BYTES)
    heartbeat.show_on(shared)
    yield shared


def shown(page: mmap.mmap) -> str | None:
    step = heartbeat.read(page).step
    return None if step is None else step.subject


def test_threads_have_their_own_steps(page: mmap.mmap) -> None:
    ended, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with heartbeat.step("other", "runs", RuntimeFailure):
            ended.set()
            assert go_on.wait(10)
        ended.set()

    with heartbeat.step("mine", "is opened", ModelError):
        thread = threading.Thread(target=other)
        thread.start()
        assert ended.wait(10)
        ended.clear()
        assert shown(page) == "other"
    assert shown(page) == "other"  # the step that ended was another, though it began first
    with heartbeat.step("mine again", "is opened", ModelError):
        assert shown(page) == "mine again"
        go_on.set()
        assert ended.wait(10)
        thread.join()
        assert shown(page) == "mine again"
    assert shown(page) is None


def test_many_threads_leave_nothing_behind(page: mmap.mmap) -> None:
    def work(name: str) -> None:
        for _ in range(200):
            with heartbeat.step(name, "outer", ModelError), heartbeat.step(name, "inner", ModelError):
                heartbeat.beat()

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown(page) is None
    assert heartbeat.read(page).beats >= 2 * 200 * 5


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_threads_work_as_are_requested(count: int) -> None:
    together = threading.Barrier(count, timeout=10)

    def work(number: int) -> int:
        together.wait()
        return number

    with requested_threads(count):
        assert list(in_threads(work, range(2 * count))) == list(range(2 * count))
    assert {thread.name for thread in threading.enumerate()} <= {"MainThread"}


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_limit_nests_and_is_lifted_by_the_last_to_leave() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        inside, leave = threading.Event(), threading.Event()

        def other() -> None:
            with single_threaded_blas():
                inside.set()
                assert leave.wait(10)

        thread = threading.Thread(target=other)
        with single_threaded_blas(), single_threaded_blas():
            thread.start()
            assert inside.wait(10)
            assert blas_threads() == {1}
        assert blas_threads() == {1}
        leave.set()
        thread.join()
        assert blas_threads() == before


def test_an_error_lifts_it_too() -> None:
    before = blas_threads()
    with pytest.raises(ValueError), single_threaded_blas():
        raise ValueError
    assert blas_threads() == before


def test_products_do_not_depend_on_the_environment() -> None:
    code = """
import hashlib, numpy as np
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.threads import in_threads, requested_threads
a = np.random.default_rng(0).standard_normal((700, 900)).astype(np.float32)
with single_threaded_blas():
    print(hashlib.sha256((a @ a.T).tobytes() + np.linalg.inv(a @ a.T + np.eye(700)).tobytes()).hexdigest())
"""
    mappings = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }  # fmt: skip
    assert len(mappings) == 1


@pytest.mark.parametrize("work", ["quantize", "calibrate", "compare", "dry_run"])
def test_the_library_works_inside(work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = CASES["residual"].build()
    data = [dict(s) for s in CASES["residual"].samples()] * 2
    counts: list[set[int]] = []
    out = tmp_path / "q.onnx"

    def watch(*_: object) -> None:
        counts.append(blas_threads())

    monkeypatch.setattr("qtool.runtime.heartbeat._Notes.begin", lambda self, step: watch())
    monkeypatch.setattr("qtool.runtime.heartbeat._Notes.end", lambda self, step: None)
    with threadpool_limits(limits=2, user_api="blas"):
        if work == "quantize":
            qtool.quantize(proto, out, qtool.Options(target="generic", calib=data))
        elif work == "calibrate":
            qtool.calibrate(proto, data)
        elif work == "dry_run":
            qtool.dry_run(proto, qtool.Options(target="generic"))
        else:
            qtool.compare(proto, proto, data)
    assert {n for one in counts for n in one} == {1}
