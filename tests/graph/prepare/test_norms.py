"""A residual Add before a LayerNormalization is hidden from a slow fusion, with the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.norms import unfuse_norms
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, foreign, ops
from tests.graphs import model, node, rng, weights

SHAPE = (2, 4, 8)
STATS = {"gamma": weights(8) + 1, "beta": weights(8, seed=1)}
NORM = node("LayerNormalization", ["s", "gamma", "beta"], ["y"])
WRITTEN_OUT = [
    node("ReduceMean", ["s"], ["m"], axes=[-1]),
    node("Sub", ["s", "m"], ["d"]),
    node("Mul", ["d", "d"], ["d2"]),
    node("ReduceMean", ["d2"], ["v"], axes=[-1]),
    node("Add", ["v", "e"], ["ve"]),
    node("Sqrt", ["ve"], ["sd"]),
    node("Div", ["d", "sd"], ["y"]),
]


@pytest.mark.parametrize("other", [SHAPE, (8,), (1, 4, 8), (1,)], ids=str)
def test_a_residual_add_becomes_a_sum(other: tuple[int, ...]) -> None:
    proto = model([node("Add", ["x", "z"], ["s"]), NORM], {"x": SHAPE, "z": other}, ["y"], STATS)
    made, note = applied(proto, unfuse_norms)
    assert ops(made) == ["Sum", "LayerNormalization"]
    assert "1 Add" in note
    assert_alike(proto, made)


def test_before_a_norm_in_small_ops_too() -> None:
    proto = model(
        [node("Add", ["x", "z"], ["s"]), *WRITTEN_OUT],
        {"x": SHAPE, "z": SHAPE},
        ["y"],
        {"e": np.float32(1e-5)},
    )
    made, _ = applied(proto, unfuse_norms)
    assert ops(made)[0] == "Sum"
    assert ops(made).count("Add") == 1  # epsilon's
    assert_alike(proto, made)


def test_a_residual_that_is_read_again_and_an_output_keeps_its_name() -> None:
    proto = model(
        [node("Add", ["x", "z"], ["s"]), NORM, node("Add", ["y", "s"], ["r"])],
        {"x": SHAPE, "z": SHAPE},
        ["r", "s"],
        STATS,
    )
    made, _ = applied(proto, unfuse_norms)
    assert ops(made) == ["Sum", "LayerNormalization", "Add"]
    assert_alike(proto, made)


def test_an_add_of_a_constant_stays() -> None:
    proto = model(
        [node("Add", ["x", "b"], ["s"]), NORM], {"x": SHAPE}, ["y"], {**STATS, "b": weights(8, seed=2)}
    )
    assert_untouched(proto, unfuse_norms)


@pytest.mark.parametrize("reader", ["Relu", "ReduceMean", "Softmax"])
def test_an_add_before_anything_else_stays(reader: str) -> None:
    proto = model(
        [node("Add", ["x", "z"], ["s"]), node(reader, ["s"], ["y"])], {"x": SHAPE, "z": SHAPE}, ["y"]
    )
    assert_untouched(proto, unfuse_norms)


def test_an_add_of_integers_still_computes() -> None:
    kind = onnx.TensorProto.INT32
    proto = model(
        [
            node("Add", ["x", "z"], ["s"]),
            node("ReduceMean", ["s"], ["m"], axes=[-1]),
            node("Sub", ["s", "m"], ["y"]),
        ],
        {"x": SHAPE, "z": SHAPE},
        ["y"],
        input_type=kind,
        output_type=kind,
    )
    made, _ = applied(proto, unfuse_norms)
    feed = {k: rng(i).integers(0, 100, SHAPE).astype(np.int32) for i, k in enumerate("xz")}
    assert_alike(proto, made, [feed])


@pytest.mark.parametrize("op", ["Add", "LayerNormalization"])
def test_an_op_of_another_domain_with_the_same_name_is_no_reason(op: str) -> None:
    proto = model([node("Add", ["x", "z"], ["s"]), NORM], {"x": SHAPE, "z": SHAPE}, ["y"], STATS)
    assert_untouched(foreign(proto, op), unfuse_norms)
