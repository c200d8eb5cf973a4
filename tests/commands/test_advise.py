"""Advise: the kind of a model, what stands out in it, and commands that run as printed."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.tables.architectures import ARCHITECTURES, GOALS
from tests.cli.program import run
from tests.graphs import SAMPLE_MODELS, model, node, samples, weights, write_samples
from tests.tiers import sample

KINDS = {"cnn": "mobile convolutional network", "lstm": "recurrent network", "transformer": "transformer"}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_a_model(name: str) -> None:
    assert qtool.advise(SAMPLE_MODELS / name / "model.onnx").kind == KINDS[name]


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)
def test_every_row_has_options_for_every_goal(row: object) -> None:
    for goal in GOALS:
        assert "--mode" in row.options(goal, samples=False)  # type: ignore[attr-defined]


def net(scale: float = 1.0) -> onnx.ModelProto:
    """A convolution and a product; one filter is `scale` times as large, another one is dead."""
    filters = weights(16, 8, 3, 3)
    filters[3] *= scale
    filters[5] = 0
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("MatMul", ["f", "d"], ["y"], name="dense"),
    ]
    constants = {"w": filters, "d": weights(576, 10, seed=3)}
    return model(nodes, {"x": (1, 8, 6, 6)}, ["y"], constants)


def facts(proto: onnx.ModelProto, **options: object) -> dict[str, str]:
    checklist = qtool.advise(proto, qtool.Advising(threads=1, **options))
    return {fact.label: fact.text for fact in checklist.facts}


def test_dead_and_outlier_channels_of_weights_and_activations() -> None:
    loud = facts(net(30.0), calib=samples(8, x=(1, 8, 6, 6)))
    assert "dead channels: 1 in conv" in loud["weights"]
    assert "conv (1 of 16)" in loud["weights"]
    assert "outlier channels" in loud["activations"]
    assert "no outlier" not in loud["activations"]
    even = facts(net(), calib=samples(8, x=(1, 8, 6, 6)))
    assert "even channels" in even["weights"]
    assert "no outlier channels" in even["activations"]


def test_a_quantized_model_is_left_as_it_is(tmp_path: Path) -> None:
    qtool.quantize(net(), tmp_path / "q.onnx", qtool.Options(mode="weight-only", threads=1))
    checklist = qtool.advise(tmp_path / "q.onnx")
    assert checklist.kind == "already quantized"
    assert [step.command.split()[1] for step in checklist.steps] == ["inspect"]


@pytest.mark.parametrize(("goal", "calib"), sample([(g, c) for c in (False, True) for g in GOALS], 6))
def test_every_command_runs_as_printed(goal: str, calib: bool, tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "m.onnx")
    write_samples(tmp_path / "calib", samples(16, x=(1, 8, 6, 6)))
    with contextlib.chdir(tmp_path):
        source = {"calib": "calib"} if calib else {}
        checklist = qtool.advise("m.onnx", qtool.Advising(goal=goal, threads=1, **source))  # type: ignore[arg-type]
        assert len(checklist.steps) > 1
        for step in checklist.steps:
            done = run(*shlex.split(step.command)[1:], cwd=tmp_path)
            assert done.returncode == 0, (step.command, done.stderr)


def test_2_no_such_goal() -> None:
    with pytest.raises(qtool.UsageError, match="no goal 'fast'"):
        qtool.advise(net(), qtool.Advising(goal="fast"))  # type: ignore[arg-type]


def test_attention_and_tables_make_a_language_model() -> None:
    table = weights(300, 8)
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("Transpose", ["e"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["e", "k"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "e"], ["a"]),
        node("MatMul", ["a", "head"], ["y"]),
    ]
    constants = {"table": table, "head": np.ascontiguousarray(table.T)}
    proto = model(nodes, {"ids": (1, 5)}, ["y"], constants, input_type=onnx.TensorProto.INT64)
    assert qtool.advise(proto).kind == "language model"
