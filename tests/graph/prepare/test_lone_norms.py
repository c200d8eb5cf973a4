"""Scales, shifts and PRelus that no product takes in become depthwise convolutions, between convolutions only."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare import PASSES
from qtool.graph.prepare.affine import fold_affine
from qtool.graph.prepare.lone_norms import replace_lone_norms, replace_lone_scales, replace_prelus
from qtool.graph.prepare.shapes import infer_shapes
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graph.prepare.test_batchnorm import norm, statistics
from tests.graphs import model, node, weights

FIRST = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"])]
LAST = node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])


def net(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    constants = {"w": weights(3, 3, 3, 3), "k": weights(3, 1, 1), "two": np.float32(2), **statistics(3)}
    read = {i for n in nodes for i in n.input}
    held = {k: v for k, v in constants.items() if k in read}
    return model(list(nodes), {"x": ("n", 3, 6, 6)}, list(outputs), held)


@pytest.mark.parametrize(
    ("middle", "left"),
    [
        ([norm("r", "n")], ["Conv"]),
        ([node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]), norm("p", "n")], ["MaxPool", "Conv"]),
        ([norm("r", "m"), node("Relu", ["m"], ["n"])], ["Conv", "Relu"]),
    ],
    ids=["between", "behind-a-pool", "before-an-activation"],
)
def test_between_convolutions_it_is_one(middle: list[onnx.NodeProto], left: list[str]) -> None:
    proto = net(*FIRST, *middle, LAST)
    made, note = applied(proto, *PASSES[: PASSES.index(replace_lone_norms) + 1])
    assert ops(made) == ["Conv", "Relu", *left, "Conv"]
    assert "1 BatchNormalization" in note
    (name,) = (n.name for n in proto.graph.node if n.op_type == "BatchNormalization")
    assert name in {n.name for n in made.graph}
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "proto",
    [
        net(norm("x", "n"), LAST),
        net(*FIRST, norm("r", "y")),
        net(node("Relu", ["x"], ["r"]), norm("r", "y")),
    ],
    ids=["of-an-input", "at-the-end", "without-convolutions"],
)
def test_elsewhere_it_stays(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, infer_shapes, replace_lone_norms)


@pytest.mark.parametrize(
    "middle",
    [
        [node("Mul", ["two", "r"], ["m"]), node("Add", ["m", "k"], ["n"])],
        [node("Sub", ["k", "r"], ["m"]), node("Div", ["m", "two"], ["n"])],
        [node("Add", ["r", "k"], ["n"])],
    ],
    ids=["scale and shift", "shift and scale", "shift"],
)
def test_a_scale_and_a_shift_are_one_depthwise_convolution(middle: list[onnx.NodeProto]) -> None:
    proto = net(*FIRST, *middle, LAST)
    made, note = applied(proto, infer_shapes, replace_lone_scales)
    assert "constant scale" in note
    fold_affine(made)
    assert ops(made) == ["Conv", "Relu", "Conv", "Conv"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "proto",
    [
        net(*FIRST, node("Add", ["r", "k"], ["y"])),
        net(FIRST[0], node("Add", ["c", "k"], ["n"]), LAST),
        net(*FIRST, node("Div", ["two", "r"], ["n"]), LAST),
        net(*FIRST, node("Mul", ["r", "r"], ["n"]), LAST),
    ],
    ids=["at-the-end", "behind-a-convolution", "divides", "no-constant"],
)
def test_other_arithmetic_stays(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, infer_shapes, replace_lone_scales)


def test_a_prelu_is_two_depthwise_convolutions() -> None:
    proto = net(FIRST[0], node("PRelu", ["c", "k"], ["y"]))
    made, note = applied(proto, infer_shapes, replace_prelus)
    assert "1 PRelu" in note
    assert ops(made) == ["Conv", "Relu", "Conv", "Conv", "Add"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "proto",
    [
        net(node("PRelu", ["x", "k"], ["y"])),
        model(
            [node("Conv", ["x", "w"], ["c"]), node("PRelu", ["c", "k"], ["y"])],
            {"x": (1, 3, 8)},
            ["y"],
            {"w": weights(3, 3, 1), "k": weights(3, 1)},
        ),
        model(
            [node("Conv", ["x", "w"], ["c"]), node("PRelu", ["c", "k"], ["y"])],
            {"x": (1, 3, 4, 4)},
            ["y"],
            {"w": weights(3, 3, 1, 1), "k": weights(4)},
        ),
    ],
    ids=["of-an-input", "three-axes", "slopes-along-a-row"],
)
def test_other_prelus_stay(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, infer_shapes, replace_prelus)
