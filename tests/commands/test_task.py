"""Decisions are kept: the choice of quantize and tune, and the default verdict of compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model

CALIB = samples(128, x=(1, 64))
LABELS = {f"{i}": 0 for i in range(len(CALIB))}


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """A classifier of 64 classes, four of a kind: at 20 dB, one answer in four is another one of its kind."""
    w = np.repeat(weights(64, 16), 4, axis=1) + 0.02 * weights(64, 64, seed=1)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["y"])]
    return model(nodes, {"x": ["N", 64]}, ["y"], {"w": w.astype(np.float32)})


def options(**changes: Any) -> qtool.Options:
    settled = {"target": "generic", "timing": "table", "threads": 1, "calib": CALIB, "recover": "none"}
    return qtool.Options(**{**settled, **changes})


@pytest.fixture(scope="module")
def careless(net: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, qtool.Report]:
    """A model that holds 20 dB and loses classes."""
    output = tmp_path_factory.mktemp("careless") / "q.onnx"
    report = qtool.quantize(net, output, options(gate="none")).report
    assert report.comparison is not None
    assert report.quantized_nodes and report.comparison.sqnr > 15
    assert report.comparison.outputs[0].top1 < 0.9
    return output, report


@pytest.mark.parametrize("changes", [{}, {"gate": "task"}, {"min_sqnr": 5.0}, {"task": "tokens"}], ids=str)
def test_layers_that_change_classes_go_back_to_float(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report], changes: dict[str, Any], tmp_path: Path
) -> None:
    report = qtool.quantize(net, tmp_path / "q.onnx", options(**changes)).report
    assert report.written
    assert report.quantized_nodes < careless[1].quantized_nodes
    assert any(gate.gate.metric in ("top1", "sequences") for gate in report.gates), "the verdict says so"
    assert any(
        "alone gives" in str(skip.reason) and gate_text(report) in str(skip.reason) for skip in report.skips
    )


def gate_text(report: qtool.Report) -> str:
    return next(g.gate.text for g in report.gates if g.gate.metric in ("top1", "sequences"))


def test_a_gate_of_the_user_counts_for_the_choice(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report], tmp_path: Path
) -> None:
    (output,) = careless[1].comparison.outputs  # type: ignore[union-attr]  # checked by the fixture
    report = qtool.quantize(
        net, tmp_path / "q.onnx", options(gate="none", fail_if=f"top1<{output.top1 - 0.2}")
    ).report
    assert report.quantized_nodes == careless[1].quantized_nodes
    report = qtool.quantize(
        net, tmp_path / "p.onnx", options(gate="none", fail_if="top1<0.99", keep_failed=True)
    ).report
    assert report.quantized_nodes < careless[1].quantized_nodes


def test_labels_that_the_change_does_not_hurt_allow_it(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report], tmp_path: Path
) -> None:
    """Of labels at random, as many predictions become right as wrong."""
    labels = tmp_path / "labels.csv"
    classes = rng(3).integers(0, 64, len(CALIB))
    labels.write_text(
        "".join(f"{name},{c}\n" for name, c in zip(LABELS, classes, strict=True)), encoding="utf-8"
    )
    report = qtool.quantize(net, tmp_path / "q.onnx", options(labels=labels, min_sqnr=5.0)).report
    assert report.quantized_nodes == careless[1].quantized_nodes
    assert [g.gate.text for g in report.gates] == ["sqnr<5", "accuracy_drop>0.005"]


def test_compare_fails_by_default_where_classes_change(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report]
) -> None:
    path, _ = careless
    report = qtool.compare(net, path, CALIB)
    assert [(g.gate.text, g.failed) for g in report.gates] == [("top1<0.97", True)]
    assert qtool.compare(net, path, CALIB, qtool.Comparing(gate="none")).gates == ()
    assert qtool.compare(net, net, CALIB).failed == ()


@pytest.mark.parametrize("wrong", [{"task": "classes"}, {"task": "ctc", "class_axis": 2}], ids=str)
def test_an_unknown_task_or_axis_is_a_usage_error(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report], wrong: dict[str, Any]
) -> None:
    with pytest.raises(qtool.UsageError, match="classes|class_axis 2"):
        qtool.compare(net, careless[0], CALIB, qtool.Comparing(**wrong))


def test_random_data_has_no_default_gate_on_decisions(
    net: onnx.ModelProto, careless: tuple[Path, qtool.Report]
) -> None:
    assert qtool.compare(net, careless[0], "random:8").gates == ()
