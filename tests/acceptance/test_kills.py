"""Whenever and however the program is ended, the output is the old one or the new one, whole.

`make test-all` kills at more moments. Moments are events on disk and shares of a run that was measured here: which
moment it really is differs from run to run, what must hold then does not.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.program import Program
from tests.graphs import write_samples
from tests.rewrite.zoo import CASES
from tests.tiers import nightly

KILLS = 50 if nightly() else 6

# A process group of its own, for which every model, or none, is large enough for a side file.
BEFORE = "import os; os.setsid(); from qtool.graph import save; save.SIDE_FILE_BYTES = {side}"

Files = dict[str, bytes]


@dataclass(frozen=True)
class Place:
    """The inputs of the runs, and the outputs of complete ones.

    Args:
        old, new: the output of two runs that differ in one option: name -> bytes.
        seconds: from the start of the worker to the end of the program.
    """

    folder: Path
    side: bool
    old: Files
    new: Files
    seconds: float

    def start(self, out: Path, *more: str) -> Program:
        return start(self.folder, self.side, out, *more)


def start(folder: Path, side: bool, out: Path, *more: str) -> Program:
    """Begin to quantize to out/q.onnx, with a temporary folder of its own."""
    (scratch := scratch_of(out)).mkdir(exist_ok=True)
    return Program(
        "quantize", folder / "m.onnx", "-o", out / "q.onnx", "--calib", folder / "calib", "--force", *more,
        "--target", "generic", "-q",
        env={"TMPDIR": str(scratch)}, before=BEFORE.format(side=1000 if side else 1 << 30),
    )  # fmt: skip


def scratch_of(out: Path) -> Path:
    return out.with_name(out.name + ".scratch")


def finish(process: Program) -> str:
    """Its stderr, once it and every process that it started has ended: the pipes end with the last of them."""
    try:
        return process.communicate(timeout=600)[1].decode()
    finally:
        process.kill()


def wait(process: Program, happened: Callable[[], object]) -> None:
    """Wait until something has happened, or the program has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def worker_of(process: Program) -> int | None:
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def files(folder: Path) -> Files:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, marks=pytest.mark.nightly), True],
    ids=["one-file", "side-file"],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("kills")
    case, random = CASES["transformer"], np.random.default_rng(0)
    (folder / "m.onnx").write_bytes(case.build().SerializeToString())
    write_samples(
        folder / "calib", [{"x": random.standard_normal((2, 6, 32)).astype(np.float32)} for _ in range(9)]
    )
    outputs = []
    seconds = 0.0
    for name, more in (("old", ["--exclude", "op:Softmax"]), ("new", [])):
        (folder / name).mkdir()
        process = start(folder, request.param, folder / name, *more)
        wait(process, lambda: worker_of(process))  # noqa: B023  # it is called here only
        began = time.monotonic()
        errors = finish(process)
        seconds = time.monotonic() - began
        assert process.returncode == 0, errors
        outputs.append(files(folder / name))
        onnx.checker.check_model(str(folder / name / "q.onnx"), full_check=True)
    old, new = outputs
    assert old["q.onnx"] != new["q.onnx"]
    assert len(old) == len(new) == 1 + request.param
    return Place(folder, request.param, old, new, seconds)


@pytest.fixture
def out(place: Place, tmp_path: Path) -> Path:
    """A folder with the old output."""
    made = tmp_path / "out"
    made.mkdir()
    for name, data in place.old.items():
        (made / name).write_bytes(data)
    return made


def check_whole(place: Place, out: Path, *, litter: bool) -> None:
    """The old output or the new one; beside it nothing, or only what the next run will clean."""
    there = files(out)
    complete = place.old if there.get("q.onnx") == place.old["q.onnx"] else place.new
    assert complete.items() <= there.items()
    onnx.checker.check_model(str(out / "q.onnx"), full_check=True)
    more = [p.name for p in out.iterdir() if p.name not in complete] + [
        p.name for p in scratch_of(out).iterdir()
    ]
    if litter:
        assert all(re.fullmatch(r"\.qtool-\w+\.tmp|q\.onnx\.[0-9a-f]{16}\.data", name) for name in more), more
    else:
        assert not more


def _worker(process: Program, number: int) -> None:
    worker = worker_of(process)
    if worker is not None:
        os.kill(worker, number)


WAYS: dict[str, Callable[[Program], None]] = {
    "SIGKILL": lambda process: process.kill(),
    "SIGINT": lambda process: process.send_signal(signal.SIGINT),
    "SIGKILL to the worker": lambda process: _worker(process, signal.SIGKILL),
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
    "SIGKILL to both": lambda process: os.killpg(process.pid, signal.SIGKILL),
    "SIGTERM to both": lambda process: os.killpg(process.pid, signal.SIGTERM),
    "SIGINT to both": lambda process: os.killpg(process.pid, signal.SIGINT),
}


def moments(count: int) -> list[tuple[str, float]]:
    """Ways to end it, each at a moment of its own: a share of the run, or one of what is seen on disk (> 1)."""
    ways = list(WAYS)
    return [(ways[i % len(ways)], 2.0 if i % 3 == 2 else round((i + 0.5) / count, 3)) for i in range(count)]


@pytest.mark.parametrize(
    ("way", "moment"), moments(KILLS // 2), ids=lambda v: str(v).replace("2.0", "staged")
)
def test_an_end_at_any_moment_leaves_a_whole_output(way: str, moment: float, place: Place, out: Path) -> None:
    process = place.start(out)
    wait(process, lambda: worker_of(process))
    if moment > 1:
        wait(process, lambda: any(p.name.startswith(".qtool-") for p in out.iterdir()))
    else:
        then = time.monotonic() + moment * place.seconds
        wait(process, lambda: time.monotonic() > then)
    over = process.poll() is not None
    if not over:
        WAYS[way](process)
    errors = finish(process)
    assert "Traceback" not in errors
    kill = way.startswith("SIGKILL")
    check_whole(place, out, litter=kill)
    if process.returncode != 0:
        assert not over
        assert process.returncode == (5 if "worker" in way else -9 if kill else 130), errors
    if kill and [*scratch_of(out).iterdir(), *(n for n in out.iterdir() if n.name not in place.old)]:
        process = place.start(out)
        errors = finish(process)
        assert process.returncode == 0, errors
        assert files(out) == place.new
        check_whole(place, out, litter=False)


@pytest.mark.nightly
@pytest.mark.parametrize("place", [True], ids=["side-file"], indirect=True)
def test_three_runs_with_three_outputs(place: Place, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in "abc"]
    for out in outs:
        out.mkdir()
    runs = [place.start(out) for out in outs]
    for run, out in zip(runs, outs, strict=True):
        errors = finish(run)
        assert run.returncode == 0, errors
        assert files(out) == place.new
        check_whole(place, out, litter=False)


@pytest.mark.nightly
def test_three_runs_with_one_output_and_one_killed(place: Place, out: Path) -> None:
    """The run that ends last has written the output; no run removes the files of another."""
    runs = [place.start(out), place.start(out, "--exclude", "op:Softmax"), place.start(out)]
    wait(runs[2], lambda: any(p.name.startswith(".qtool-") for p in out.iterdir()))
    runs[2].kill()
    finish(runs[2])
    for run in runs[:2]:
        errors = finish(run)
        assert run.returncode == 0, errors
    check_whole(place, out, litter=True)
    errors = finish(run := place.start(out))
    assert run.returncode == 0, errors
    assert files(out) == place.new
    check_whole(place, out, litter=False)
