"""End to end on the models of this repository, through the installed program, for each target."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.program import MEASURED, run
from tests.exact import exact, honest_target
from tests.graphs import SAMPLE_MODELS
from tests.targets import COMMON

NAMES = ("cnn", "transformer", "lstm")


def interface(path: Path) -> tuple[list[str], list[str]]:
    graph = onnx.load(path).graph
    return [i.name for i in graph.input], [o.name for o in graph.output]


# One model by day: the flow times the model, and so takes its time. `make demo` runs it on another.
CASES = [
    pytest.param(
        name, target, marks=() if (name, target) == ("lstm", honest_target()) else pytest.mark.nightly
    )
    for name in NAMES
    for target in (COMMON if exact() else [honest_target()])
]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_defaults_give_a_faithful_valid_model(name: str, target: str, tmp_path: Path) -> None:
    folder, out = SAMPLE_MODELS / name, tmp_path / "q.onnx"
    done = run(
        "quantize", folder / "model.onnx", "-o", out, "--calib", folder / "calib", "--target", target,
        env=MEASURED,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(out), full_check=True)
    assert interface(out) == interface(folder / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["q.onnx"]
    assert out.stat().st_size < 0.45 * (folder / "model.onnx").stat().st_size
    done = run(
        "compare", folder / "model.onnx", out, "--data", folder / "eval", "--labels", folder / "labels.json",
        "--fail-if", "sqnr<25", "--fail-if", "accuracy_drop>0.02", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    comparison = json.loads(done.stdout)["comparison"]
    assert comparison["samples"] == comparison["accuracy"]["labels"] == 200


def test_the_models_stay_small() -> None:
    assert all((SAMPLE_MODELS / n / "model.onnx").stat().st_size <= 300_000 for n in NAMES)
