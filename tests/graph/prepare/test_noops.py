"""Nodes that do nothing are read past; names that users know stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.constants import lift_constants
from qtool.graph.prepare.noops import drop_noops
from qtool.graph.prepare.shapes import infer_shapes
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

NOOPS = {
    "identity": [node("Identity", ["x"], ["h"])],
    "dropout": [node("Dropout", ["x"], ["h"])],
    "dropout-with-ratio": [node("Dropout", ["x", "ratio"], ["h"])],
    "dropout-said-not-to-train": [node("Dropout", ["x", "ratio", "no"], ["h"])],
    "dropout-with-an-unread-mask": [node("Dropout", ["x"], ["h", "mask"])],
    "sum-of-one": [node("Sum", ["x"], ["h"])],
    "concat-of-one": [node("Concat", ["x"], ["h"], axis=0)],
    "pad-by-nothing": [node("Pad", ["x", "none"], ["h"])],
    "cast-to-its-own-type": [node("Cast", ["x"], ["h"], to=1)],
    "a-chain": [
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Identity", ["b"], ["h"]),
    ],
}
CONSTANTS = {
    "ratio": np.float32(0.5),
    "no": np.array(False),
    "yes": np.array(True),
    "none": np.zeros(4, np.int64),
}


@pytest.mark.parametrize("nodes", NOOPS.values(), ids=NOOPS.keys())
def test_no_ops_are_bypassed(nodes: list[onnx.NodeProto]) -> None:
    proto = model([*nodes, node("Relu", ["h"], ["y"])], {"x": (2, 3)}, ["y"], CONSTANTS)
    made, note = applied(proto, drop_noops)
    assert ops(made) == ["Relu"]
    assert str(len(nodes)) in note
    assert_alike(proto, made)


def test_all_readers_read_past_it() -> None:
    proto = model(
        [
            node("Identity", ["x"], ["h"]),
            node("Relu", ["h"], ["a"]),
            node("Sigmoid", ["h"], ["b"]),
            node("Add", ["a", "h"], ["y"]),
        ],
        {"x": (2, 3)},
        ["y", "b"],
    )
    made, _ = applied(proto, drop_noops)
    assert ops(made) == ["Relu", "Sigmoid", "Add"]
    assert_alike(proto, made)


def test_readers_in_a_branch_read_past_it_too() -> None:
    proto = graph_with_if(
        [node("Identity", ["x"], ["h"])],
        subgraph([node("Relu", ["h"], ["t"])], {"t": (2, 3)}),
        subgraph([node("Sigmoid", ["h"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, _ = applied(proto, drop_noops)
    assert ops(made) == ["If"]
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_one_inside_a_branch_goes_and_one_that_makes_its_output_stays() -> None:
    proto = graph_with_if(
        [],
        subgraph([node("Identity", ["x"], ["i"]), node("Relu", ["i"], ["t"])], {"t": (2, 3)}),
        subgraph([node("Identity", ["x"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    made, _ = applied(proto, drop_noops)
    assert sorted(all_ops(made)) == ["Identity", "If", "Relu"]
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


STAY = {
    "an-output": ([node("Identity", ["x"], ["y"])], ["y"]),
    "an-output-that-is-also-read": (
        [node("Identity", ["x"], ["y"]), node("Relu", ["y"], ["z"])],
        ["y", "z"],
    ),
    "training-mode": ([node("Dropout", ["x", "ratio", "yes"], ["h"]), node("Relu", ["h"], ["y"])], ["y"]),
    "training-mode-not-known": (
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Cast", ["m"], ["train"], to=9),
            node("Dropout", ["x", "ratio", "train"], ["h"]),
            node("Relu", ["h"], ["y"]),
        ],
        ["y"],
    ),
    "a-mask-that-is-read": (
        [
            node("Dropout", ["x"], ["h", "mask"]),
            node("Cast", ["mask"], ["m"], to=1),
            node("Add", ["h", "m"], ["y"]),
        ],
        ["y"],
    ),
    "a-cast-to-another-type": (
        [node("Cast", ["x"], ["i"], to=7), node("Cast", ["i"], ["f"], to=1), node("Relu", ["f"], ["y"])],
        ["y"],
    ),
}


@pytest.mark.parametrize(("nodes", "outputs"), STAY.values(), ids=STAY.keys())
def test_what_does_something_or_makes_an_output_stays(
    nodes: list[onnx.NodeProto], outputs: list[str]
) -> None:
    assert_untouched(
        model(nodes, {"x": (2, 3)}, outputs, CONSTANTS), lift_constants, infer_shapes, drop_noops
    )


def test_a_mask_that_is_an_output_keeps_its_dropout() -> None:
    graph = onnx.helper.make_graph(
        [node("Dropout", ["x"], ["h", "mask"]), node("Relu", ["h"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2, 3])],
        [
            onnx.helper.make_tensor_value_info("y", 1, [2, 3]),
            onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, [2, 3]),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert_untouched(proto, drop_noops)


def test_an_identity_of_a_weight_is_bypassed() -> None:
    proto = model(
        [node("Identity", ["w"], ["h"]), node("MatMul", ["x", "h"], ["y"])],
        {"x": (2, 3)},
        ["y"],
        {"w": weights(3, 4)},
    )
    made, _ = applied(proto, drop_noops)
    assert made.graph[0].inputs[1].is_initializer()
    assert_alike(proto, made)
