"""Constant Adds and Muls, one value a channel, become part of the convolution before them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.affine import fold_affine
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    foreign,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, samples, weights

SHAPE = (1, 3, 6, 6)
CONV = node("Conv", ["x", "w"], ["h"])
CONV_B = node("Conv", ["x", "w", "b"], ["h"])
UP = node("ConvTranspose", ["x", "u"], ["h"], group=1)
UP_GROUPED = node("ConvTranspose", ["x", "g"], ["h"], group=3)
CONSTANTS = {
    "w": weights(5, 3, 3, 3),
    "b": weights(5),
    "u": weights(3, 5, 2, 2),
    "g": weights(3, 2, 2, 2),
}


def net(before: onnx.NodeProto, op: str, constant: np.ndarray, swapped: bool = False) -> onnx.ModelProto:
    used = {k: v for k, v in CONSTANTS.items() if k in before.input}
    inputs = ["c", "h"] if swapped else ["h", "c"]
    return model([before, node(op, inputs, ["y"])], {"x": SHAPE}, ["y"], {**used, "c": constant})


def filled(*shape: int) -> np.ndarray:
    return weights(*shape, seed=3) * 10 + np.float32(2)


@pytest.mark.parametrize("swapped", [False, True], ids=["constant-right", "constant-left"])
@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(
    "constant",
    [filled(5, 1, 1), filled(1, 5, 1, 1), np.float32(3), filled(1), filled(1, 1, 1), filled(1, 1, 1, 1)],
    ids=lambda c: str(np.shape(c)),
)
@pytest.mark.parametrize("before", [CONV, CONV_B, UP], ids=["conv", "conv-bias", "transposed"])
def test_one_value_a_channel_is_folded(
    before: onnx.NodeProto, constant: np.ndarray, op: str, swapped: bool
) -> None:
    proto = net(before, op, constant, swapped)
    made, note = applied(proto, fold_affine)
    assert ops(made) == [before.op_type]
    assert note
    assert_alike(proto, made)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_the_channels_of_a_grouped_transposed_convolution_are_counted_over_groups(op: str) -> None:
    proto = net(UP_GROUPED, op, filled(6, 1, 1))
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["ConvTranspose"]
    assert_alike(proto, made)


def test_a_chain_of_them_is_folded_whole() -> None:
    proto = model(
        [
            CONV,
            node("Mul", ["h", "m"], ["s"]),
            node("Add", ["s", "a"], ["t"]),
            node("Mul", ["t", "n"], ["y"]),
        ],
        {"x": SHAPE},
        ["y"],
        {"w": CONSTANTS["w"], "m": filled(5, 1, 1), "a": filled(1, 5, 1, 1), "n": np.float32(0.5)},
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv"]
    assert_alike(proto, made)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(
    "constant",
    [filled(4), filled(4, 4), filled(4, 1), filled(5, 4, 4), filled(2, 1, 1, 1), filled(1, 1, 5, 1, 1)],
    ids=lambda c: str(c.shape),
)
def test_a_constant_over_other_axes_is_left_alone(constant: np.ndarray, op: str) -> None:
    assert_untouched(net(CONV, op, constant), fold_affine)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_constant_that_makes_more_channels_of_one_is_left_alone(op: str) -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["h"]), node(op, ["h", "c"], ["y"])],
        {"x": SHAPE},
        ["y"],
        {"w": weights(1, 3, 3, 3), "c": filled(5, 1, 1)},
    )
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize("op", ["Sub", "Div", "Pow"])
def test_other_ops_are_left_alone(op: str) -> None:
    assert_untouched(net(CONV, op, filled(5, 1, 1)), fold_affine)


def test_an_operand_that_is_computed_is_left_alone() -> None:
    proto = model(
        [CONV, node("Add", ["h", "z"], ["y"])], {"x": SHAPE, "z": (5, 1, 1)}, ["y"], {"w": CONSTANTS["w"]}
    )
    assert_untouched(proto, fold_affine)


def test_a_convolution_added_to_itself_is_left_alone() -> None:
    proto = model([CONV, node("Add", ["h", "h"], ["y"])], {"x": SHAPE}, ["y"], {"w": CONSTANTS["w"]})
    assert_untouched(proto, fold_affine)


def test_a_convolution_with_another_reader_is_left_alone() -> None:
    proto = model(
        [CONV, node("Add", ["h", "c"], ["a"]), node("Mul", ["h", "a"], ["y"])],
        {"x": SHAPE},
        ["y"],
        {"w": CONSTANTS["w"], "c": filled(5, 1, 1)},
    )
    assert_untouched(proto, fold_affine)


def test_a_convolution_that_is_an_output_is_left_alone() -> None:
    proto = model(
        [CONV, node("Add", ["h", "c"], ["y"])],
        {"x": SHAPE},
        ["y", "h"],
        {"w": CONSTANTS["w"], "c": filled(5, 1, 1)},
    )
    assert_untouched(proto, fold_affine)


def test_a_weight_shared_with_another_convolution_is_copied() -> None:
    proto = model(
        [
            CONV,
            node("Mul", ["h", "c"], ["m"]),
            node("Conv", ["x", "w"], ["plain"]),
            node("Add", ["m", "plain"], ["y"]),
        ],
        {"x": SHAPE},
        ["y"],
        {"w": CONSTANTS["w"], "c": filled(5, 1, 1)},
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv", "Conv", "Add"]
    assert_alike(proto, made)


@pytest.mark.parametrize("followed", [False, True], ids=["makes-the-branchs-output", "is-read-in-the-branch"])
def test_one_in_a_branch_behind_a_convolution_outside_computes_the_same(followed: bool) -> None:
    last = (
        [node("Add", ["h", "c"], ["n"]), node("Relu", ["n"], ["t"])]
        if followed
        else [node("Add", ["h", "c"], ["t"])]
    )
    proto = graph_with_if(
        [CONV],
        subgraph(last, {"t": (1, 5, 4, 4)}),
        subgraph([node("Conv", ["x", "w"], ["e"])], {"e": (1, 5, 4, 4)}),
        {"x": SHAPE},
        (1, 5, 4, 4),
        {"w": CONSTANTS["w"], "c": filled(5, 1, 1)},
    )
    made, _ = applied(proto, fold_affine)
    assert_alike(proto, made, both_branches(samples(2, x=SHAPE)))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan], ids=str)
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_constant_that_is_not_finite_is_left_alone(op: str, value: float) -> None:
    assert_untouched(net(CONV_B, op, np.full((5, 1, 1), value, np.float32)), fold_affine)


def test_a_product_that_overflows_is_left_alone() -> None:
    w = np.full((5, 3, 3, 3), 1e30, np.float32)
    proto = model(
        [CONV, node("Mul", ["h", "c"], ["y"])],
        {"x": SHAPE},
        ["y"],
        {"w": w, "c": np.full((5, 1, 1), 1e30, np.float32)},
    )
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize("op", ["Conv", "Add"])
def test_an_op_of_another_domain_with_the_same_name_is_left_alone(op: str) -> None:
    assert_untouched(foreign(net(CONV, "Add", filled(5, 1, 1)), op), fold_affine)


def test_a_foreign_conv_without_a_weight_is_left_alone() -> None:
    proto = foreign(net(CONV, "Add", filled(5, 1, 1)), "Conv")
    del proto.graph.node[0].input[1:]
    assert_untouched(proto, fold_affine)
