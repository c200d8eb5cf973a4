"""Small models as files, and the check of a refusal: helpers of the tests of loading."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper

from qtool.errors import ModelError
from qtool.graph.load import load
from tests.graphs import model, node, weights


def net() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (1, 4)},
        {"y": (1, 300)},
        {"w": weights(4, 300)},
    )


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(path)
    return plain(caught.value)


def plain(error: ModelError) -> ModelError:
    """One line that is fit for a terminal, and the documented exit code."""
    assert error.exit_code == 3
    assert error.message
    assert error.message.isprintable()
    assert error.hint.isprintable()
    return error


def external(folder: Path, data_name: str = "w.bin") -> Path:
    """A model whose weights lie in a file beside it."""
    path = folder / "m.onnx"
    proto = net()
    external_data_helper.convert_model_to_external_data(proto, location=data_name, size_threshold=0)
    onnx.save(proto, path)
    return path


def checkless(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a model that no checker has seen."""
    path.write_bytes(proto.SerializeToString())
    return path


def branches(inner: onnx.GraphProto) -> onnx.ModelProto:
    """An If whose branches are both `inner`."""
    nodes = [node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
