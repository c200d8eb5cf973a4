"""Inputs without a shape, and custom ops that the runtime does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import qtool
from qtool.runtime.session import Session
from tests.graphs import model, node, samples, weights

MODES = ("static", "dynamic", "weight-only", "fp16")


def without_shapes() -> onnx.ModelProto:
    """Two products whose input may have any number of axes from two on."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    proto = model(nodes, {"x": (2, 5, 64)}, ["y"], {"w": weights(64, 64), "v": weights(64, 64, seed=1)})
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    return proto


def with_custom_op() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Mystery", ["h"], ["m"], domain="my.domain"),
        node("MatMul", ["m", "v"], ["y"], name="second"),
    ]
    constants = {"w": weights(64, 64), "v": weights(64, 64, seed=1)}
    graph = model([node("Relu", ["x"], ["y"])], {"x": ("N", 64)}, {"y": ("N", 64)}, constants).graph
    del graph.node[:]
    graph.node.extend(nodes)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("mode", MODES)
def test_samples_show_the_axes_of_an_input(mode: str, tmp_path: Path) -> None:
    taken = samples(8, x=(2, 5, 64))
    options = qtool.Options(mode=mode, calib=taken, timing="table", gate="none")
    qtool.quantize(without_shapes(), tmp_path / "o.onnx", options)
    written = Session(tmp_path / "o.onnx")
    assert len(written.inputs["x"].shape) == 3
    assert written.run(taken[0])[0].shape == (2, 5, 64)


def test_calibrate_takes_the_axes_from_samples() -> None:
    assert "r" in qtool.calibrate(without_shapes(), samples(4, x=(2, 5, 64))).ranges


def test_without_samples_the_hint_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(qtool.ModelError) as caught:
        qtool.quantize(without_shapes(), tmp_path / "o.onnx", qtool.Options(mode="weight-only"))
    assert "'x'" in caught.value.message
    assert "--calib" in caught.value.hint


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_custom_op_needs_no_kernel_where_nothing_is_run(mode: str, tmp_path: Path) -> None:
    result = qtool.quantize(with_custom_op(), tmp_path / "o.onnx", qtool.Options(mode=mode))
    assert any("my.domain::Mystery" in warning for warning in result.report.warnings)
    written = onnx.load(tmp_path / "o.onnx")
    assert [n.op_type for n in written.graph.node if n.domain == "my.domain"] == ["Mystery"]
    floats = [t for t in written.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(t.dims) < 64 * 64 for t in floats)


@pytest.mark.parametrize("mode", MODES)
def test_where_a_custom_op_must_run_the_hint_names_modes_that_need_not(mode: str, tmp_path: Path) -> None:
    options = qtool.Options(mode=mode, calib=samples(4, x=(2, 64)))
    with pytest.raises(qtool.ModelError) as caught:
        qtool.quantize(with_custom_op(), tmp_path / "o.onnx", options)
    assert "my.domain::Mystery" in caught.value.hint
    assert "weight-only" in caught.value.hint
