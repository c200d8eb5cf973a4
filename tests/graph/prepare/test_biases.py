"""A Gemm's C becomes a vector, an Add, or nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.biases import split_biases
from qtool.graph.prepare.gemm import normalize_gemm
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, foreign, ops
from tests.graphs import model, node, weights

W = weights(4, 5)


def gemm(bias: np.ndarray | None, weight: np.ndarray = W, **attributes: float) -> onnx.ModelProto:
    """x W + C; without a constant one, C is fed."""
    constants = {"w": weight, **({} if bias is None else {"b": bias})}
    fed = {"x": (2, 4), **({"b": (5,)} if bias is None else {})}
    return model([node("Gemm", ["x", "w", "b"], ["y"], name="g", **attributes)], fed, ["y"], constants)


@pytest.mark.parametrize("bias", [(), (1,), (1, 1)], ids=str)
def test_one_value_is_written_for_each_channel(bias: tuple[int, ...]) -> None:
    proto = gemm(np.full(bias, 0.5, np.float32))
    made, note = applied(proto, split_biases)
    assert "1 Gemm" in note
    assert made.graph[0].inputs[2].const_value.numpy().shape == (5,)
    assert ops(made) == ["Gemm"]
    assert_alike(proto, made)


@pytest.mark.parametrize("bias", [(2, 5), (2, 1)], ids=str)
def test_a_matrix_and_a_column_are_added_behind(bias: tuple[int, ...]) -> None:
    proto = gemm(weights(*bias), alpha=0.5, beta=2.0)
    made, _ = applied(proto, normalize_gemm, split_biases)
    assert ops(made) == ["Gemm", "Add"]
    assert made.graph.outputs[0].name == "y"
    assert_alike(proto, made)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_fed_bias_is_added_behind_and_its_alpha_folded(transposed: int) -> None:
    proto = gemm(None, W.T if transposed else W, transB=transposed, alpha=3.0)
    made, _ = applied(proto, normalize_gemm, split_biases)
    assert ops(made) == ["Gemm", "Add"]
    assert_alike(proto, made)


def test_several_readers_all_read_the_sum() -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["g"]), node("Relu", ["g"], ["r"]), node("Add", ["g", "r"], ["y"])]
    proto = model(nodes, {"x": (2, 4)}, ["y", "g"], {"w": W, "b": weights(2, 5)})
    made, _ = applied(proto, split_biases)
    assert ops(made) == ["Gemm", "Add", "Relu", "Add"]
    assert_alike(proto, made)


@pytest.mark.parametrize("proto", [gemm(weights(2, 5), beta=0.0), gemm(None, beta=0.0), gemm(np.zeros((2, 5), np.float32))])  # fmt: skip
def test_zero_biases_are_removed(proto: onnx.ModelProto) -> None:
    made, _ = applied(proto, split_biases)
    assert ops(made) == ["Gemm"]
    assert len(made.graph[0].inputs) == 2
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "proto",
    [gemm(weights(5)), gemm(weights(1, 5)), gemm(None, beta=2.0), foreign(gemm(weights(2, 5)), "Gemm")],
    ids=["vector", "row", "fed with a factor", "of another domain"],
)
def test_the_rest_stays(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, split_biases)


def test_a_computed_weight_leaves_the_bias_alone() -> None:
    proto = model([node("Gemm", ["x", "w", "b"], ["y"])], {"x": (2, 4), "w": (4, 5)}, ["y"], {"b": weights(2, 5)})  # fmt: skip
    assert_untouched(proto, split_biases)
