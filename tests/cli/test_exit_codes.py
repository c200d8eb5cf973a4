"""Every way out: its code, one `error:` line, a hint, and nothing left in the output folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli.conftest import Workplace
from tests.cli.program import Program, run
from tests.graphs import node, write_samples
from tests.plan.build import model
from tests.rewrite.zoo import CASES


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_0_done_and_every_gate_held(place: Workplace) -> None:
    done = run("compare", place.model, place.quantized, "--data", place.calib, "--fail-if", "sqnr<20")
    assert (done.returncode, done.stderr) == (0, "")


def test_1_a_gate_failed_and_names_itself(place: Workplace) -> None:
    done = run("compare", place.model, place.quantized, "--data", place.calib, "--fail-if", "sqnr<200")
    assert done.returncode == 1
    assert "gate failed: sqnr<200" in done.stderr


def test_1_a_failing_gate_leaves_no_file(place: Workplace, tmp_path: Path) -> None:
    done = run(
        "quantize", place.model, "-o", tmp_path / "q.onnx", "--calib", place.calib, "--target", "generic",
        "--fail-if", "y:sqnr<200",
    )  # fmt: skip
    assert done.returncode == 1
    assert left(tmp_path) == []
    assert not any(line.startswith("written") for line in done.stdout.splitlines()), "nothing was"


def test_1_a_failing_gate_leaves_the_old_file(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "q.onnx").write_bytes(b"old")
    done = run(
        "quantize", place.model, "-o", tmp_path / "q.onnx", "--calib", place.calib, "--target", "generic",
        "--fail-if", "y:sqnr<200", "--force",
    )  # fmt: skip
    assert done.returncode == 1
    assert (tmp_path / "q.onnx").read_bytes() == b"old"


def test_1_nothing_quantized_with_require_quantized(place: Workplace, tmp_path: Path) -> None:
    proto = model([node("Sin", ["x"], ["y"])], {"x": [2, 6, 32]}, ["y"])
    (tmp_path / "sin.onnx").write_bytes(proto.SerializeToString())
    command = ["quantize", tmp_path / "sin.onnx", "-o", tmp_path / "q.onnx", "--calib", place.calib]
    done = run(*command, "--require-quantized")
    assert done.returncode == 1
    assert left(tmp_path) == ["sin.onnx"]
    done = run(*command)
    assert done.returncode == 0
    assert "0 of 1 quantized" in done.stderr
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)


MISTAKES = {
    # name: (code, words, what the message says, what the hint says)
    "no command": (2, ["quantise"], "quantise", "qtool --help"),
    "unknown option": (2, ["quantize", "{model}", "--calibrate", "{calib}"], "--calibrate", "qtool quantize --help"),
    "no output": (2, ["quantize", "{model}", "--calib", "{calib}"], "no output", "-o"),
    "no samples": (2, ["quantize", "{model}", "-o", "{out}"], "needs samples", "--calib"),
    "unknown target": (2, ["quantize", "{model}", "-o", "{out}", "--target", "gpu"], "gpu", ""),
    "bad gate": (2, ["compare", "{model}", "{model}", "--data", "{calib}", "--fail-if", "sqrn<20"], "sqrn", "sqnr"),
    "gate on no output": (2, ["compare", "{model}", "{model}", "--data", "{calib}", "--fail-if", "z:sqnr<20"], "'z'", "y"),
    "misspelt op": (2, ["quantize", "{model}", "-o", "{out}", "--calib", "{calib}", "--exclude", "op:MatMull"], "MatMull", "MatMul"),
    "misspelt node": (2, ["quantize", "{model}", "-o", "{out}", "--calib", "{calib}", "--exclude", "Softmax_prob"], "Softmax_prob", "Softmax_probs"),
    "output is input": (2, ["quantize", "{model}", "-o", "{model}", "--calib", "{calib}", "--force"], "is the input", "another file"),
    "output exists": (2, ["quantize", "{model}", "-o", "{quantized}", "--calib", "{calib}"], "exists", "--force"),
    "output is a folder": (2, ["quantize", "{model}", "-o", "{calib}", "--calib", "{calib}"], "folder", "int8.onnx"),
    "output ends with a slash": (2, ["quantize", "{model}", "-o", "{out}/", "--calib", "{calib}"], "is a folder", "int8.onnx"),
    "samples lie one level down": (4, ["quantize", "{model}", "-o", "{out}", "--calib", "{folder}"], ".npz files lie in a folder below it", "name that folder: "),
    "plan is no plan": (2, ["quantize", "{model}", "-o", "{out}", "--plan", "{model}"], "plan", ""),
    "plan missing": (2, ["quantize", "{model}", "-o", "{out}", "--plan", "{out}.json"], "plan", ""),
    "model missing": (3, ["quantize", "{folder}/modle.onnx", "-o", "{out}", "--calib", "{calib}"], "does not exist", "model.onnx"),
    "model cut short": (3, ["quantize", "{bad}", "-o", "{out}", "--calib", "{calib}"], "not a readable ONNX model", "truncated"),
    "model is a folder": (3, ["quantize", "{calib}", "-o", "{out}", "--calib", "{calib}"], "holds no .onnx file", "optimum-cli"),
    "folder with an option of a model": (2, ["quantize", "{folder}", "-o", "{out}", "--save-plan", "{out}.json"], "--save-plan is of one model", "name a model"),
    "model is text": (3, ["compare", "{plan}", "{model}", "--data", "{calib}"], "plan.json", "truncated"),
    "samples missing": (4, ["quantize", "{model}", "-o", "{out}", "--calib", "{folder}/clib"], "does not exist", "calib"),
    "samples are a file": (4, ["compare", "{model}", "{model}", "--data", "{model}"], "no file of samples", "npz"),
    "labels missing": (4, ["compare", "{model}", "{model}", "--data", "{calib}", "--labels", "{out}"], "do not exist", ""),
    "output folder missing": (5, ["quantize", "{model}", "-o", "{folder}/none/q.onnx", "--calib", "{calib}"], "does not exist", ""),
    "output folder read-only": (5, ["quantize", "{model}", "-o", "/proc/q.onnx", "--calib", "{calib}"], "can't write", ""),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_its_code_with_an_error_and_a_hint(
    mistake: str, place: Workplace, tmp_path: Path
) -> None:
    code, words, message, hint = MISTAKES[mistake]
    names = {k: str(v) for k, v in vars(place).items()}
    done = run(*(w.format(**names, folder=place.model.parent, out=tmp_path / "q.onnx") for w in words))
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    if hint:
        assert lines[1].startswith("  hint: "), lines
        assert hint in lines[1]
    assert len(lines) <= 2
    assert left(tmp_path) == []


def _samples(folder: Path, **arrays: np.ndarray) -> Path:
    return write_samples(folder, [arrays])


X = np.zeros((2, 6, 32), np.float32)
BAD_SAMPLES = {
    "wrong name": ({"X": X}, "no input 'x'"),
    "an input too many": ({"x": X, "y": X}, "no input 'y'"),
    "wrong shape": ({"x": X[..., :3]}, "shape"),
    "wrong rank": ({"x": X[0]}, "batch axis"),
    "wrong type": ({"x": X.astype(complex)}, "complex"),
    "NaN": ({"x": X * np.nan}, "NaN"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_4_samples_that_do_not_fit(case: str, place: Workplace, tmp_path: Path) -> None:
    arrays, message = BAD_SAMPLES[case]
    done = run("compare", place.model, place.quantized, "--data", _samples(tmp_path / "d", **arrays))
    assert done.returncode == 4
    assert message in done.stderr
    assert "000.npz" in done.stderr


def test_4_an_empty_folder_and_a_broken_archive(place: Workplace, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    assert run("compare", place.model, place.quantized, "--data", folder).returncode == 4
    (folder / "0.npz").write_bytes(b"PK\x03\x04 no archive")
    assert run("compare", place.model, place.quantized, "--data", folder).returncode == 4


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_5_a_full_disk_behind_stdout(place: Workplace, as_json: bool) -> None:
    """The result did not arrive: that is the environment's failure, not a bug of ours, and not success."""
    with Path("/dev/full").open("w") as full:
        words = ["compare", place.model, place.model, "--data", place.calib, *["--json"] * as_json]
        done = run(*words, stdout=full.fileno())
    assert done.returncode == 5, done.stderr
    assert "bug" not in done.stderr


