"""A weight [1, .., 1, K, N] becomes the matrix that it is."""

from __future__ import annotations

import onnx
import pytest

from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.stacks import unstack_matrices
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched
from tests.graphs import model, node, weights


def product(x: tuple[int, ...], w: tuple[int, ...]) -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"])], {"x": x}, ["y"], {"w": weights(*w)})


@pytest.mark.parametrize(
    ("x", "w"), [((3, 2, 4), (1, 4, 5)), ((2, 3, 2, 4), (1, 1, 4, 5)), ((2, 3, 2, 4), (1, 4, 5))], ids=str
)
def test_a_stack_of_one_is_unstacked(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    proto = product(x, w)
    made, note = applied(proto, infer_shapes, unstack_matrices)
    assert "1 weight" in note
    assert made.graph[0].inputs[1].const_value.numpy().shape == (4, 5)
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("x", "w"), [((3, 2, 4), (3, 4, 5)), ((2, 4), (1, 4, 5)), ((2, 4), (4, 5)), ((4,), (1, 4, 5))], ids=str
)
def test_what_adds_axes_or_is_several_stays(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    assert_untouched(product(x, w), infer_shapes, unstack_matrices)


def test_two_readers_share_the_matrix() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    proto = model(nodes, {"x": (3, 2, 4)}, ["y"], {"w": weights(1, 4, 4)})
    made, _ = applied(proto, infer_shapes, unstack_matrices)
    assert made.graph[0].inputs[1] is made.graph[1].inputs[1]
    assert_alike(proto, made)
