"""Tests of the file that holds the weights of a loaded model."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph import shelf
from qtool.graph.for_session import model_for_session
from qtool.graph.load import from_model
from qtool.runtime.session import Session

WEIGHT = np.random.default_rng(0).standard_normal((1024, 2304)).astype(np.float32)  # 9 MiB


@pytest.fixture(scope="module")
def large() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", 1024), ("y", 2304))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def weight(model: ir.Model) -> ir.TensorProtocol:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor


def test_sessions_share_the_file_of_the_weights(large: onnx.ModelProto, scratch: Path) -> None:
    model = from_model(large).model
    with model_for_session(model) as path:
        (own,) = (f for f in Path(path).parent.iterdir() if f.name == "weights.data")
        assert own.stat().st_nlink == 2  # not a copy
        x = np.ones((1, 1024), np.float32)
        (y,) = Session(path).run({"x": x})
    np.testing.assert_allclose(y, x @ WEIGHT, rtol=1e-4, atol=1e-4)


def test_the_file_goes_with_the_model(large: onnx.ModelProto, scratch: Path) -> None:
    model = from_model(large).model.clone()
    np.testing.assert_array_equal(weight(model).numpy(), WEIGHT)
    assert [*scratch.iterdir()]
    del model
    gc.collect()
    assert not [*scratch.iterdir()]


def test_without_room_weights_stay_in_memory(
    large: onnx.ModelProto, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(shelf, "write_side", full)
    model = from_model(large).model
    np.testing.assert_array_equal(weight(model).numpy(), WEIGHT)
    assert not [*scratch.iterdir()]


def test_a_folder_without_links_gets_a_copy(
    large: onnx.ModelProto, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(shelf.os, "link", refuse)
    with model_for_session(from_model(large).model) as path:
        assert Session(path).outputs == ["y"]