def test_5_no_temporary_folder(place: Workplace) -> None:
    none = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
    done = run("inspect", place.model, before=none)
    assert done.returncode == 5
    assert done.stderr.startswith("error: no temporary folder: ")
    assert "hint: set TMPDIR" in done.stderr
    assert run("--version", before=none).returncode == 0


def test_6_the_runtime_fails_while_it_runs(place: Workplace, tmp_path: Path) -> None:
    """Only the kernel finds an index out of range."""
    proto = CASES["embedding"].build()
    (tmp_path / "e.onnx").write_bytes(proto.SerializeToString())
    data = _samples(tmp_path / "d", ids=np.array([[10**6]]))
    done = run("compare", tmp_path / "e.onnx", tmp_path / "e.onnx", "--data", data)
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["calibrating", "writing"])
def test_130_interrupted_leaves_nothing(
    number: signal.Signals, moment: str, place: Workplace, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def load():\n"
        "    pathlib.Path(__file__).with_name('begun').touch()\n"
        "    time.sleep(600)\n"
        "    yield {}\n"
    )
    calib: object = f"{tmp_path / 'slow.py'}:load" if moment == "calibrating" else place.calib
    out = tmp_path / "out"
    out.mkdir()
    process = Program("quantize", place.model, "-o", out / "q.onnx", "--calib", calib)
    try:
        sign = out if moment == "writing" else tmp_path
        before, deadline = left(sign), time.monotonic() + 600
        while left(sign) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert left(sign) != before, "it never came so far"
        assert left(out) != ["q.onnx"]
        process.send_signal(number)
        errors = process.communicate(timeout=600)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert left(out) == []


