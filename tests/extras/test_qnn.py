"""`--target qnn` on the simulator of Qualcomm's NPU, without fallback to the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qtool
from qtool.data.reading import Reading
from qtool.errors import ModelError, UsageError
from qtool.plan.model import Kind
from tests.graphs import SAMPLE_MODELS, model, node, samples, weights

CNN = SAMPLE_MODELS / "cnn"
FIXED = Reading(shape={"image": (1, 1, 32, 32)}, samples=32)


def quantized(tmp_path: Path, **options: object) -> qtool.Result:
    settled = {"target": "qnn", "calib": CNN / "calib", "reading": FIXED, "effort": "fast", "threads": 1}
    return qtool.quantize(CNN / "model.onnx", tmp_path / "q.onnx", qtool.Options(**{**settled, **options}))


def test_the_cnn_runs_wholly_there_and_both_figures_are_reported(tmp_path: Path) -> None:
    report = quantized(tmp_path).report
    assert report.comparison is not None
    assert report.comparison.sqnr > 25
    assert report.cpu_sqnr is not None
    assert report.cpu_sqnr > 25
    assert report.race is None  # a simulator has no speed
    assert not report.skips


def test_16_bits_are_chosen_where_8_lose_much(tmp_path: Path) -> None:
    """One value of the input is far out of the range of all others."""
    fed = samples(16, x=(1, 32))
    for sample in fed:
        sample["x"][0, 0] = 2000.0
    constants = {"w": weights(32, 32), "v": weights(32, 32, seed=1)}
    constants["w"][0] = 0.0
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    options = qtool.Options(
        target="qnn", calib=fed, include=["*"], effort="fast", recover="wide", threads=1, keep_failed=True
    )
    done = qtool.quantize(model(nodes, {"x": (1, 32)}, ["y"], constants), tmp_path / "q.onnx", options)
    assert {s.spec.qtype.name for s in done.plan.sites if s.kind is Kind.ACTIVATION} == {"uint16"}
    assert np.isfinite(done.report.comparison.sqnr)


def test_a_free_axis_is_refused_with_the_shape_of_a_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs fixed shapes") as caught:
        quantized(tmp_path, reading=Reading(samples=16))
    assert caught.value.hint == "--shape image=1,1,32,32"


def test_a_node_that_the_npu_lacks_is_named(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Det", ["m"], ["y"], name="the_determinant")]
    proto = model(nodes, {"x": (1, 8, 8)}, ["y"], {"w": weights(8, 8)})
    options = qtool.Options(target="qnn", calib=samples(8, x=(1, 8, 8)), effort="fast", threads=1)
    with pytest.raises(ModelError, match="Det 'the_determinant'"):
        qtool.quantize(proto, tmp_path / "q.onnx", options)
    assert not (tmp_path / "q.onnx").exists()
