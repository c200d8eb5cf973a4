"""Constant nodes become initializers, in every graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qtool.graph.prepare.constants import lift_constants
from tests.graph.prepare.alike import (
    all_ops,
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, samples, weights


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


def test_a_weight_in_a_constant_becomes_an_initializer_under_its_name() -> None:
    w = weights(3, 4)
    proto = model([constant("w", w), node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"])
    made, note = applied(proto, lift_constants)
    assert ops(made) == ["MatMul"]
    assert "1 Constant" in note
    np.testing.assert_array_equal(made.graph.initializers["w"].const_value.numpy(), w)
    assert_alike(proto, made)


FORMS = {
    "value_float": (2.5, np.float32(2.5)),
    "value_floats": ([1.0, 2.0, 3.0], np.array([1, 2, 3], np.float32)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_a_constant_is_lifted(form: str) -> None:
    written, array = FORMS[form]
    proto = model(
        [node("Constant", [], ["c"], **{form: written}), node("Mul", ["x", "c"], ["y"])], {"x": (2, 3)}, ["y"]
    )
    made, _ = applied(proto, lift_constants)
    assert ops(made) == ["Mul"]
    np.testing.assert_array_equal(made.graph.initializers["c"].const_value.numpy(), array)
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "shape", [{"value_ints": [3, 2]}, {"value": numpy_helper.from_array(np.array([3, 2]))}], ids=str
)
def test_whole_numbers_are_lifted_too(shape: dict) -> None:
    proto = model(
        [node("Constant", [], ["s"], **shape), node("Reshape", ["x", "s"], ["y"])],
        {"x": (2, 3)},
        {"y": (3, 2)},
    )
    made, _ = applied(proto, lift_constants)
    assert ops(made) == ["Reshape"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 4), np.float32), np.float32(3)], ids=["no-elements", "scalar"]
)
def test_shapes_without_elements_or_axes_are_kept(array: np.ndarray) -> None:
    proto = model([constant("c", array), node("Add", ["x", "c"], ["y"])], {"x": (1, 4)}, ["y"])
    made, _ = applied(proto, lift_constants)
    assert made.graph.initializers["c"].const_value.numpy().shape == np.shape(array)
    assert_alike(proto, made)


def test_constants_inside_nested_ifs_are_lifted_where_they_are() -> None:
    inner = helper.make_node(
        "If",
        ["pick"],
        ["deep"],
        name="inner",
        then_branch=subgraph([constant("c", np.float32(1)), node("Add", ["x", "c"], ["a"])], {"a": (2, 3)}),
        else_branch=subgraph([constant("c", np.float32(2)), node("Mul", ["x", "c"], ["a"])], {"a": (2, 3)}),
    )
    proto = graph_with_if(
        [],
        subgraph([inner, constant("k", np.float32(3)), node("Add", ["deep", "k"], ["t"])], {"t": (2, 3)}),
        subgraph([constant("k", np.float32(4)), node("Mul", ["x", "k"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, note = applied(proto, lift_constants)
    assert "Constant" not in all_ops(made)
    assert "4 Constant" in note
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_a_constant_that_is_an_output_stays() -> None:
    proto = model(
        [constant("y", np.ones(3, np.float32)), node("Relu", ["x"], ["z"])], {"x": (3,)}, ["y", "z"]
    )
    assert_untouched(proto, lift_constants)


def test_a_constant_that_is_a_branchs_output_still_computes() -> None:
    proto = graph_with_if(
        [],
        subgraph([constant("t", np.ones((2, 3), np.float32))], {"t": (2, 3)}),
        subgraph([node("Relu", ["x"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, _ = applied(proto, lift_constants)
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_strings_are_lifted_or_left_but_never_break() -> None:
    graph = helper.make_graph(
        [node("Constant", [], ["s"], value_strings=[b"a", b"b"]), node("Gather", ["s", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [1])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    applied(proto, lift_constants)
