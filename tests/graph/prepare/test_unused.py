"""Unused nodes and initializers go; used ones, inputs and outputs stay."""

from __future__ import annotations

import numpy as np
import onnx

from qtool.graph.prepare.unused import drop_unused
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


def test_unused_nodes_and_initializers_are_removed() -> None:
    proto = model(
        [
            node("Relu", ["x"], ["y"]),
            node("MatMul", ["x", "dead"], ["a"]),
            node("Sigmoid", ["a"], ["b"]),
        ],
        {"x": (2, 3)},
        ["y"],
        {"dead": weights(3, 4), "never": weights(2)},
    )
    made, note = applied(proto, drop_unused)
    assert ops(made) == ["Relu"]
    assert not made.graph.initializers
    assert "2 unused nodes" in note
    assert_alike(proto, made)


def test_inputs_stay_whether_read_or_not() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3), "unread": (1,)}, ["y"])
    made, _ = applied(proto, drop_unused)
    assert [v.name for v in made.graph.inputs] == ["x", "unread"]
    assert_alike(proto, made)


def test_an_initializer_that_is_an_output_stays() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, {"y": (2, 3), "w": (4,)}, {"w": weights(4)})
    made, _ = applied(proto, drop_unused)
    assert "w" in made.graph.initializers
    assert_alike(proto, made)


def test_values_used_in_branches_stay() -> None:
    proto = graph_with_if(
        [node("Relu", ["x"], ["h"]), node("Tanh", ["x"], ["dead"])],
        subgraph([node("MatMul", ["h", "w"], ["t"])], {"t": (2, 4)}),
        subgraph([node("MatMul", ["x", "w"], ["e"])], {"e": (2, 4)}),
        {"x": (2, 3)},
        (2, 4),
        {"w": weights(3, 4)},
    )
    made, note = applied(proto, drop_unused)
    assert ops(made) == ["Relu", "If"]
    assert "w" in made.graph.initializers
    assert "1 unused" in note
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_inside_a_branch_the_unread_goes_and_its_outputs_stay() -> None:
    proto = graph_with_if(
        [],
        subgraph(
            [node("Relu", ["x"], ["t"]), node("Add", ["x", "k"], ["dead"])],
            {"t": (2, 3)},
            {"k": np.float32(1)},
        ),
        subgraph([node("Add", ["x", "k2"], ["e"])], {"e": (2, 3)}, {"k2": np.float32(2)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, _ = applied(proto, drop_unused)
    assert sorted(all_ops(made)) == ["Add", "If", "Relu"]
    held = [name for g in made.graph.subgraphs() for name in g.initializers]
    assert held == ["k2"]
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_an_initializer_that_is_a_branchs_output_stays() -> None:
    proto = graph_with_if(
        [],
        subgraph([node("Identity", ["k"], ["t"])], {"t": (2, 3)}, {"k": np.ones((2, 3), np.float32)}),
        subgraph([node("Relu", ["x"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, _ = applied(proto, drop_unused)
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_a_result_that_is_an_output_and_read_stays() -> None:
    proto = model([node("Relu", ["x"], ["h"]), node("Tanh", ["h"], ["y"])], {"x": (2, 3)}, ["y", "h"])
    assert_untouched(proto, drop_unused)


def test_a_result_of_several_of_which_one_is_read_stays() -> None:
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node("Split", ["x"], ["a", "b"], axis=0), node("Relu", ["a"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [2, 3])],
            [onnx.helper.make_tensor_value_info("y", 1, [1, 3])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    made, _ = applied(proto, drop_unused)
    assert ops(made) == ["Split", "Relu"]
    assert_alike(proto, made)
