"""The small surgery keeps names unique, scalars scalar, and outputs under the names that users know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.load import from_proto
from tests.graph.prepare.alike import assert_alike, both_branches, graph_with_if, ops, subgraph
from tests.graphs import model, node, samples, weights


def net() -> ir.Model:
    return from_proto(
        model(
            [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
            {"x": (2, 3)},
            ["y"],
            {"w": weights(3, 4)},
        )
    )


def test_a_free_name_is_given_as_wished_and_only_once() -> None:
    name = Namer(net())
    assert [name("new"), name("new"), name("new")] == ["new", "new_1", "new_2"]


@pytest.mark.parametrize("taken", ["x", "w", "h", "y", "MatMul_h"])
def test_new_names_are_unique(taken: str) -> None:
    assert Namer(net())(taken) != taken


def test_a_name_inside_a_branch_is_taken_too() -> None:
    made = from_proto(
        graph_with_if(
            [],
            subgraph([node("Add", ["x", "k"], ["t"])], {"t": (2, 3)}, {"k": np.float32(1)}),
            subgraph([node("Relu", ["x"], ["e"])], {"e": (2, 3)}),
            {"x": (2, 3)},
            (2, 3),
        )
    )
    name = Namer(made)
    for taken in ("k", "t", "e", "Add_t", "pick"):
        assert name(taken) != taken


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64"])
def test_an_initializer_keeps_its_shape_type_and_values(shape: tuple[int, ...], dtype: str) -> None:
    made = net()
    array = np.ones(shape, dtype)
    value = add_initializer(made.graph, "k", array)
    array[...] = 7  # the model has its own copy
    held = ir.to_proto(made).graph.initializer[-1]
    assert tuple(held.dims) == shape
    np.testing.assert_array_equal(value.const_value.numpy(), np.ones(shape, dtype))
    assert value.const_value.numpy().dtype == dtype


def test_an_initializer_of_a_strided_array_is_its_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    value = add_initializer(net().graph, "k", array)
    np.testing.assert_array_equal(value.const_value.numpy(), array)


@pytest.mark.parametrize(
    ("value", "after"), [("h", ["MatMul", "Tanh", "Relu"]), ("x", ["Tanh", "MatMul", "Relu"])]
)
def test_nodes_are_inserted_after_the_producer(value: str, after: list[str]) -> None:
    made = net()
    result = made.graph.inputs[0] if value == "x" else made.graph[0].outputs[0]
    fresh = new_node("Tanh", [result], name="fresh", outputs=["fresh_output"])
    insert_after_value(result, [fresh], made.graph)
    assert ops(made) == after


def test_nodes_are_inserted_into_an_empty_graph() -> None:
    x = ir.Value(name="x")
    graph = ir.Graph([x], [], nodes=[])
    insert_after_value(x, [new_node("Tanh", [x], name="fresh", outputs=["o"])], graph)
    assert [n.op_type for n in graph] == ["Tanh"]


def test_an_output_moves_to_a_new_node_under_its_own_name() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"])
    made = from_proto(proto)
    old = made.graph.outputs[0]
    fresh = new_node("Identity", [old], name="fresh", outputs=["fresh_output"])
    made.graph.append(fresh)
    take_output_name(old, fresh.outputs[0], Namer(made))
    assert [v.name for v in made.graph.outputs] == ["y"]
    assert made.graph.outputs[0].producer() is fresh
    assert_alike(proto, made)


def test_an_output_of_a_branch_moves_the_same_way() -> None:
    proto = graph_with_if(
        [],
        subgraph([node("Relu", ["x"], ["t"])], {"t": (2, 3)}),
        subgraph([node("Tanh", ["x"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made = from_proto(proto)
    graph = next(iter(made.graph.subgraphs()))
    old = graph.outputs[0]
    fresh = new_node("Identity", [old], name="fresh", outputs=["fresh_output"])
    graph.append(fresh)
    take_output_name(old, fresh.outputs[0], Namer(made))
    assert graph.outputs[0].producer() is fresh
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_inner_values_keep_their_names() -> None:
    made = net()
    hidden = made.graph[0].outputs[0]
    fresh = new_node("Identity", [hidden], name="fresh", outputs=["fresh_output"])
    take_output_name(hidden, fresh.outputs[0], Namer(made))
    assert (hidden.name, fresh.outputs[0].name) == ("h", "fresh_output")


def test_a_value_outside_any_graph_has_no_owner() -> None:
    with pytest.raises(TypeError, match="'lost'"):
        owner(ir.Value(name="lost"))
