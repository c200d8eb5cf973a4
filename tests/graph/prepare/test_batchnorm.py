"""BatchNormalization is folded into the product before it, and only where that is the same."""

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
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, rng, samples, weights


def statistics(channels: int, prefix: str = "", seed: int = 5) -> dict[str, np.ndarray]:
    random = rng(seed)
    return {
        f"{prefix}gamma": random.uniform(-2, 2, channels).astype(np.float32),
        f"{prefix}beta": random.standard_normal(channels).astype(np.float32),
        f"{prefix}mean": random.standard_normal(channels).astype(np.float32),
        f"{prefix}var": random.uniform(0.1, 3, channels).astype(np.float32),
    }


def norm(source: str, result: str, prefix: str = "", **attributes: object) -> onnx.NodeProto:
    stats = [f"{prefix}{s}" for s in ("gamma", "beta", "mean", "var")]
    return node("BatchNormalization", [source, *stats], [result], **attributes)


# name -> (the weighted node, its input's shape, its constants, output channels)
BEFORE: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, np.ndarray], int]] = {
    "conv": (node("Conv", ["x", "w"], ["h"]), (1, 3, 6, 6), {"w": weights(5, 3, 3, 3)}, 5),
    "conv-with-bias": (
        node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        (1, 3, 6, 6),
        {"w": weights(5, 3, 3, 3), "b": weights(5)},
        5,
    ),
    "conv-1d": (node("Conv", ["x", "w"], ["h"]), (1, 3, 9), {"w": weights(5, 3, 3)}, 5),
    "conv-grouped": (
        node("Conv", ["x", "w"], ["h"], group=2),
        (1, 4, 6, 6),
        {"w": weights(6, 2, 3, 3)},
        6,
    ),
    "conv-depthwise": (
        node("Conv", ["x", "w"], ["h"], group=4),
        (1, 4, 6, 6),
        {"w": weights(4, 1, 3, 3)},
        4,
    ),
    "transposed": (node("ConvTranspose", ["x", "w"], ["h"]), (1, 3, 4, 4), {"w": weights(3, 5, 2, 2)}, 5),
    "transposed-grouped": (
        node("ConvTranspose", ["x", "w", "b"], ["h"], group=2, strides=[2, 2]),
        (1, 4, 4, 4),
        {"w": weights(4, 3, 2, 2), "b": weights(6)},
        6,
    ),
    "transposed-depthwise": (
        node("ConvTranspose", ["x", "w"], ["h"], group=3),
        (1, 3, 4, 4),
        {"w": weights(3, 1, 2, 2)},
        3,
    ),
    "gemm": (node("Gemm", ["x", "w"], ["h"]), (2, 4), {"w": weights(4, 5)}, 5),
    "gemm-transposed": (
        node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        (2, 4),
        {"w": weights(5, 4), "b": weights(5)},
        5,
    ),
    "gemm-square": (node("Gemm", ["x", "w", "b"], ["h"]), (2, 4), {"w": weights(4, 4), "b": weights(4)}, 4),
    "gemm-one-bias": (
        node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        (2, 4),
        {"w": weights(5, 4), "b": weights(1)},
        5,
    ),
    "gemm-row-bias": (
        node("Gemm", ["x", "w", "b"], ["h"]),
        (2, 4),
        {"w": weights(4, 5), "b": weights(1, 5)},
        5,
    ),
    "gemm-transposed-input": (
        node("Gemm", ["x", "w"], ["h"], transA=1),
        (4, 2),
        {"w": weights(4, 5)},
        5,
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_it_becomes_part_of_the_weights(name: str) -> None:
    before, shape, constants, channels = BEFORE[name]
    proto = model([before, norm("h", "y")], {"x": shape}, ["y"], {**constants, **statistics(channels)})
    made, note = applied(proto, fold_affine)
    assert ops(made) == [before.op_type]
    assert "1 BatchNormalization" in note
    assert_alike(proto, made)


def test_its_epsilon_counts() -> None:
    epsilon = 0.5
    before, shape, constants, channels = BEFORE["conv"]
    stats = {**statistics(channels), "var": np.zeros(channels, np.float32)}
    proto = model([before, norm("h", "y", epsilon=epsilon)], {"x": shape}, ["y"], {**constants, **stats})
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv"]
    assert_alike(proto, made)


def test_two_in_a_row_are_both_folded() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    stats = {**statistics(channels), **statistics(channels, "second_", seed=6)}
    proto = model(
        [before, norm("h", "g"), norm("g", "y", "second_")], {"x": shape}, ["y"], {**constants, **stats}
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv"]
    assert_alike(proto, made)


def test_a_weight_shared_by_two_convolutions_is_copied_not_changed() -> None:
    w = weights(5, 3, 3, 3)
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Conv", ["x", "w"], ["b"]),
            norm("a", "na", "one_"),
            norm("b", "nb", "two_"),
            node("Conv", ["x", "w"], ["plain"]),
            node("Concat", ["na", "nb", "plain"], ["y"], axis=1),
        ],
        {"x": (1, 3, 6, 6)},
        ["y"],
        {"w": w, **statistics(5, "one_"), **statistics(5, "two_", seed=9)},
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv", "Conv", "Conv", "Concat"]
    np.testing.assert_array_equal(made.graph.initializers["w"].const_value.numpy(), w)
    assert_alike(proto, made)


def test_a_fold_in_the_middle_keeps_the_name_of_its_result() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = model(
        [before, norm("h", "n"), node("Relu", ["n"], ["y"])],
        {"x": shape},
        ["y", "n"],
        {**constants, **statistics(channels)},
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv", "Relu"]
    assert_alike(proto, made)


def test_one_inside_a_branch_is_folded_there() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = graph_with_if(
        [],
        subgraph([before, norm("h", "t")], {"t": (1, 5, 4, 4)}),
        subgraph([node("Conv", ["x", "w"], ["e"])], {"e": (1, 5, 4, 4)}),
        {"x": shape},
        (1, 5, 4, 4),
        {**constants, **statistics(channels)},
    )
    made, note = applied(proto, fold_affine)
    assert "1 " in note
    assert_alike(proto, made, both_branches(samples(2, x=shape)))


@pytest.mark.parametrize("followed", [False, True], ids=["makes-the-branchs-output", "is-read-in-the-branch"])
def test_one_in_a_branch_behind_a_convolution_outside_computes_the_same(followed: bool) -> None:
    before, shape, constants, channels = BEFORE["conv"]
    last = [norm("h", "n"), node("Relu", ["n"], ["t"])] if followed else [norm("h", "t")]
    proto = graph_with_if(
        [before],
        subgraph(last, {"t": (1, 5, 4, 4)}),
        subgraph([node("Conv", ["x", "w"], ["e"])], {"e": (1, 5, 4, 4)}),
        {"x": shape},
        (1, 5, 4, 4),
        {**constants, **statistics(channels)},
    )
    made, _ = applied(proto, fold_affine)
    assert_alike(proto, made, both_branches(samples(2, x=shape)))


def test_a_convolution_with_another_reader_is_left_alone() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = model(
        [before, norm("h", "n"), node("Add", ["n", "h"], ["y"])],
        {"x": shape},
        ["y"],
        {**constants, **statistics(channels)},
    )
    assert_untouched(proto, fold_affine)


def test_a_convolution_that_is_an_output_is_left_alone() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = model([before, norm("h", "y")], {"x": shape}, ["y", "h"], {**constants, **statistics(channels)})
    assert_untouched(proto, fold_affine)


def test_training_outputs_are_left_alone() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    train = node(
        "BatchNormalization", ["h", "gamma", "beta", "mean", "var"], ["y", "running_mean", "running_var"]
    )
    train.attribute.append(onnx.helper.make_attribute("training_mode", 1))
    proto = model([before, train], {"x": shape}, ["y", "running_mean"], {**constants, **statistics(channels)})
    assert_untouched(proto, fold_affine)


def test_training_outputs_of_an_old_opset_are_left_alone() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    outputs = ["y", "mean_out", "var_out", "saved_mean", "saved_var"]
    train = node("BatchNormalization", ["h", "gamma", "beta", "mean", "var"], outputs)
    proto = model(
        [before, train],
        {"x": shape},
        {"y": (1, 5, 4, 4), "mean_out": (5,), "var_out": (5,)},
        {**constants, **statistics(channels)},
        opset=13,
    )
    assert_untouched(proto, fold_affine)


def test_computed_statistics_are_left_alone() -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = model(
        [before, node("Abs", ["v"], ["var"]), norm("h", "y")],
        {"x": shape, "v": (channels,)},
        ["y"],
        {**constants, **{k: v for k, v in statistics(channels).items() if k != "var"}},
    )
    assert_untouched(proto, fold_affine)


def test_a_computed_weight_is_left_alone() -> None:
    before, shape, _, channels = BEFORE["conv"]
    proto = model(
        [node("Abs", ["v"], ["w"]), before, norm("h", "y")],
        {"x": shape, "v": (5, 3, 3, 3)},
        ["y"],
        statistics(channels),
    )
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize(
    "before",
    [
        node("Gemm", ["x", "w", "b"], ["h"], alpha=2.0),
        node("Gemm", ["x", "w", "b"], ["h"], beta=0.5),
        node("Gemm", ["x", "w", "m"], ["h"]),
    ],
    ids=["alpha", "beta", "bias-a-row"],
)
def test_a_gemm_that_is_more_than_a_product_and_a_bias_is_left_alone(before: onnx.NodeProto) -> None:
    constants = {"w": weights(4, 5), "b": weights(5), "m": weights(2, 5), **statistics(5)}
    proto = model([before, norm("h", "y")], {"x": (2, 4)}, ["y"], constants)
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize("shape", [(2, 5), (5, 5)], ids=str)
def test_a_gemm_bias_that_is_a_whole_matrix_is_not_taken_for_a_vector(shape: tuple[int, int]) -> None:
    constants = {"w": weights(4, 5), "m": weights(*shape), **statistics(5)}
    proto = model(
        [node("Gemm", ["x", "w", "m"], ["h"]), norm("h", "y")], {"x": (shape[0], 4)}, ["y"], constants
    )
    assert_untouched(proto, fold_affine)


def test_a_gemm_bias_of_one_value_a_row_is_not_taken_for_one_a_channel() -> None:
    constants = {"w": weights(4, 5), "m": weights(5, 1), **statistics(5)}
    proto = model([node("Gemm", ["x", "w", "m"], ["h"]), norm("h", "y")], {"x": (5, 4)}, ["y"], constants)
    made, _ = applied(proto, fold_affine)
    assert_alike(proto, made)


def test_behind_anything_else_it_is_left_alone() -> None:
    proto = model([node("Relu", ["x"], ["h"]), norm("h", "y")], {"x": (1, 3, 4, 4)}, ["y"], statistics(3))
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize(
    "bad",
    [
        {"var": np.full(5, -1.0, np.float32)},
        {"var": np.full(5, np.nan, np.float32)},
        {"gamma": np.full(5, np.inf, np.float32)},
        {"gamma": np.full(5, 3e38, np.float32), "var": np.full(5, 1e-30, np.float32)},
        {"beta": np.full(5, np.nan, np.float32)},
    ],
    ids=["negative-variance", "nan-variance", "infinite-gamma", "overflow", "nan-beta"],
)
def test_statistics_that_fold_to_nothing_finite_are_left_alone(bad: dict[str, np.ndarray]) -> None:
    before, shape, constants, channels = BEFORE["conv"]
    proto = model(
        [before, norm("h", "y", epsilon=1e-12)],
        {"x": shape},
        ["y"],
        {**constants, **statistics(channels), **bad},
    )
    assert_untouched(proto, fold_affine)


@pytest.mark.parametrize("biased", [False, True])
def test_behind_a_matmul_only_its_bias_is_left(biased: bool) -> None:
    bias = [node("Add", ["h", "b"], ["a"])] if biased else []
    proto = model(
        [node("MatMul", ["x", "w"], ["h"]), *bias, norm("a" if biased else "h", "y")],
        {"x": (2, 4)},
        ["y"],
        {"w": weights(4, 5), **({"b": weights(5)} if biased else {}), **statistics(5)},
    )
    made, _ = applied(proto, infer_shapes, fold_affine)
    assert ops(made) == ["MatMul", "Add"]
    assert_alike(proto, made)
