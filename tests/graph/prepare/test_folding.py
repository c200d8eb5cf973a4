"""Constants that are moved, cast or computed become one constant; so do the shapes that are known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph.prepare.folding import fold_constants
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.unused import drop_unused
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import Shape, model, node, samples, weights

PASSES = (infer_shapes, fold_constants)
W = weights(4, 6)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# name -> (nodes from w to h, further constants)
MOVES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "transpose": ([node("Transpose", ["w"], ["h"], perm=[1, 0])], {}),
    "reshape": ([node("Reshape", ["w", "s"], ["h"])], {"s": ints(2, -1)}),
    "reshape-keeping-an-axis": ([node("Reshape", ["w", "s"], ["h"])], {"s": ints(0, 2, 3)}),
    "unsqueeze": ([node("Unsqueeze", ["w", "s"], ["h"])], {"s": ints(0)}),
    "squeeze": (
        [node("Unsqueeze", ["w", "s"], ["u"]), node("Squeeze", ["u", "s"], ["h"])],
        {"s": ints(1)},
    ),
    "flatten": ([node("Flatten", ["w"], ["h"], axis=0)], {}),
    "slice": ([node("Slice", ["w", "a", "b"], ["h"])], {"a": ints(1), "b": ints(3)}),
    "slice-backwards": (
        [node("Slice", ["w", "a", "b", "", "d"], ["h"])],
        {"a": ints(-1), "b": ints(-100), "d": ints(-1)},
    ),
    "concat": ([node("Concat", ["w", "w"], ["h"], axis=1)], {}),
    "identity": ([node("Identity", ["w"], ["h"])], {}),
    "gather": ([node("Gather", ["w", "i"], ["h"], axis=1)], {"i": ints(5, 0, -1)}),
    "gather-one": ([node("Gather", ["w", "i"], ["h"])], {"i": np.array(2)}),
    "expand": ([node("Expand", ["w", "s"], ["h"])], {"s": ints(2, 4, 6)}),
    "tile": ([node("Tile", ["w", "s"], ["h"])], {"s": ints(2, 1)}),
    "a-chain": (
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Reshape", ["t", "s"], ["h"])],
        {"s": ints(3, 8)},
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_constant_that_is_moved_is_computed(name: str) -> None:
    nodes, constants = MOVES[name]
    proto = model([*nodes, node("Mul", ["x", "h"], ["y"])], {"x": (1,)}, ["y"], {"w": W, **constants})
    made, note = applied(proto, *PASSES)
    assert ops(made) == ["Mul"]
    assert str(len(nodes)) in note
    assert_alike(proto, made, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int32", "uint8", "bool"])
def test_any_type_keeps_its_type(dtype: str) -> None:
    array = (W * 100).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph(
        [node("Transpose", ["w"], ["h"], perm=[1, 0]), node("Reshape", ["h", "s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("s", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", kind, [24])],
        [numpy_helper.from_array(array, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["Reshape"]
    assert_alike(proto, made, [{"s": ints(24)}], rtol=0)


def test_strings_are_moved_or_left_but_never_break() -> None:
    graph = helper.make_graph(
        [node("Reshape", ["words", "s"], ["h"]), node("Gather", ["h", "i"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1, 2])],
        [
            helper.make_tensor("words", TensorProto.STRING, [4], [b"a", b"b", b"c", b"d"]),
            numpy_helper.from_array(ints(2, 2), "s"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made, _ = applied(proto, *PASSES)
    assert_alike(proto, made, [{"i": ints(1)}])


def test_no_elements_and_no_axes_are_moved_too() -> None:
    proto = model(
        [
            node("Reshape", ["none", "s"], ["h"], allowzero=1),
            node("Squeeze", ["one"], ["k"]),
            node("Concat", ["x", "h"], ["c"], axis=0),
            node("Mul", ["c", "k"], ["y"]),
        ],
        {"x": (2, 3)},
        ["y"],
        {"none": np.zeros((3, 0), np.float32), "s": ints(0, 3), "one": np.full((1, 1), 2, np.float32)},
    )
    made, _ = applied(proto, *PASSES)
    assert "Squeeze" not in ops(made)
    assert_alike(proto, made)


def test_a_constant_that_others_read_stays_for_them() -> None:
    proto = model(
        [
            node("Transpose", ["w"], ["h"], perm=[1, 0]),
            node("MatMul", ["x", "h"], ["m"]),
            node("MatMul", ["m", "w"], ["y"]),
        ],
        {"x": (2, 6)},
        ["y"],
        {"w": W},
    )
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["MatMul", "MatMul"]
    assert_alike(proto, made)


def test_inside_a_branch_an_outer_constant_is_moved_there() -> None:
    proto = graph_with_if(
        [],
        subgraph(
            [node("Transpose", ["w"], ["h"], perm=[1, 0]), node("MatMul", ["x", "h"], ["t"])], {"t": (2, 4)}
        ),
        subgraph(
            [node("Transpose", ["w"], ["h"], perm=[1, 0]), node("MatMul", ["z", "h"], ["e"])], {"e": (2, 4)}
        ),
        {"x": (2, 6), "z": (2, 6)},
        (2, 4),
        {"w": W},
    )
    made, note = applied(proto, *PASSES)
    assert note
    assert_alike(proto, made, both_branches(samples(2, x=(2, 6), z=(2, 6))))


def test_one_that_makes_a_branchs_output_still_computes() -> None:
    proto = graph_with_if(
        [],
        subgraph([node("Transpose", ["w"], ["t"], perm=[1, 0])], {"t": (6, 4)}),
        subgraph([node("Relu", ["x"], ["e"])], {"e": (6, 4)}),
        {"x": (6, 4)},
        (6, 4),
        {"w": W},
    )
    made, _ = applied(proto, *PASSES)
    assert_alike(proto, made, both_branches(samples(2, x=(6, 4))))


STAY: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[str]]] = {
    "an-output": ([node("Transpose", ["w"], ["y"], perm=[1, 0]), node("Relu", ["x"], ["z"])], {}, ["y", "z"]),
    "an-input-that-is-fed": ([node("Transpose", ["x"], ["y"])], {}, ["y"]),
    "one-operand-that-is-fed": ([node("Concat", ["w", "x"], ["y"], axis=0)], {}, ["y"]),
    "arithmetic": ([node("Relu", ["w"], ["h"]), node("Add", ["x", "h"], ["y"])], {}, ["y"]),
    "more-than-one-result": (
        [
            node("Split", ["w"], ["a", "b"], axis=0),
            node("Add", ["a", "b"], ["h"]),
            node("Concat", ["h", "x"], ["y"], axis=0),
        ],
        {},
        ["y"],
    ),
    "a-result-that-would-swell-the-file": (
        [node("Expand", ["w", "s"], ["h"]), node("Mul", ["k", "h"], ["y"])],
        {"s": ints(1000, 4, 6)},
        ["y"],
    ),
    "a-tile-that-would-swell-the-file": (
        [node("Tile", ["w", "s"], ["h"]), node("Mul", ["k", "h"], ["y"])],
        {"s": ints(1000, 1)},
        ["y"],
    ),
}


@pytest.mark.parametrize(("nodes", "constants", "outputs"), STAY.values(), ids=STAY.keys())
def test_everything_else_stays(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: list[str]
) -> None:
    read = {i for n in nodes for i in n.input}
    held = {k: v for k, v in {"w": W, **constants}.items() if k in read}
    fed = {k: v for k, v in {"x": (4, 6), "k": (1,)}.items() if k in read}
    assert_untouched(model(nodes, fed, outputs, held), *PASSES)


def test_a_move_of_terabytes_is_not_tried() -> None:
    proto = model(
        [
            node("Expand", ["w", "s"], ["h"]),
            node("ReduceSum", ["h"], ["r"], keepdims=0),
            node("Add", ["x", "r"], ["y"]),
        ],
        {"x": (1,)},
        ["y"],
        {"w": np.float32(1), "s": ints(1 << 20, 1 << 20)},
    )
    assert_untouched(proto, *PASSES)


def test_impossible_moves_are_left_to_the_runtime() -> None:
    proto = model(
        [node("Gather", ["w", "i"], ["h"]), node("Add", ["x", "h"], ["y"])],
        {"x": (6,)},
        ["y"],
        {"w": W, "i": np.array(99)},
    )
    assert_untouched(proto, *PASSES)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_a_cast_of_a_constant_is_computed(dtype: str) -> None:
    proto = model(
        [node("Cast", ["w"], ["h"], to=TensorProto.FLOAT), node("Mul", ["x", "h"], ["y"])],
        {"x": (1,)},
        ["y"],
        {"w": weights(64, 64).astype(dtype)},
    )
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["Mul"]
    assert_alike(proto, made, rtol=0)


def test_a_cast_to_the_type_of_another_value_is_computed() -> None:
    proto = model(
        [node("CastLike", ["w", "x"], ["h"]), node("MatMul", ["x", "h"], ["y"])],
        {"x": (2, 4)},
        ["y"],
        {"w": W.astype(np.float16)},
    )
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["MatMul"]
    assert_alike(proto, made, rtol=0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_a_weight_that_is_stored_as_integers_stays(dtype: str) -> None:
    proto = model(
        [node("Cast", ["w"], ["h"], to=TensorProto.FLOAT), node("Mul", ["x", "h"], ["y"])],
        {"x": (1,)},
        ["y"],
        {"w": (W * 100).astype(dtype)},
    )
    assert_untouched(proto, *PASSES)


def test_a_cast_of_what_no_integer_holds_stays() -> None:
    proto = model(
        [
            node("Cast", ["w"], ["h"], to=TensorProto.INT64),
            node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["x", "f"], ["y"]),
        ],
        {"x": (1,)},
        ["y"],
        {"w": np.array([1e30, np.nan], np.float32)},
    )
    assert_untouched(proto, *PASSES)


def size_of(*nodes: onnx.NodeProto, shape: Shape = ("n", 3, 8)) -> onnx.ModelProto:
    """x and an Expand to a shape that nodes compute from the Shape of x."""
    constants = {
        "one": ints(1),
        "two": ints(2),
        "far": ints(99),
        "half": np.float32(0.5),
        "three": ints(3),
        "k": np.float32(2),
    }
    read = {i for n in nodes for i in n.input} | {"k"}
    return model(
        [
            node("Shape", ["x"], ["s"]),
            *nodes,
            node("Expand", ["k", "to"], ["e"]),
            node("Identity", ["x"], ["y"]),
        ],
        {"x": shape},
        ["y", "e"],
        {k: v for k, v in constants.items() if k in read},
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gather", ["s", "two"], ["to"])],
        [node("Slice", ["s", "one", "far"], ["to"])],
        [node("Gather", ["s", "two"], ["g"]), node("Div", ["g", "three"], ["to"])],
        [
            node("Slice", ["s", "one", "far"], ["g"]),
            node("Cast", ["g"], ["c"], to=TensorProto.FLOAT),
            node("Mul", ["c", "half"], ["m"]),
            node("Floor", ["m"], ["f"]),
            node("Cast", ["f"], ["to"], to=TensorProto.INT64),
        ],
        [node("Gather", ["s", "one"], ["g"]), node("Concat", ["g", "two", "g"], ["to"], axis=0)],
    ],
    ids=["gather", "slice", "quotient", "resize", "concat"],
)
def test_lengths_that_are_known_are_computed(nodes: list[onnx.NodeProto]) -> None:
    proto = size_of(*nodes)
    made, _ = applied(proto, *PASSES, drop_unused)
    assert set(ops(made)) == {"Expand", "Identity"}
    assert_alike(proto, made, rtol=0)


@pytest.mark.parametrize("index", ["zero", "range"])
def test_lengths_that_are_not_known_stay(index: str) -> None:
    picks = {
        "zero": node("Slice", ["s", "one", "far"], ["to"]),
        "range": node("Gather", ["s", "two"], ["to"]),
    }
    assert_untouched(size_of(picks[index], shape=(2, "n", "m")), *PASSES)
