"""A worker process: it answers, it reports its errors, it ends with its parent, and it can die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from qtool.errors import EnvironmentFailure, ModelError, RuntimeFailure
from qtool.runtime.worker_process import WorkerProcess
from tests.graphs import ROOT


class Thing:
    """The object in the process."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ModelError("below zero", "count up")
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def shout(self) -> str:
        os.write(1, b"a native library prints what it likes\n")
        print("and so does Python")
        return "heard"

    def fail(self) -> None:
        raise RuntimeFailure("it can't", "ask another")

    def stumble(self) -> None:
        raise KeyError("an unforeseen key")

    def die(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    def leave(self) -> None:
        os._exit(3)


@contextmanager
def thing(start: int = 0) -> Iterator[WorkerProcess]:
    with closing(WorkerProcess("m.onnx", "tests.runtime.test_worker_process:Thing", start)) as worker:
        yield worker


def test_it_answers_and_keeps_its_state() -> None:
    with thing(40) as worker:
        assert worker.call("add", 1) == 41
        assert worker.call("add", 1) == 42
        assert worker.call("pid") != os.getpid()
        assert worker.call("shout") == "heard"


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"),
    [
        ("fail", (), RuntimeFailure, "it can't"),
        ("stumble", (), RuntimeError, "an unforeseen key"),
        ("die", (int(signal.SIGSEGV),), ModelError, r"m\.onnx: its process died \(SIGSEGV\): it is opened"),
        ("die", (int(signal.SIGKILL),), EnvironmentFailure, r"m\.onnx: .*killed by the system.*out of memory"),
        ("leave", (), ModelError, r"m\.onnx: its process died \(exit code 3\)"),
    ],
)  # fmt: skip
def test_errors_and_crashes_are_reported(
    method: str, arguments: Any, error: type[Exception], message: str
) -> None:
    with thing() as worker, pytest.raises(error, match=message):
        worker.call(method, *arguments, doing="it is opened", blame=ModelError)


def test_errors_of_the_constructor_are_reported_at_the_first_call() -> None:
    with thing(-1) as worker, pytest.raises(ModelError, match="below zero") as caught:
        worker.call("add", 1)
    assert caught.value.hint == "count up"


def test_it_ends_when_it_is_closed() -> None:
    with thing() as worker:
        pid = worker.call("pid")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_its_parent() -> None:
    code = (
        "import os; from qtool.runtime.worker_process import WorkerProcess; a = WorkerProcess('m', 'tests.runtime.test_worker_process:Thing', 0); "
        "print(a.call('pid'), flush=True); a._ask('die', [0]); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(6000):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it outlived its parent")


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """With multiprocessing's spawn, it would be run again, and start processes again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from qtool.runtime.worker_process import WorkerProcess\n"
        "a = WorkerProcess('m', 'tests.runtime.test_worker_process:Thing', 1)\nprint(a.call('add', 1))\na.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('this is not json')")
    monkeypatch.chdir(tmp_path)
    with thing() as worker:
        assert worker.call("add", 1) == 1
