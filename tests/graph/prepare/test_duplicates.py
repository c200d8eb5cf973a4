"""Equal constants become one, wherever they lie; the results stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.prepare.constants import lift_constants
from qtool.graph.prepare.duplicates import share_duplicates
from qtool.graph.prepare.names import unique_names
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    subgraph,
)
from tests.graphs import model, node, samples, weights

SIDE = 16  # 16 x 16 floats are the 1024 bytes from which sharing is worth it
SHAPE = {"x": (2, SIDE)}


def constants(made: ir.Model) -> list[ir.Value]:
    """The initializers of all graphs."""
    return [v for g in made.graphs() for v in g.initializers.values()]


def chain(*arrays: np.ndarray) -> onnx.ModelProto:
    """x times each matrix in turn."""
    values = ["x", *(f"v{i}" for i in range(len(arrays) - 1)), "y"]
    nodes = [node("MatMul", [values[i], f"w{i}"], [values[i + 1]]) for i in range(len(arrays))]
    return model(nodes, SHAPE, ["y"], {f"w{i}": a for i, a in enumerate(arrays)})


@pytest.mark.parametrize("copies", [2, 5])
def test_duplicates_are_merged(copies: int) -> None:
    proto = chain(*[weights(SIDE, SIDE)] * copies)
    made, note = applied(proto, share_duplicates)
    assert [v.name for v in constants(made)] == ["w0"]
    assert note.startswith(str(copies - 1))
    assert_alike(proto, made)


def test_each_group_of_duplicates_is_merged() -> None:
    a, b = weights(SIDE, SIDE), weights(SIDE, SIDE, seed=1)
    proto = chain(a, b, a, b, weights(SIDE, SIDE, seed=2))
    made, note = applied(proto, share_duplicates)
    assert [v.name for v in constants(made)] == ["w0", "w1", "w4"]
    assert note.startswith("2")
    assert_alike(proto, made)


def near(w: np.ndarray) -> np.ndarray:
    changed = w.copy()
    changed[0, 0] = np.nextafter(changed[0, 0], np.float32(1))
    return changed


def negative_zero(w: np.ndarray) -> np.ndarray:
    changed = np.zeros_like(w)
    changed[0, 0] = -0.0
    return changed


W = weights(SIDE, SIDE)
DIFFERENT = {
    "a bit": (W, near(W)),
    "the sign of a zero": (np.zeros_like(W), negative_zero(W)),
    "small": (weights(2, 2), weights(2, 2)),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_or_small_constants_stay(pair: tuple[np.ndarray, np.ndarray]) -> None:
    nodes = [node("Identity", [f"w{i}"], [f"y{i}"]) for i in range(2)]
    proto = model(nodes, {"x": (1,)}, ["y0", "y1"], dict(zip(("w0", "w1"), pair, strict=True)))
    assert_untouched(proto, share_duplicates)


def test_a_constant_that_can_be_fed_keeps_its_own() -> None:
    """An initializer that is an input is only a default."""
    proto = chain(W, W)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w1", 1, W.shape))
    assert_untouched(proto, share_duplicates)


def test_a_constant_that_is_an_output_keeps_its_own() -> None:
    proto = chain(W, W)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w1", 1, W.shape))
    assert_untouched(proto, share_duplicates)


def branches(then_w: np.ndarray, else_w: np.ndarray, main: np.ndarray | None = None) -> onnx.ModelProto:
    before = [] if main is None else [node("MatMul", ["x", "m"], ["h"])]
    source = "x" if main is None else "h"
    return graph_with_if(
        before,
        subgraph([node("MatMul", [source, "t"], ["a"])], {"a": (2, SIDE)}, {"t": then_w}),
        subgraph([node("MatMul", [source, "e"], ["b"])], {"b": (2, SIDE)}, {"e": else_w}),
        SHAPE,
        (2, SIDE),
        None if main is None else {"m": main},
    )


@pytest.mark.parametrize("main", [None, W], ids=["both-branches", "main-and-both-branches"])
def test_copies_in_several_graphs_meet_in_the_main_one(main: np.ndarray | None) -> None:
    proto = branches(W, W, main)
    made, _ = applied(proto, share_duplicates)
    (kept,) = constants(made)
    assert kept.graph is made.graph
    assert_alike(proto, made, both_branches(samples(2, **SHAPE)))


def test_copies_in_one_branch_stay_in_it() -> None:
    nodes = [node("MatMul", ["x", "t0"], ["h"]), node("MatMul", ["h", "t1"], ["a"])]
    proto = graph_with_if(
        [],
        subgraph(nodes, {"a": (2, SIDE)}, {"t0": W, "t1": W}),
        subgraph([node("Relu", ["x"], ["b"])], {"b": (2, SIDE)}),
        SHAPE,
        (2, SIDE),
    )
    made, _ = applied(proto, share_duplicates)
    (kept,) = constants(made)
    assert kept.graph is not made.graph
    assert_alike(proto, made, both_branches(samples(2, **SHAPE)))


def test_constants_of_branches_stay_in_them() -> None:
    made, note = applied(branches(W, near(W)), share_duplicates)
    assert note == ""
    assert all(v.graph is not made.graph for v in constants(made))


def test_constants_of_the_same_name_in_both_branches_can_be_lifted() -> None:
    """Exporters call a weight the same in both; names are made unique first, as prepare does."""
    proto = graph_with_if(
        [],
        subgraph([node("MatMul", ["x", "w"], ["a"])], {"a": (2, SIDE)}, {"w": W}),
        subgraph([node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["b"])], {"b": (2, SIDE)}, {"w": W}),
        SHAPE,
        (2, SIDE),
    )
    made, _ = applied(proto, unique_names, share_duplicates)
    assert len(constants(made)) == 1
    assert_alike(proto, made, both_branches(samples(2, **SHAPE)))


def test_constant_nodes_are_shared_once_they_are_lifted() -> None:
    tensor = onnx.numpy_helper.from_array(W, "value")
    nodes = [
        onnx.helper.make_node("Constant", [], ["w0"], name="c0", value=tensor),
        onnx.helper.make_node("Constant", [], ["w1"], name="c1", value=tensor),
        node("MatMul", ["x", "w0"], ["a"]),
        node("MatMul", ["a", "w1"], ["y"]),
    ]
    proto = model(nodes, SHAPE, ["y"])
    made, _ = applied(proto, lift_constants, share_duplicates)
    assert len(constants(made)) == 1
    assert_alike(proto, made)
