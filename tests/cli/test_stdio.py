"""'-' is a model on stdin or stdout: the same result as with files, and nothing else on stdout."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import time
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Workplace
from tests.cli.program import PIPE, Program, run_bytes, run_installed
from tests.cli.test_streams import COLORS, on_a_terminal


@pytest.fixture
def temp(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary folder must be empty in the end."""
    (tmp_path / "temp").mkdir()
    return {"TMPDIR": str(tmp_path / "temp")}


def assert_nothing_left(temp: dict[str, str]) -> None:
    assert list(Path(temp["TMPDIR"]).iterdir()) == []


def quantize(place: Workplace, model: object, output: object, *more: object) -> list[object]:
    return ["quantize", model, "-o", output, "--calib", place.calib, "--target", "generic", *more]


@pytest.mark.parametrize("source", ["file", "stdin"])
@pytest.mark.parametrize("target", ["file", "stdout"])
def test_the_bytes_are_those_of_files(
    source: str, target: str, place: Workplace, tmp_path: Path, temp: dict[str, str]
) -> None:
    out = tmp_path / "q.onnx"
    words = quantize(place, "-" if source == "stdin" else place.model, "-" if target == "stdout" else out)
    content = place.model.read_bytes() if source == "stdin" else b""
    done = run_bytes(*words, content=content, env=temp, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (done.stdout if target == "stdout" else out.read_bytes()) == place.quantized.read_bytes()
    table = done.stderr if target == "stdout" else done.stdout
    assert b"SQNR" in table
    assert f"written    {'stdout' if target == 'stdout' else out}".encode() in table
    assert temp["TMPDIR"].encode() not in done.stdout + done.stderr
    assert_nothing_left(temp)


@pytest.mark.parametrize("form", ["--json", "-v", "-q"])
def test_the_model_alone_is_on_stdout(form: str, place: Workplace, temp: dict[str, str]) -> None:
    done = run_bytes(*quantize(place, "-", "-", form), content=place.model.read_bytes(), env=temp)
    assert done.returncode == 0, done.stderr
    assert done.stdout == place.quantized.read_bytes()
    if form == "--json":
        document = json.loads(done.stderr)
        assert (document["fp32"]["path"], document["quantized"]["path"]) == ("stdin", "stdout")
        assert document["fp32"]["sha256"] == hashlib.sha256(place.model.read_bytes()).hexdigest()
    else:
        assert (b"Against FP32" in done.stderr) == (form == "-v")


def test_a_failed_gate_leaves_stdout_empty(place: Workplace, temp: dict[str, str]) -> None:
    done = run_bytes(*quantize(place, place.model, "-", "--fail-if", "y:sqnr<200"), env=temp)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"gate failed: y:sqnr<200" in done.stderr
    assert_nothing_left(temp)


def test_an_error_leaves_stdout_empty(place: Workplace, temp: dict[str, str]) -> None:
    done = run_bytes(
        "quantize", "-", "-o", "-", "--calib", "none/", content=place.model.read_bytes(), env=temp
    )
    assert (done.returncode, done.stdout) == (4, b"")
    assert_nothing_left(temp)


def test_a_dry_run_reads_stdin_and_sends_no_model(place: Workplace, temp: dict[str, str]) -> None:
    content = place.model.read_bytes()
    done = run_bytes("quantize", "-", "--dry-run", content=content, env=temp)
    assert done.returncode == 0, done.stderr
    assert b"MatMul" in done.stdout
    done = run_bytes("quantize", "-", "--dry-run", "-o", "-", content=content, env=temp)
    assert (done.returncode, done.stdout) == (0, b"")
    assert_nothing_left(temp)


def test_a_plan_made_from_stdin_is_for_the_file_too(place: Workplace, tmp_path: Path) -> None:
    content, plan = place.model.read_bytes(), tmp_path / "plan.json"
    done = run_bytes(*quantize(place, "-", "-", "--save-plan", plan), content=content)
    assert done.returncode == 0, done.stderr
    assert plan.read_bytes() == place.plan.read_bytes()
    done = run_bytes("quantize", "-", "-o", "-", "--plan", place.plan, content=content)
    assert done.stdout == place.quantized.read_bytes()


@pytest.mark.parametrize("first", [True, False], ids=["fp32", "quantized"])
def test_compare_takes_either_from_stdin(first: bool, place: Workplace, temp: dict[str, str]) -> None:
    models = ["-", place.quantized] if first else [place.model, "-"]
    content = (place.model if first else place.quantized).read_bytes()
    done = run_bytes("compare", *models, "--data", place.calib, "--json", content=content, env=temp)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [document["fp32"]["path"], document["quantized"]["path"]].index("stdin") == (not first)
    assert document["comparison"]["sqnr"] > 20
    assert_nothing_left(temp)


def test_two_models_can_t_come_from_one_stdin(place: Workplace) -> None:
    done = run_bytes("compare", "-", "-", "--data", place.calib, content=place.model.read_bytes())
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"only one model" in done.stderr


BROKEN = {
    "nothing": (b"", "stdin is empty"),
    "text": (b"Not Found\n", "stdin: not a readable ONNX model (10 bytes"),
    "zeros": (bytes(1000), "stdin: not a readable ONNX model"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_3_not_a_model(command: str, case: str, place: Workplace, temp: dict[str, str]) -> None:
    content, said = BROKEN[case]
    more = ["-o", "-", "--calib"] if command == "quantize" else [place.model, "--data"]
    done = run_bytes(command, "-", *more, place.calib, content=content, env=temp)
    assert (done.returncode, done.stdout) == (3, b"")
    assert said in done.stderr.decode()
    assert temp["TMPDIR"] not in done.stderr.decode()
    assert_nothing_left(temp)


def test_3_a_model_cut_short(place: Workplace, temp: dict[str, str]) -> None:
    done = run_bytes("quantize", "-", "--dry-run", content=place.bad.read_bytes(), env=temp)
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: stdin: ")
    assert_nothing_left(temp)


def test_3_external_data(place: Workplace, tmp_path: Path, temp: dict[str, str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(place.model), path, save_as_external_data=True, location="m.data", size_threshold=0)
    done = run_bytes("quantize", "-", "--dry-run", content=path.read_bytes(), env=temp, cwd=tmp_path)
    assert done.returncode == 3
    assert b"error: stdin: external data of " in done.stderr
    assert b"hint: a model on stdin can't bring other files" in done.stderr
    assert_nothing_left(temp)


def test_3_too_large_a_model(place: Workplace, temp: dict[str, str]) -> None:
    change = "import qtool.cli.streams as s; s.LARGEST_BYTES = 1000"
    content = place.model.read_bytes()
    done = run_bytes("quantize", "-", "--dry-run", content=content, env=temp, before=change)
    assert done.returncode == 3
    assert b"stdin: more than 1,000 bytes" in done.stderr
    assert_nothing_left(temp)


def test_2_a_model_with_a_side_file_does_not_fit_stdout(place: Workplace, temp: dict[str, str]) -> None:
    change = "import qtool.graph.save as s, qtool.graph.side_file as f; s.SIDE_FILE_BYTES = 100; f.SIDE_TENSOR_BYTES = 16"
    done = run_bytes(*quantize(place, place.model, "-"), env=temp, before=change)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"too large for stdout" in done.stderr
    assert_nothing_left(temp)


def test_2_no_model_to_a_terminal(place: Workplace) -> None:
    ours, theirs = pty.openpty()
    done = run_bytes(*quantize(place, place.model, "-"), stdout=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"not to a terminal" in done.stderr
    assert b"hint: " in done.stderr


def test_2_no_model_from_a_terminal(place: Workplace) -> None:
    """Rather than to wait for someone to type one."""
    ours, theirs = pty.openpty()
    done = run_bytes("quantize", "-", "--dry-run", stdin=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"none is piped in" in done.stderr


def test_2_closed_streams(place: Workplace) -> None:
    for words, ends in ((quantize(place, "-", "-"), "<&-"), (quantize(place, place.model, "-"), ">&-")):
        done = run_installed(*words, shell=f'"$@" {ends}')
        assert (done.returncode, done.stdout) == (2, ""), done.stderr


def test_5_a_closed_pipe_for_a_model(place: Workplace, temp: dict[str, str]) -> None:
    """Unlike a table, half a model is no result."""
    read, write = os.pipe()
    os.close(read)
    done = run_bytes(*quantize(place, place.model, "-"), stdout=write, env=temp)
    os.close(write)
    assert done.returncode == 5
    assert b"can't write the model to stdout" in done.stderr
    with Path("/dev/full").open("wb") as full:
        done = run_bytes(*quantize(place, place.model, "-"), stdout=full.fileno(), env=temp)
    assert done.returncode == 5
    assert b"No space left" in done.stderr
    assert_nothing_left(temp)


def test_5_disk_full(place: Workplace, temp: dict[str, str]) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))"
    done = run_bytes("quantize", "-", "--dry-run", content=place.model.read_bytes(), env=temp, before=limit)
    assert done.returncode == 5, done.stderr
    assert b"no room for the model from stdin" in done.stderr
    assert b"TMPDIR" in done.stderr
    assert_nothing_left(temp)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_130_interrupted_while_stdin_is_slow(
    number: signal.Signals, place: Workplace, temp: dict[str, str]
) -> None:
    process = Program(*quantize(place, "-", "-"), stdin=PIPE, env=temp)
    assert process.stdin is not None
    try:
        process.stdin.write(place.model.read_bytes()[:1000])
        process.stdin.flush()
        deadline = time.monotonic() + 600
        while not list(Path(temp["TMPDIR"]).rglob("stdin.onnx")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(600) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == b""
        assert b"interrupted" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert_nothing_left(temp)


@pytest.mark.parametrize("option", ["--save-plan", "--plan", "--labels"])
def test_2_other_files_are_not_streams(option: str, place: Workplace, tmp_path: Path) -> None:
    done = run_bytes(*quantize(place, place.model, "q.onnx", option, "-"), cwd=tmp_path)
    assert done.returncode == 2
    assert f"{option}: '-'".encode() in done.stderr
    assert list(tmp_path.iterdir()) == []


# Colours: NO_COLOR, and pipes.


def test_a_terminal_gets_style_and_no_color_takes_the_color_away(place: Workplace) -> None:
    words = ["compare", place.model, place.quantized, "--data", place.calib]
    assert "\x1b[" in on_a_terminal(*words)
    assert not COLORS.search(on_a_terminal(*words, NO_COLOR="1"))
    assert not COLORS.search(on_a_terminal(*words, "-q", "--speed", NO_COLOR="1"))
    assert "\x1b" not in on_a_terminal(*words, TERM="dumb")


@pytest.mark.parametrize(
    "words", [["quantize", "--show-config"], ["--help"], ["completion", "bash"]], ids=" ".join
)
def test_a_pipe_gets_no_escapes(words: list[str]) -> None:
    done = run_bytes(*words)
    assert done.returncode == 0
    assert b"\x1b" not in done.stdout + done.stderr
