"""A BatchNormalization that no product takes in becomes a depthwise convolution, between convolutions only."""

from __future__ import annotations

import onnx
import pytest

from qtool.graph.prepare import PASSES
from qtool.graph.prepare.lone_norms import replace_lone_norms
from qtool.graph.prepare.shapes import infer_shapes
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graph.prepare.test_batchnorm import norm, statistics
from tests.graphs import model, node, weights

FIRST = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"])]
LAST = node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])


def net(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    constants = {"w": weights(3, 3, 3, 3), **statistics(3)}
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
