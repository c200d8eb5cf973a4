"""Fusion barriers stand where the runtime would quantize a float node by itself."""

from __future__ import annotations

import onnx
import pytest

from qtool.plan.model import EditKind, Plan
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import drafted
from tests.targets import COMMON

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
GROUPED = [node("Conv", ["a", "wg"], ["f"], name="between", group=4, **CONV3)]
BETWEEN = {
    "Conv": GROUPED,
    "Conv+Relu": [*GROUPED[:0], node("Conv", ["a", "wg"], ["c"], name="between", group=4, **CONV3), node("Relu", ["c"], ["f"])],
    "Conv+Transpose": [node("Conv", ["a", "wg"], ["c"], name="between", group=4, **CONV3), node("Transpose", ["c"], ["f"], perm=[0, 1, 3, 2])],
    "Transpose, Conv": [node("Transpose", ["a"], ["t"], perm=[0, 1, 3, 2]), node("Conv", ["t", "wg"], ["f"], name="between", group=4, **CONV3)],
    "MaxPool, AveragePool": [node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2]), node("AveragePool", ["p"], ["f"], name="between", kernel_shape=[2, 2])],
    "MaxPool": [node("Sin", ["a"], ["s"]), node("MaxPool", ["s"], ["f"], name="between", kernel_shape=[2, 2])],
}  # fmt: skip


def graph(between: str, readers: int) -> onnx.ModelProto:
    """A convolution, a float node, and convolutions behind it."""
    nodes = [node("Conv", ["x", "w0"], ["a"], **CONV3), *BETWEEN[between]]
    outputs = [f"y{i}" for i in range(readers)]
    nodes += [node("Conv", ["f", f"w{i + 1}"], [name], **CONV3) for i, name in enumerate(outputs)]
    constants = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(readers + 1)}
    used = {i for n in nodes for i in n.input}
    constants |= {"wg": weights(16, 4, 3, 3)} if "wg" in used else {}
    return model(nodes, {"x": [1, 16, 8, 8]}, outputs, constants)


def _barriers(plan: Plan) -> list[str]:
    return [e.value for e in plan.edits if e.kind is EditKind.QUANTIZER_BARRIER]


@pytest.mark.parametrize("readers", [1, 2], ids=["one-reader", "two-readers"])
@pytest.mark.parametrize("between", BETWEEN)
def test_a_q_behind_a_float_op_that_the_runtime_would_fuse_has_a_barrier(between: str, readers: int) -> None:
    """All int8 consumers read the value through one Q."""
    plan = drafted(graph(between, readers))
    assert "between" not in plan.forms
    assert _barriers(plan) == ["f"]


def test_generic_has_no_barriers() -> None:
    assert not any(_barriers(drafted(graph(between, 1), "generic")) for between in BETWEEN)


@pytest.mark.parametrize("target", COMMON)
def test_an_int8_result_needs_no_barrier(target: str) -> None:
    nodes = [node("Conv", ["x", "w0"], ["a"], **CONV3), node("Conv", ["a", "w1"], ["y"], **CONV3)]
    constants = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(2)}
    plan = drafted(model(nodes, {"x": [1, 16, 8, 8]}, ["y"], constants), target)
    assert not _barriers(plan)
