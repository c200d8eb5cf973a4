"""Progress: numbered stages, counts that only rise, one line a stage in a log, nothing left on a terminal."""

from __future__ import annotations

import re

import pytest

from qtool.cli.progress import STAGES, Stages
from qtool.errors import counted
from tests.cli.conftest import Workplace
from tests.cli.program import run, run_installed
from tests.cli.test_streams import on_a_terminal

SHOWN = re.compile(r"\[(\d+)/(\d+)\] ([a-z]+)")


def test_a_stage_is_shown_with_its_count_and_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qtool.cli.progress.time.monotonic", lambda: now[0])
    stages = Stages(("prepare", "sensitivity", "race"))
    assert stages.show("prepare", 0, 0) == ""
    now[0] += 3
    assert stages.now() == "[1/3] prepare  elapsed 0:03"
    assert stages.show("sensitivity", 0, 120) == "[1/3] prepare  3.0 s"
    assert stages.now() == "[2/3] sensitivity  0/120  elapsed 0:00"
    stages.show("sensitivity", 40, 120)
    now[0] += 10
    assert stages.now() == "[2/3] sensitivity  40/120  elapsed 0:10, about 0:20 left"
    stages.show("sensitivity", 120, 120)
    assert stages.now() == "[2/3] sensitivity  elapsed 0:10", (
        "no full count stands while something else goes on"
    )
    stages.show("sensitivity", 5, 10)
    assert stages.now() == "[2/3] sensitivity  125/130  elapsed 0:10, about 0:10 left"
    assert stages.show("race", 0, 0) == "[2/3] sensitivity  125  10.0 s"
    stages.show("sensitivity", 6, 10)
    assert stages.now().startswith("[3/3] sensitivity  126/130  "), "neither numbers nor counts run backwards"
    stages.show("another", 1, 3)
    assert stages.now().startswith("another  1/3  ")


def quantize(place: Workplace, *more: object) -> list[object]:
    return ["quantize", place.model, "--calib", place.calib, "--target", "generic", *more]


def test_a_log_has_one_line_for_each_stage(place: Workplace, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = run(
        *quantize(place, "-o", tmp_path / "q.onnx"), before="import qtool.cli.progress as p; p.LOGS = True"
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert all(
        re.fullmatch(r"\[\d/\d\] [a-z: ]+(  \d+)?  \d+\.\d s", line)
        for line in lines
        if "warning" not in line
    )
    names = [match[3] for match in SHOWN.finditer(done.stderr)]
    assert names == sorted(set(names), key=STAGES["quantize"].index)
    assert {"prepare", "calibrate", "validate"} <= set(names)
    quiet = run(
        *quantize(place, "-q", "-o", tmp_path / "r.onnx"),
        before="import qtool.cli.progress as p; p.LOGS = True",
    )
    assert not SHOWN.search(quiet.stderr)


def test_a_terminal_has_one_line_that_goes(place: Workplace, tmp_path) -> None:  # type: ignore[no-untyped-def]
    shown = on_a_terminal(*quantize(place, "-o", tmp_path / "q.onnx"), TERM="dumb")
    assert SHOWN.search(shown) and "elapsed 0:0" in shown
    assert "\x1b" not in shown
    *_, left = shown.partition("What became")[0].split("\r")
    assert not SHOWN.search(left)
    assert [int(m[1]) for m in SHOWN.finditer(shown)] == sorted(int(m[1]) for m in SHOWN.finditer(shown))


def test_every_command_shows_its_stages(place: Workplace) -> None:
    compare = ["compare", place.model, place.quantized, "--data", place.calib]
    assert run_installed(*compare).stderr.startswith("[1/1] compare  9  ")


def test_one_thing_is_no_plural() -> None:
    assert [counted(n, "round") for n in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
