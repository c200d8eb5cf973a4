"""A chain of reshapes is one, or none; what moves or picks values is none of its business."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.graph.prepare.constants import lift_constants
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.prepare.views import merge_views
from tests.graph.prepare.alike import (
    all_ops,
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, samples
from tests.tiers import examples

Shape = Sequence[int | str]


def chain(x: Shape, *steps: str | tuple[str, Sequence[int]], end: bool = True) -> onnx.ModelProto:
    """Steps on x, each an op and its shape, axes, axis or perm; then Relu -> y, unless the last makes y."""
    nodes, constants, value = [], {}, "x"
    for index, step in enumerate(steps):
        op, numbers = (step, ()) if isinstance(step, str) else step
        out = "y" if not end and index == len(steps) - 1 else f"v{index}"
        if op == "Transpose":
            nodes.append(node(op, [value], [out], **({"perm": list(numbers)} if numbers else {})))
        elif op == "Flatten":
            nodes.append(node(op, [value], [out], axis=numbers[0] if numbers else 1))
        elif numbers:
            constants[f"c{index}"] = np.asarray(numbers, np.int64)
            nodes.append(node(op, [value, f"c{index}"], [out]))
        else:
            nodes.append(node(op, [value], [out]))
        value = out
    if end:
        nodes.append(node("Relu", [value], ["y"]))
    return model(nodes, {"x": list(x)}, ["y"], constants)


PASSES = (infer_shapes, merge_views)
# x, steps, and the op types that are left before the Relu.
MERGED: dict[str, tuple[Shape, list[str | tuple[str, Sequence[int]]], list[str]]] = {
    "there-and-back": ((2, 6), [("Reshape", [3, 4]), ("Reshape", [2, 6])], []),
    "to-its-own-shape": ((2, 6), [("Reshape", [2, 6])], []),
    "to-its-own-shape-by--1": ((2, 6), [("Reshape", [2, -1])], []),
    "two-reshapes": ((2, 6), [("Reshape", [3, 4]), ("Reshape", [12])], ["Reshape"]),
    "three-reshapes": ((2, 6), [("Reshape", [3, 4]), ("Reshape", [12]), ("Reshape", [4, 3])], ["Reshape"]),
    "unsqueeze-squeeze": ((2, 6), [("Unsqueeze", [1]), ("Squeeze", [1])], []),
    "squeeze-unsqueeze": ((2, 1, 6), [("Squeeze", [1]), ("Unsqueeze", [0])], ["Reshape"]),
    "squeeze-all": ((1, 6, 1), ["Squeeze", ("Unsqueeze", [0])], ["Reshape"]),
    "flatten-flat": ((2, 6), ["Flatten"], []),
    "unsqueeze-flatten": ((2, 6), [("Unsqueeze", [2]), "Flatten"], []),
    "flatten-of-two-axes": ((2, 3, 4), [("Flatten", [2]), ("Reshape", [2, 12])], ["Reshape"]),
    "transpose-of-ones": ((2, 1, 6), [("Transpose", [1, 0, 2])], ["Transpose"]),
    "transpose-of-ones-and-back": ((2, 1, 6), [("Transpose", [1, 0, 2]), ("Transpose", [1, 0, 2])], []),
    "transpose-of-ones-and-squeeze": ((2, 1, 6), [("Transpose", [1, 0, 2]), ("Squeeze", [0])], ["Reshape"]),
    "transpose-backwards-of-one-long-axis": ((1, 6), ["Transpose", ("Reshape", [6])], ["Reshape"]),
    "open-axis-there-and-back": (("N", 6), [("Unsqueeze", [1]), ("Squeeze", [1])], []),
    "open-axis": (("N", 1, 6), [("Squeeze", [1]), ("Unsqueeze", [2])], ["Reshape"]),
}


@pytest.mark.parametrize(("x", "steps", "left"), MERGED.values(), ids=MERGED)
def test_views_of_views_are_views_of_the_tensor(
    x: Shape, steps: list[str | tuple[str, Sequence[int]]], left: list[str]
) -> None:
    proto = chain(x, *steps)
    made, note = applied(proto, *PASSES)
    assert bool(note) == (left != ["Transpose"])
    drop_unused(made)
    assert ops(made) == [*left, "Relu"]
    assert_alike(proto, made)


KEPT: dict[str, onnx.ModelProto] = {
    "one-reshape": chain((2, 6), ("Reshape", [3, 4])),
    "a-transpose-that-moves": chain((2, 3, 4), ("Transpose", [0, 2, 1])),
    "transposes-that-move": chain((2, 3, 4), ("Transpose", [0, 2, 1]), ("Transpose", [0, 2, 1])),
    "a-transpose-between": chain((2, 6), ("Reshape", [3, 4]), ("Transpose", [1, 0]), ("Reshape", [2, 6])),
    "a-relu-between": chain((2, 6), ("Reshape", [3, 4]), "Relu", ("Reshape", [2, 6])),
    "no-known-rank": chain(("A", "B"), ("Reshape", [0, -1])),
    "an-empty-axis": chain((0, 6), ("Unsqueeze", [0]), ("Unsqueeze", [0])),
    "an-output": chain((2, 6), ("Reshape", [2, 6]), end=False),
}


@pytest.mark.parametrize("proto", KEPT.values(), ids=KEPT)
def test_other_nodes_between_views_stay(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, *PASSES)


def test_two_open_axes_are_more_than_a_reshape_can_say() -> None:
    proto = chain(("A", 1, "B", 2), ("Squeeze", [1]), ("Unsqueeze", [3]))
    made, note = applied(proto, *PASSES)
    assert note == ""
    assert_alike(proto, made, [{"x": samples(1, x=(3, 1, 5, 2))[0]["x"]}])


def test_an_output_is_made_from_the_tensor_by_a_node_of_its_own() -> None:
    proto = chain((2, 6), ("Reshape", [3, 4]), ("Reshape", [12]), end=False)
    made, _ = applied(proto, *PASSES)
    (last,) = [n for n in made.graph if n.outputs[0].is_graph_output()]
    assert last.inputs[0] is made.graph.inputs[0]
    assert_alike(proto, made)


def test_every_reader_along_the_chain_keeps_its_shape() -> None:
    nodes = [
        node("Reshape", ["x", "a"], ["v"]),
        node("Reshape", ["v", "b"], ["w"]),
        node("Reshape", ["w", "c"], ["u"]),
        node("Relu", ["v"], ["y0"]),
        node("Relu", ["w"], ["y1"]),
        node("Relu", ["u"], ["y2"]),
    ]
    shapes = {"a": [3, 4], "b": [12], "c": [2, 6]}
    constants = {k: np.asarray(v, np.int64) for k, v in shapes.items()}
    proto = model(nodes, {"x": (2, 6)}, ["y0", "y1", "y2"], constants)
    made, _ = applied(proto, *PASSES)
    assert all(
        n.inputs[0] is made.graph.inputs[0]
        for n in made.graph
        if n.op_type == "Reshape" and n.outputs[0].uses()
    )
    assert_alike(proto, made)


def test_a_reader_in_a_branch_reads_the_tensor_itself() -> None:
    proto = graph_with_if(
        [node("Unsqueeze", ["x", "one"], ["v"]), node("Squeeze", ["v", "one"], ["h"])],
        subgraph([node("Relu", ["h"], ["t"])], {"t": (2, 3)}),
        subgraph([node("Squeeze", ["v", "one"], ["s"]), node("Sigmoid", ["s"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
        {"one": np.array([1], np.int64)},
    )
    made, note = applied(proto, *PASSES)
    assert note
    assert "Relu" in all_ops(made)
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_the_shape_may_come_from_a_constant_node() -> None:
    shape = onnx.numpy_helper.from_array(np.array([3, 4], np.int64), "value")
    back = onnx.numpy_helper.from_array(np.array([2, 6], np.int64), "value")
    nodes = [
        onnx.helper.make_node("Constant", [], ["a"], name="ca", value=shape),
        onnx.helper.make_node("Constant", [], ["b"], name="cb", value=back),
        node("Reshape", ["x", "a"], ["v"]),
        node("Reshape", ["v", "b"], ["w"]),
        node("Relu", ["w"], ["y"]),
    ]
    proto = model(nodes, {"x": (2, 6)}, ["y"])
    made, _ = applied(proto, lift_constants, *PASSES)
    (relu,) = [n for n in made.graph if n.op_type == "Relu"]
    assert relu.inputs[0] is made.graph.inputs[0]
    assert_alike(proto, made)


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Two to five views of a small tensor with axes of length 1."""
    shape = draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=4))
    x, steps = list(shape), []
    for _ in range(draw(st.integers(2, 5))):
        ones = [i for i, d in enumerate(shape) if d == 1]
        op = draw(
            st.sampled_from(["Reshape", "Unsqueeze", "Transpose", "Flatten", *(["Squeeze"] if ones else [])])
        )
        if op == "Reshape":
            shape = draw(st.permutations(shape))
            steps.append((op, list(shape)))
        elif op == "Unsqueeze":
            axis = draw(st.integers(0, len(shape)))
            steps.append((op, [axis]))
            shape = [*shape[:axis], 1, *shape[axis:]]
        elif op == "Squeeze":
            axis = draw(st.sampled_from(ones))
            steps.append((op, [axis]))
            shape = [*shape[:axis], *shape[axis + 1 :]]
        elif op == "Flatten":
            axis = draw(st.integers(0, len(shape)))
            steps.append((op, [axis]))
            shape = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        else:
            perm = draw(st.permutations(range(len(shape))))
            steps.append((op, list(perm)))
            shape = [shape[i] for i in perm]
        if not shape:
            break
    return chain(x, *steps)


@settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
@given(chains())
def test_whatever_the_chain_the_result_is_the_same(proto: onnx.ModelProto) -> None:
    made, _ = applied(proto, *PASSES)
    assert_alike(proto, made)
