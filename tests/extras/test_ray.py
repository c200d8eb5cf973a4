"""A Ray cluster of two workers on this machine: results equal those of one process, though a worker is killed."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
import ray

import qtool
from qtool.calibration.ranges_file import to_json
from qtool.errors import DataError, EnvironmentFailure
from qtool.plan import serial
from tests.graphs import SAMPLE_MODELS

CNN = SAMPLE_MODELS / "cnn"
MODEL, CALIB = str(CNN / "model.onnx"), str(CNN / "calib")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    with warnings.catch_warnings():  # Ray does not wait for the processes that it has ended
        warnings.simplefilter("ignore")
        ray.shutdown()
        gc.collect()


def busy_workers() -> Iterator[int]:
    """The processes below this one that run a task of qtool: Ray names it in their title."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if file.read_bytes().startswith(b"ray::_run") and os.getpid() in ancestors(int(file.parent.name)):
                yield int(file.parent.name)


def ancestors(pid: int) -> list[int]:
    """The processes that a process was started by."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [parent, *ancestors(parent)] if parent > 1 else [parent]


class Killer:
    """Kills one worker, as soon as one is busy and half of the work is done."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done and not self.killed.is_set():
            for pid in islice(busy_workers(), 1):
                os.kill(pid, signal.SIGKILL)
                self.killed.set()


def test_calibrate(tmp_path: Path) -> None:
    kill = Killer()
    options = qtool.Calibrating(threads=1, ray="auto")
    among = qtool.calibrate(MODEL, CALIB, options, kill)
    assert to_json(among) == to_json(qtool.calibrate(MODEL, CALIB, qtool.Calibrating(threads=1)))
    assert kill.killed.is_set()


def test_tune(tmp_path: Path) -> None:
    results = {}
    kill = Killer()
    for address in ("", "auto"):
        options = qtool.Options(
            calib=CALIB, reading=qtool.Reading(samples=24), target="cpu", timing="table", threads=1,
            gate="none", recover="none", ray=address,
        )  # fmt: skip
        output = tmp_path / f"tuned{address}.onnx"
        result = qtool.tune(MODEL, output, options, points=3, progress=kill if address else silent)
        results[address] = serial.to_json(result.plan), output.read_bytes()
    assert results[""] == results["auto"]
    assert kill.killed.is_set()


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def test_sweep(tmp_path: Path) -> None:
    base = {"target": "generic", "timing": "table", "threads": 1, "effort": "fast", "calib": CALIB}
    configs = {
        "int8": qtool.Options(**base),  # type: ignore[arg-type]
        "mse": qtool.Options(**base, method="mse"),  # type: ignore[arg-type]
        "stored": qtool.Options(mode="weight-only", **base),  # type: ignore[arg-type]
    }
    kill = Killer()
    timer = poll(kill)
    among = qtool.sweep([MODEL], configs, tmp_path / "ray", ray="auto")
    timer.set()
    alone = qtool.sweep([MODEL], configs, tmp_path / "alone")
    assert [row.exit_code for row in among.rows] == [row.exit_code for row in alone.rows] == [0, 0, 0]
    for name in configs:
        for suffix in (".onnx", ".plan.json"):
            files = [
                (tmp_path / where / "model" / (name + suffix)).read_bytes() for where in ("ray", "alone")
            ]
            assert files[0] == files[1]
    assert kill.killed.is_set()


def poll(kill: Callable[[str, int, int], None]) -> threading.Event:
    """Call a killer from a thread until the event is set."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            kill("sweep", 1, 1)

    threading.Thread(target=run, daemon=True).start()
    return over


def test_an_error_of_a_worker_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        qtool.calibrate(MODEL, str(tmp_path), qtool.Calibrating(threads=1, ray="auto"))
    assert "holds no samples" in caught.value.message


def test_no_cluster_is_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.shutdown()
        gc.collect()
    with pytest.raises(EnvironmentFailure, match="no Ray cluster at '127.0.0.1:1'") as caught:
        qtool.calibrate(MODEL, CALIB, qtool.Calibrating(ray="127.0.0.1:1"))
    assert "ray start --head" in caught.value.hint
