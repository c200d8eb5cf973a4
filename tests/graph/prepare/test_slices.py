"""A chain of Slices over different axes becomes one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.slices import merge_slices
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, samples

SHAPE = (2, 3, 8, 8)
End = 2**63 - 1


class Chain:
    """Nodes and constants of Slices, one behind the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def slice(
        self,
        source: str,
        result: str,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
        dtype: str = "int64",
    ) -> Chain:
        inputs = [source]
        for part, arguments in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)):
            inputs.append("" if arguments is None else f"{result}_{part}")
            if arguments is not None:
                self.constants[f"{result}_{part}"] = np.array(arguments, dtype)
        while not inputs[-1]:
            inputs.pop()
        self.nodes.append(node("Slice", inputs, [result]))
        return self

    def model(self, *more: onnx.NodeProto, outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
        return model([*self.nodes, *more], {"x": SHAPE}, outputs, self.constants)


MERGED = {
    "strided": Chain().slice("x", "h", [0], [End], [2], [2]).slice("h", "y", [1], [End], [3], [2]),
    "no-steps": Chain().slice("x", "h", [1], [5], [2]).slice("h", "y", [2], [7], [3]),
    "no-axes": Chain().slice("x", "h", [0, 1], [2, 3]).slice("h", "y", [1], [5], [3]),
    "steps-but-no-axes": Chain().slice("x", "h", [1], [2], None, [1]).slice("h", "y", [1], [5], [3], [2]),
    "one-with-steps": Chain().slice("x", "h", [1], [5], [2], [3]).slice("h", "y", [2], [7], [3]),
    "backwards": Chain().slice("x", "h", [7], [-End], [2], [-1]).slice("h", "y", [-3], [End], [3]),
    "int32": Chain()
    .slice("x", "h", [1], [5], [2], dtype="int32")
    .slice("h", "y", [2], [7], [3], dtype="int32"),
    "int32-and-int64": Chain()
    .slice("x", "h", [1], [5], [2], dtype="int32")
    .slice("h", "y", [2], [7], [3], dtype="int64"),
    "to-nothing": Chain().slice("x", "h", [5], [5], [2]).slice("h", "y", [2], [7], [3]),
}


@pytest.mark.parametrize("chain", MERGED.values(), ids=MERGED.keys())
def test_two_over_different_axes_become_one(chain: Chain) -> None:
    proto = chain.model()
    made, note = applied(proto, merge_slices)
    assert ops(made) == ["Slice"]
    assert "1 Slice" in note
    assert_alike(proto, made)


def test_three_become_one() -> None:
    chain = (
        Chain()
        .slice("x", "a", [0], [1], [0])
        .slice("a", "b", [1], [3], [1])
        .slice("b", "y", [0], [8], [3], [2])
    )
    made, _ = applied(chain.model(), merge_slices)
    assert ops(made) == ["Slice"]
    assert_alike(chain.model(), made)


def test_focus_as_exporters_write_it_is_four_slices() -> None:
    chain = Chain()
    for i, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        chain.slice("x", f"r{i}", [row], [End], [2], [2]).slice(f"r{i}", f"q{i}", [column], [End], [3], [2])
    proto = chain.model(node("Concat", [f"q{i}" for i in range(4)], ["y"], axis=1))
    made, _ = applied(proto, merge_slices)
    assert ops(made) == ["Slice"] * 4 + ["Concat"]
    assert_alike(proto, made)


def test_inside_a_branch_they_are_merged_there() -> None:
    chain = Chain().slice("x", "h", [1], [5], [2]).slice("h", "t", [2], [6], [3])
    proto = graph_with_if(
        [],
        subgraph(chain.nodes, {"t": (2, 3, 4, 4)}, chain.constants),
        subgraph([node("MaxPool", ["x"], ["e"], kernel_shape=[5, 5])], {"e": (2, 3, 4, 4)}),
        {"x": SHAPE},
        (2, 3, 4, 4),
    )
    made, note = applied(proto, merge_slices)
    assert "1 Slice" in note
    assert_alike(proto, made, both_branches(samples(2, x=SHAPE)))


def test_across_a_branchs_border_they_stay() -> None:
    outer = Chain().slice("x", "h", [1], [5], [2])
    inner = Chain().slice("h", "t", [2], [6], [3])
    proto = graph_with_if(
        outer.nodes,
        subgraph(inner.nodes, {"t": (2, 3, 4, 4)}, inner.constants),
        subgraph([node("MaxPool", ["x"], ["e"], kernel_shape=[5, 5])], {"e": (2, 3, 4, 4)}),
        {"x": SHAPE},
        (2, 3, 4, 4),
        outer.constants,
    )
    assert_untouched(proto, merge_slices)


STAY = {
    "the-same-axis": Chain().slice("x", "h", [1], [7], [2]).slice("h", "y", [1], [3], [2]),
    "one-axis-in-common": Chain().slice("x", "h", [0, 1], [2, 7], [0, 2]).slice("h", "y", [1], [3], [2]),
    "axes-from-the-end": Chain().slice("x", "h", [1], [7], [-1]).slice("h", "y", [1], [3], [2]),
    "later-axes-from-the-end": Chain().slice("x", "h", [1], [7], [3]).slice("h", "y", [1], [3], [-1]),
}


@pytest.mark.parametrize("chain", STAY.values(), ids=STAY.keys())
def test_axes_that_may_meet_stay(chain: Chain) -> None:
    assert_untouched(chain.model(), merge_slices)


def test_a_first_result_with_another_reader_stays() -> None:
    chain = Chain().slice("x", "h", [1], [5], [2]).slice("h", "g", [0], [8], [3], [1])
    assert_untouched(chain.model(node("Add", ["g", "h"], ["y"])), merge_slices)


@pytest.mark.parametrize(("which", "part"), [("h", "starts"), ("y", "ends"), ("h", "axes"), ("y", "steps")])
def test_parameters_that_are_computed_stay(which: str, part: str) -> None:
    chain = Chain().slice("x", "h", [1], [5], [2], [1]).slice("h", "y", [2], [7], [3], [1])
    name = f"{which}_{part}"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", [f"{name}_fed"], [name], name="abs"), *chain.nodes],
        "g",
        [
            onnx.helper.make_tensor_value_info("x", 1, SHAPE),
            onnx.helper.make_tensor_value_info(f"{name}_fed", onnx.TensorProto.INT64, [1]),
        ],
        [onnx.helper.make_tensor_value_info("y", 1, [None] * 4)],
        [onnx.numpy_helper.from_array(v, k) for k, v in chain.constants.items() if k != name],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert_untouched(proto, merge_slices)


def test_shared_parameters_are_not_changed() -> None:
    proto = model(
        [
            node("Slice", ["x", "one", "five", "two"], ["h"]),
            node("Slice", ["h", "one", "five", "three"], ["y"]),
            node("Slice", ["x", "one", "five", "two"], ["z"]),
        ],
        {"x": SHAPE},
        ["y", "z"],
        {k: np.array([v]) for k, v in {"one": 1, "five": 5, "two": 2, "three": 3}.items()},
    )
    made, _ = applied(proto, merge_slices)
    assert ops(made) == ["Slice", "Slice"]
    assert_alike(proto, made)
