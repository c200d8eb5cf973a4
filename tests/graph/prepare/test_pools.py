"""A pool over the whole map is made a global one, and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.pools import normalize_pools, replace_means
from qtool.graph.prepare.shapes import infer_shapes
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graphs import model, node, rng

POOLS = ["AveragePool", "MaxPool"]


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 4, 4), {"kernel_shape": [4, 4]}),
        ((2, 3, 4, 4), {"kernel_shape": [4, 4], "strides": [2, 3]}),
        ((2, 3, 4, 4), {"kernel_shape": [4, 4], "pads": [0, 0, 0, 0]}),
        ((2, 3, 4, 4), {"kernel_shape": [4, 4], "auto_pad": "VALID"}),
        ((2, 3, 5, 7), {"kernel_shape": [5, 7]}),
        ((2, 3, 6), {"kernel_shape": [6]}),
        ((1, 2, 3, 4, 5), {"kernel_shape": [3, 4, 5]}),
        ((1, 2, 1, 1), {"kernel_shape": [1, 1]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", POOLS)
def test_a_window_over_the_whole_map_is_global(op: str, shape: tuple[int, ...], attributes: dict) -> None:
    proto = model([node(op, ["x"], ["y"], **attributes)], {"x": shape}, ["y"])
    made, note = applied(proto, infer_shapes, normalize_pools)
    assert ops(made) == [f"Global{op}"]
    assert "1 pool" in note
    assert_alike(proto, made)


def test_an_open_batch_does_not_hide_it() -> None:
    proto = model([node("AveragePool", ["x"], ["y"], kernel_shape=[4, 4])], {"x": ("n", 3, 4, 4)}, ["y"])
    made, _ = applied(proto, infer_shapes, normalize_pools)
    assert ops(made) == ["GlobalAveragePool"]
    assert_alike(proto, made)


@pytest.mark.parametrize("include", [0, 1])
def test_counting_pads_makes_no_difference_without_pads(include: int) -> None:
    proto = model(
        [node("AveragePool", ["x"], ["y"], kernel_shape=[4, 4], count_include_pad=include)],
        {"x": (1, 3, 4, 4)},
        ["y"],
    )
    made, _ = applied(proto, infer_shapes, normalize_pools)
    assert ops(made) == ["GlobalAveragePool"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 3, 8, 8), {"kernel_shape": [4, 4]}),
        ((1, 3, 4, 8), {"kernel_shape": [4, 4]}),
        ((1, 3, 4, 4), {"kernel_shape": [4, 4], "pads": [1, 1, 1, 1]}),
        ((1, 3, 4, 4), {"kernel_shape": [4, 4], "pads": [0, 0, 1, 0]}),
        ((1, 3, 4, 4), {"kernel_shape": [4, 4], "auto_pad": "SAME_UPPER"}),
        ((1, 3, "h", "w"), {"kernel_shape": [4, 4]}),
        ((1, 3, 4, "w"), {"kernel_shape": [4, 4]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", POOLS)
def test_a_window_over_less_or_more_than_the_map_stays(
    op: str, shape: tuple[int | str, ...], attributes: dict
) -> None:
    proto = model([node(op, ["x"], ["y"], **attributes)], {"x": shape}, ["y"])
    assert_untouched(proto, infer_shapes, normalize_pools)


def test_a_dilated_window_stays() -> None:
    proto = model(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[4, 4], dilations=[2, 2])], {"x": (1, 3, 8, 8)}, ["y"]
    )
    assert_untouched(proto, infer_shapes, normalize_pools)


def test_a_max_pool_that_gives_its_indices_stays() -> None:
    graph = onnx.helper.make_graph(
        [node("MaxPool", ["x"], ["y", "i"], kernel_shape=[4, 4])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 4, 4])],
        [
            onnx.helper.make_tensor_value_info("y", 1, [1, 3, 1, 1]),
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [1, 3, 1, 1]),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert_untouched(proto, infer_shapes, normalize_pools)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_an_integer_max_pool_still_runs(dtype: str) -> None:
    kind = getattr(onnx.TensorProto, dtype.upper())
    proto = model(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[4, 4])],
        {"x": (1, 3, 4, 4)},
        ["y"],
        input_type=kind,
        output_type=kind,
    )
    made, _ = applied(proto, infer_shapes, normalize_pools)
    assert_alike(proto, made, [{"x": rng(1).integers(0, 100, (1, 3, 4, 4)).astype(dtype)}])


def test_other_pools_stay() -> None:
    proto = model([node("LpPool", ["x"], ["y"], kernel_shape=[4, 4])], {"x": (1, 3, 4, 4)}, ["y"])
    assert_untouched(proto, infer_shapes, normalize_pools)


def test_dilations_of_one_are_left_out() -> None:
    """QLinearAveragePool, which onnxruntime puts between a DQ and a Q, knows none."""
    proto = model(
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1])],
        {"x": (1, 3, 8, 8)},
        ["y"],
        opset=19,
    )
    made, _ = applied(proto, infer_shapes, normalize_pools)
    assert list(made.graph.node(0).attributes) == ["kernel_shape"]


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]], ids=str)
def test_the_mean_over_the_map_is_a_pool(axes: list[int], keep: int) -> None:
    nodes = [node("ReduceMean", ["x", "a"], ["y"], keepdims=keep)]
    proto = model(nodes, {"x": ("n", 3, 4, 5)}, ["y"], {"a": np.array(axes)}, opset=18)
    made, note = applied(proto, infer_shapes, replace_means)
    assert ops(made) == ["GlobalAveragePool", "Flatten"][: 2 - keep]
    assert "1 mean" in note
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("shape", "axes", "norm"),
    [((1, 3, 4, 5), [1, 2, 3], 0), ((1, 3, 4, 5), [3], 0), ((1, 3, 8), [2], 0), ((1, 3, 4, 5), [2, 3], 1)],
    ids=str,
)
def test_another_mean_stays(shape: tuple[int, ...], axes: list[int], norm: int) -> None:
    nodes = [node("ReduceMean", ["x"], ["m"], axes=axes), node("Sub", ["x", "m"], ["y"])][: 1 + norm]
    proto = model(nodes, {"x": shape}, ["y" if norm else "m"], opset=13)
    assert_untouched(proto, infer_shapes, replace_means)
