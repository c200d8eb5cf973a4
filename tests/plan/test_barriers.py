"""Where the runtime would quantize on its own: a Max keeps the Q away from what it would take in."""

from __future__ import annotations

import onnx
import pytest

from qtool.plan.model import EditKind, Plan
from qtool.tables.targets import TARGETS
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import drafted

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
GROUPED = [node("Conv", ["a", "wg"], ["f"], name="between", group=4, **CONV3)]
BETWEEN = {
    "Conv": GROUPED,
    "Conv+Relu": [*GROUPED[:0], node("Conv", ["a", "wg"], ["c"], name="between", group=4, **CONV3), node("Relu", ["c"], ["f"])],
    "Conv+Transpose": [node("Conv", ["a", "wg"], ["c"], name="between", group=4, **CONV3), node("Transpose", ["c"], ["f"], perm=[0, 1, 3, 2])],
    "MaxPool": [node("Sin", ["a"], ["s"]), node("MaxPool", ["s"], ["f"], name="between", kernel_shape=[2, 2])],
}  # fmt: skip


def graph(between: str, readers: int) -> onnx.ModelProto:
    """conv, what stays float, and convolutions that read it."""
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
@pytest.mark.parametrize("target", [t for t, row in TARGETS.items() if row.onnxruntime])
def test_a_q_behind_a_float_op_that_the_runtime_would_take_in_is_guarded(
    target: str, between: str, readers: int
) -> None:
    """However many int8 nodes read the value, they read it through one Q."""
    plan = drafted(graph(between, readers), target)
    assert "between" not in plan.forms
    assert _barriers(plan) == ["f"]


@pytest.mark.parametrize("between", BETWEEN)
def test_generic_has_no_guards(between: str) -> None:
    """They answer habits of onnxruntime alone."""
    assert not _barriers(drafted(graph(between, 1), "generic"))


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_made_in_int8_needs_no_guard(target: str) -> None:
    nodes = [node("Conv", ["x", "w0"], ["a"], **CONV3), node("Conv", ["a", "w1"], ["y"], **CONV3)]
    constants = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(2)}
    plan = drafted(model(nodes, {"x": [1, 16, 8, 8]}, ["y"], constants), target)
    assert not _barriers(plan)
