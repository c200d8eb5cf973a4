"""stdout is the result and nothing else; everything else goes to stderr."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workplace
from tests.cli.program import Program, run, run_installed
from tests.graphs import ROOT

COLORS = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-8]|9[0-7]|4[0-8])\b[0-9;]*m")


def compare(place: Workplace, *more: object) -> subprocess.CompletedProcess[str]:
    return run("compare", place.model, place.quantized, "--data", place.calib, *more)


def test_json_is_one_document_on_stdout(place: Workplace, tmp_path: Path) -> None:
    document = json.loads(compare(place, "--json", "--fail-if", "sqnr<1").stdout)
    assert document["schema"] == "qtool.report/6"
    out = tmp_path / "q.onnx"
    done = run("quantize", place.model, "-o", out, "--calib", place.calib, "--json", "--target", "generic")
    document = json.loads(done.stdout)
    assert document["quantized"]["bytes"] == out.stat().st_size
    assert document["coverage"]


def test_json_is_whole_when_a_gate_fails_too(place: Workplace) -> None:
    done = compare(place, "--json", "--fail-if", "sqnr<200")
    assert json.loads(done.stdout)["failed"] == ["sqnr<200"]
    assert done.returncode == 1


def test_only_the_table_is_on_stdout(place: Workplace) -> None:
    done = compare(place, "--fail-if", "sqnr<200")
    assert "SQNR" in done.stdout
    assert "gate failed" in done.stderr
    assert "gate failed: " not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == lines[-1], "the verdict is the first line and the last one"


def test_quiet_prints_failures_only(place: Workplace) -> None:
    done = compare(place, "-q")
    assert (done.stdout, done.stderr) == ("", "")
    failed = compare(place, "-q", "--fail-if", "sqnr<200")
    assert failed.stdout == ""
    assert "gate failed" in failed.stderr


@pytest.mark.parametrize(("gate", "code"), [("sqnr<1", 0), ("sqnr<200", 1)], ids=["held", "failed"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_closed_pipes_do_not_change_the_verdict(
    place: Workplace, gate: str, code: int, form: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ["compare", place.model, place.quantized, "--data", place.calib, "--fail-if", gate, *form]
    done = run(*words, stdout=write)
    os.close(write)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def on_a_terminal(*arguments: object, **env: str) -> str:
    """Return the text that a terminal would show: stdout and stderr are one."""
    ours, theirs = pty.openpty()
    terminal = {"NO_COLOR": None, "FORCE_COLOR": None, "CI": None, "TERM": "xterm-256color"}
    process = Program(*arguments, env={**terminal, **env}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not block:
            break
        text += block
    os.close(ours)
    assert process.wait() == 0
    return text.decode()


def test_no_color_means_no_color(place: Workplace) -> None:
    shown = on_a_terminal("compare", place.model, place.quantized, "--data", place.calib, NO_COLOR="1")
    assert "SQNR" in shown
    assert not COLORS.search(shown)


def test_a_pipe_gets_no_escapes(place: Workplace) -> None:
    done = compare(place, "-v")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["quantize", "--help"], ["inspect", "--help"], ["--version"]], ids=" ".join
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qtool", *words],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "click" in imported
    assert not imported & {"numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "google"}


def test_help_names_every_exit_code_and_command() -> None:
    text = run("--help").stdout
    assert all(re.search(rf"\b{code} ", text) for code in (0, 1, 2, 3, 4, 5, 6, 70, 130))
    assert "quantize" in text
    assert "compare" in text


def test_help_is_short_and_help_all_is_complete() -> None:
    from qtool.cli.main import cli

    narrow = {"COLUMNS": "80"}
    for name, command in cli.commands.items():
        brief = run(name, "-h", env=narrow).stdout.splitlines()
        assert len(brief) <= (60 if name == "quantize" else 75)
        assert max(map(len, brief)) <= 102
        complete = run(name, "--help-all", env=narrow)
        if name != "completion":
            assert complete.returncode == 0, complete.stderr
            options = [option for p in command.params for option in p.opts if option.startswith("--")]
            assert [option for option in options if option not in complete.stdout] == []
    listed = run("--help", env=narrow).stdout.partition("Commands:")[2]
    assert "..." not in listed, "whole sentences"


CLOSED = ("2>&-", "<&- >&- 2>&-", "1< /dev/null 2> /dev/full")


@pytest.mark.parametrize("ends", CLOSED)
def test_closed_streams_are_as_dev_null(ends: str, place: Workplace, tmp_path: Path) -> None:
    """As cron, daemons and full disks have them."""
    words = ["quantize", place.model, "-o", tmp_path / "q.onnx", "--plan", place.plan, "--data", place.calib]
    done = run_installed(*words, shell=f'"$@" {ends}')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.onnx").read_bytes() == place.quantized.read_bytes()


@pytest.mark.nightly
def test_names_beyond_ascii_survive_an_ascii_terminal(place: Workplace, tmp_path: Path) -> None:
    """A log collector with LC_ALL=C must not turn a result into a crash."""
    from tests.rewrite.zoo import CASES

    model = tmp_path / "größe.onnx"
    model.write_bytes(CASES["odd-names"].build().SerializeToString())
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for form in ([], ["-v"], ["--json"]):
        done = run_installed("quantize", model, "--dry-run", *form, env=env)
        assert done.returncode == 0, done.stderr
