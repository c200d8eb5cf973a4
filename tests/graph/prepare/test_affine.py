"""Constant Adds and Muls, one value a channel, become part of the convolution before or behind them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.affine import fold_affine
from qtool.graph.prepare.shapes import infer_shapes
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


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub"])
@pytest.mark.parametrize(
    ("before", "constant", "swapped"),
    [
        (CONV, filled(5, 1, 1), False),
        (CONV, filled(1), True),
        (CONV_B, filled(1, 5, 1, 1), True),
        (CONV_B, np.float32(3), False),
        (UP, filled(5, 1, 1), True),
        (UP, filled(1, 1, 1, 1), False),
        (UP_GROUPED, filled(6, 1, 1), False),
    ],
    ids=str,
)
def test_one_value_a_channel_is_folded(
    before: onnx.NodeProto, constant: np.ndarray, swapped: bool, op: str
) -> None:
    proto = net(before, op, constant, swapped)
    made, note = applied(proto, fold_affine)
    assert ops(made) == [before.op_type]
    assert note
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


@pytest.mark.parametrize(
    "constant",
    [filled(4), filled(4, 4), filled(4, 1), filled(5, 4, 4), filled(2, 1, 1, 1), filled(1, 1, 5, 1, 1)],
    ids=lambda c: str(c.shape),
)
def test_a_constant_over_other_axes_is_left_alone(constant: np.ndarray) -> None:
    assert_untouched(net(CONV, "Add", constant), fold_affine)


def test_a_constant_that_broadcasts_to_more_channels_is_left_alone() -> None:
    proto = model([CONV, node("Mul", ["h", "c"], ["y"])], {"x": SHAPE}, ["y"], {"w": weights(1, 3, 3, 3), "c": filled(5, 1, 1)})  # fmt: skip
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize(("op", "swapped"), [("Pow", False), ("Div", True)])
def test_other_ops_are_left_alone(op: str, swapped: bool) -> None:
    assert_untouched(net(CONV, op, filled(5, 1, 1), swapped), fold_affine)


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


@pytest.mark.parametrize(("op", "value"), [("Add", np.nan), ("Mul", -np.inf)])
def test_a_constant_that_is_not_finite_is_left_alone(op: str, value: float) -> None:
    assert_untouched(net(CONV_B, op, np.full((5, 1, 1), value, np.float32)), fold_affine)


def test_a_foreign_conv_without_a_weight_is_left_alone() -> None:
    proto = foreign(net(CONV, "Add", filled(5, 1, 1)), "Conv")
    del proto.graph.node[0].input[1:]
    assert_untouched(proto, fold_affine)


PRODUCTS: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, np.ndarray]]] = {
    "gemm": (node("Gemm", ["x", "k", "v"], ["h"]), (2, 4), {"k": weights(4, 5), "v": weights(5)}),
    "gemm-transposed": (node("Gemm", ["x", "k"], ["h"], transB=1), (2, 4), {"k": weights(5, 4)}),
}
MATMUL = node("MatMul", ["x", "k"], ["h"])


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Div"])
@pytest.mark.parametrize("constant", [filled(5), filled(1, 5), np.float32(3)], ids=lambda c: str(c.shape))
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_tail_of_a_gemm_is_folded(name: str, op: str, constant: np.ndarray) -> None:
    before, shape, held = PRODUCTS[name]
    proto = model([before, node(op, ["h", "c"], ["y"])], {"x": shape}, ["y"], {**held, "c": constant})
    made, note = applied(proto, fold_affine)
    assert ops(made) == ["Gemm"]
    assert note
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("tail", "left"),
    [
        ([node("Mul", ["h", "c"], ["y"])], ["MatMul"]),
        ([node("Div", ["h", "c"], ["y"])], ["MatMul"]),
        ([node("Add", ["h", "c"], ["y"])], ["MatMul", "Add"]),
        ([node("Add", ["h", "c"], ["a"]), node("Mul", ["a", "d"], ["y"])], ["MatMul", "Add"]),
        ([node("Add", ["c", "h"], ["a"]), node("Sub", ["a", "d"], ["y"])], ["MatMul", "Add"]),
        ([node("Mul", ["h", "c"], ["a"]), node("Add", ["a", "d"], ["y"])], ["MatMul", "Add"]),
    ],
    ids=["scale", "quotient", "bias", "scaled-bias", "two-biases", "scale-then-bias"],
)
@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4)], ids=str)
def test_a_tail_of_a_matmul_is_folded_but_for_its_bias(
    shape: tuple[int, ...], tail: list[onnx.NodeProto], left: list[str]
) -> None:
    constants = {"k": weights(4, 5), "c": filled(1, 5), "d": np.float32(3)}
    read = {i for n in tail for i in n.input} | {"k"}
    proto = model([MATMUL, *tail], {"x": shape}, ["y"], {k: v for k, v in constants.items() if k in read})
    made, _ = applied(proto, infer_shapes, fold_affine)
    assert ops(made) == left
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "constant", [filled(2, 1), filled(3, 1, 5), filled(2, 1, 1, 5)], ids=lambda c: str(c.shape)
)
def test_a_scale_of_a_matmul_over_other_axes_is_left_alone(constant: np.ndarray) -> None:
    proto = model([MATMUL, node("Mul", ["h", "c"], ["y"])], {"x": (3, 2, 4)}, ["y"], {"k": weights(4, 5), "c": constant})  # fmt: skip
    assert_untouched(proto, infer_shapes, fold_affine)


def test_a_matmul_does_not_copy_a_weight_that_others_share() -> None:
    proto = model(
        [MATMUL, node("Mul", ["h", "c"], ["y"]), node("MatMul", ["z", "k"], ["other"])],
        {"x": (2, 4), "z": (2, 4)},
        ["y", "other"],
        {"k": weights(4, 5), "c": filled(5)},
    )
    assert_untouched(proto, infer_shapes, fold_affine)


def before_conv(op: str, constant: np.ndarray, **attributes: object) -> onnx.ModelProto:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node(op, ["r", "c"], ["a"]),
        node("Conv", ["a", "w"], ["y"], **attributes),
    ]
    return model(nodes, {"x": SHAPE}, ["y"], {"w": CONSTANTS["w"], "c": constant})


@pytest.mark.parametrize(
    "constant", [np.float32(3), filled(3, 1, 1), filled(1, 3, 1, 1)], ids=lambda c: str(c.shape)
)
@pytest.mark.parametrize(("op", "pads"), [("Add", 0), ("Sub", 0), ("Mul", 1), ("Div", 1)])
def test_one_before_a_convolution_is_folded(op: str, pads: int, constant: np.ndarray) -> None:
    proto = before_conv(op, constant, pads=[pads] * 4)
    made, note = applied(proto, infer_shapes, fold_affine)
    assert "1 constant scale" in note
    assert ops(made) == ["Relu", "Conv"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "proto",
    [
        before_conv("Add", filled(3, 1, 1), pads=[1] * 4),
        before_conv("Mul", filled(6)),
        before_conv("Mul", filled(2, 3, 1, 1)),
    ],
    ids=["shifts-the-padding", "along-a-row", "along-the-batch"],
)
def test_another_before_a_convolution_is_left_alone(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, infer_shapes, fold_affine)


def test_one_that_broadcasts_a_channel_before_a_convolution_is_left_alone() -> None:
    nodes = [node("Mul", ["x", "c"], ["a"]), node("Conv", ["a", "w"], ["y"])]
    proto = model(nodes, {"x": (1, 1, 6, 6)}, ["y"], {"w": CONSTANTS["w"], "c": filled(3, 1, 1)})
    assert_untouched(proto, infer_shapes, fold_affine)


def test_the_last_factor_of_a_gelu_stays_for_the_runtime_to_fuse() -> None:
    gelu = [
        node("Div", ["x", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["p"]),
        node("Mul", ["x", "p"], ["m"]),
        node("Mul", ["m", "half"], ["g"]),
        node("Conv", ["g", "w"], ["y"]),
    ]
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    assert_untouched(
        model(gelu, {"x": SHAPE}, ["y"], {"w": CONSTANTS["w"], **numbers}), infer_shapes, fold_affine
    )
