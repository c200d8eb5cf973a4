"""Graphs whose names contradict each other: refused in our words, which name the value and the nodes."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.errors import ModelError
from qtool.graph.load import from_model
from tests.graphs import model, node, weights


def net() -> onnx.ModelProto:
    """x -> MatMul 'product' -> h -> Relu 'clamp' -> y."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Relu", ["h"], ["y"], name="clamp"),
    ]
    return model(nodes, {"x": (2, 8)}, ["y"], {"w": weights(8, 8)})


def no_outputs(proto: onnx.ModelProto) -> None:
    del proto.graph.output[:]


def two_initializers(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(weights(8, 8, seed=1), "w"))


def two_inputs(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(proto.graph.input[0])


def two_makers(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Neg", ["x"], ["y"], name="other"))


def makes_a_weight(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Neg", ["x"], ["w"], name="other"))


def reads_nothing(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "ghost"


def out_of_order(proto: onnx.ModelProto) -> None:
    nodes = [proto.graph.node[1], proto.graph.node[0]]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def ghost_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "ghost"


def in_a_branch(proto: onnx.ModelProto) -> None:
    """Both branches of an If make a value of the main graph again."""
    out = helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 8])
    body = helper.make_graph([node("Neg", ["x"], ["h"], name="inner")], "b", [], [out])
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.node.append(node("If", ["c"], ["z"], then_branch=body, else_branch=body))


WORDS: dict[Callable[[onnx.ModelProto], None], tuple[str, ...]] = {
    no_outputs: ("no outputs",),
    two_initializers: ("two initializers", "'w'"),
    two_inputs: ("two inputs", "'x'"),
    two_makers: ("'y'", "Relu 'clamp'", "Neg 'other'"),
    makes_a_weight: ("'w'", "initializer", "Neg 'other'"),
    reads_nothing: ("'ghost'", "Relu 'clamp'"),
    out_of_order: ("'h'", "Relu 'clamp'", "before"),
    ghost_output: ("output 'ghost'",),
    in_a_branch: ("'h'", "MatMul 'product'", "Neg 'inner'"),
}


@pytest.mark.parametrize("edit", WORDS, ids=lambda e: e.__name__)
def test_the_message_names_the_value_and_the_nodes(edit: Callable[[onnx.ModelProto], None]) -> None:
    proto = net()
    edit(proto)
    with pytest.raises(ModelError) as caught:
        from_model(proto)
    assert all(word in caught.value.message for word in WORDS[edit])
    assert "SSA" not in caught.value.message
    assert caught.value.hint


def test_a_valid_model_is_accepted() -> None:
    assert not from_model(net()).warnings
