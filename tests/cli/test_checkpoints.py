"""--checkpoint holds a plan that can be written, until the model is in place."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from qtool.plan.serial import from_json
from tests.cli.program import Program, run
from tests.graphs import SAMPLE_MODELS

FOLDER = SAMPLE_MODELS / "cnn"
BASE = (
    "quantize",
    FOLDER / "model.onnx",
    "--calib",
    FOLDER / "calib",
    "--data",
    FOLDER / "eval",
    "--samples",
    16,
)


def test_it_is_gone_when_the_model_is_in_place(tmp_path: Path) -> None:
    done = run(*BASE, "-o", tmp_path / "q.onnx", "--checkpoint", tmp_path / "best.json")
    assert done.returncode == 0, done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["q.onnx"]


def test_a_checkpoint_of_a_failed_run_can_be_replayed_and_resumed(tmp_path: Path) -> None:
    best, output = tmp_path / "best.json", tmp_path / "q.onnx"
    failed = run(*BASE, "-o", output, "--checkpoint", best, "--fail-if", "max_error>0", "--recover", "gptq")
    assert failed.returncode == 1
    assert not output.exists()
    plan = from_json(best.read_text(encoding="utf-8"), "best.json")
    assert plan.resolved
    replayed = run(
        "quantize",
        FOLDER / "model.onnx",
        "-o",
        output,
        "--plan",
        best,
        "--data",
        FOLDER / "eval",
        "--samples",
        16,
    )
    assert replayed.returncode == 0, replayed.stderr
    resumed = run(*BASE, "-o", output, "--force", "--checkpoint", best, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert not best.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["SIGINT", "SIGQUIT"])
@pytest.mark.parametrize("hears", [True, False], ids=["hears", "deaf"])
def test_an_interrupted_run_names_the_best_plan(number: signal.Signals, hears: bool, tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    wait = "time.sleep(600)" if hears else "[signal.signal(15, signal.SIG_IGN), time.sleep(600)]"
    before = f"import signal, time, qtool.commands.quantize as q; q.judge_file = lambda *a: {wait}"
    process = Program(*BASE, "-o", tmp_path / "q.onnx", "--checkpoint", best, before=before)
    while not best.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    errors = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 130, errors
    assert [line for line in errors.splitlines() if line][-2:] == [
        f"the best plan so far is in '{best}': --plan replays it, --resume goes on",
        "error: interrupted",
    ]
    assert from_json(best.read_text(encoding="utf-8"), "best.json").resolved
    assert [f.name for f in tmp_path.iterdir()] == ["best.json"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--checkpoint", "best.json"), "--resume"),
        (("--resume",), "--checkpoint"),
        (("--checkpoint", "best.json", "--resume", "--plan", "best.json"), "no --plan"),
        (("--checkpoint", "q.onnx"), "another file"),
    ],
)
def test_contradictory_options_are_refused(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text("{}", encoding="utf-8")
    done = run(*BASE, "-o", "q.onnx", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert (tmp_path / "best.json").read_text(encoding="utf-8") == "{}"


def test_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    best.write_text("{", encoding="utf-8")
    done = run(*BASE, "-o", tmp_path / "q.onnx", "--checkpoint", best, "--resume")
    assert done.returncode == 2
    assert "JSON" in done.stderr