def test_130_interrupted_while_the_program_is_imported() -> None:
    interrupt = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_module("qtool", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", interrupt], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_an_invalid_model_is_named_not_crashed_on(tmp_path: Path, place: Workplace) -> None:
    graph = helper.make_graph([node("Nonsense", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])])  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    done = run("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", place.calib)
    assert done.returncode == 3
    assert "Nonsense" in done.stderr


def _damaged(plan: Path, folder: Path, change: str) -> Path:
    document = json.loads(plan.read_text(encoding="utf-8"))
    sites = document["sites"]
    match change:
        case "unknown node":
            site = next(s for s in sites if s["kind"] == "weight")
            site["uses"] = [["no such node", 1]]
        case "unknown input":
            site = next(s for s in sites if s["kind"] == "weight")
            site["uses"][0][1] = 7
        case "scales of another length":
            site = next(s for s in sites if s["kind"] == "weight")
            site["qparams"] = {
                "scale": {"dtype": "float32", "values": [0.5, 0.5, 0.5]},
                "zero_point": {"dtype": "int64", "values": [0, 0, 0]},
            }
        case "zero point out of range":
            site = next(s for s in sites if s["kind"] == "activation")
            site["qparams"]["zero_point"]["values"] = 70000
        case "unknown target":
            document["target"] = "tpu"
        case "unknown mode":
            document["mode"] = "telepathic"
    path = folder / "damaged.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        "unknown node",
        "unknown input",
        "scales of another length",
        "zero point out of range",
        "unknown target",
        "unknown mode",
    ],
)
def test_2_a_plan_edited_by_hand_into_nonsense(change: str, place: Workplace, tmp_path: Path) -> None:
    plan = _damaged(place.plan, tmp_path, change)
    done = run("quantize", place.model, "-o", tmp_path / "q.onnx", "--plan", plan, "--target", "generic")
    assert done.returncode == 2, done.stderr
    assert left(tmp_path) == ["damaged.json"]


def test_70_a_bug_of_ours_says_where_its_trace_is(place: Workplace, tmp_path: Path) -> None:
    bug = """
import qtool.commands.compare
def broken(*a, **k): raise ZeroDivisionError("all \\x1b[31mwrong")
qtool.commands.compare.compare_models = broken
"""
    words = ["compare", place.model, place.model, "--data", place.calib]
    done = run(*words, env={"TMPDIR": str(tmp_path)}, before=bug)
    assert done.returncode == 70
    (trace,) = tmp_path.iterdir()
    assert str(trace) in done.stderr
    assert "ZeroDivisionError" in trace.read_text(encoding="utf-8")
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_5_a_plan_that_can_t_be_saved_is_known_before_the_work_is_done(
    place: Workplace, tmp_path: Path
) -> None:
    """Not after minutes of calibration, with the model written and the exit code that of a failure."""
    done = run(
        "quantize", place.model, "-o", tmp_path / "q.onnx", "--calib", place.calib, "--target", "generic",
        "--save-plan", tmp_path / "none" / "plan.json",
    )  # fmt: skip
    assert done.returncode == 5
    assert left(tmp_path) == []
