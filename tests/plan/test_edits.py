"""Graph edits of a plan: the bias edits, and edits of a damaged plan are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qtool.plan.candidate import Candidate
from qtool.plan.model import EditKind, GraphEdit, Plan
from qtool.plan.validate import validate_plan
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate

BIASED = model(
    [
        node("MatMul", ["x", "w"], ["m"], name="product"),
        node("Add", ["m", "b"], ["h"], name="bias"),
        node("Relu", ["h"], ["r"]),
        node("Softmax", ["r"], ["y"]),
    ],
    {"x": [2, 24, 256]},
    ["y"],
    {"w": weights(256, 256), "b": weights(256, seed=1)},
)


def _settled(mode: str) -> Candidate:
    return candidate(BIASED, samples(3, x=(2, 24, 256)), "cpu", mode=mode)


STATIC, DYNAMIC = _settled("static"), _settled("dynamic")
# onnxruntime does not fuse a Gemm before a clamp with one float consumer.
CLAMPED = model(
    [node("Gemm", ["x", "w", "b"], ["g"]), node("Relu", ["g"], ["r"]), node("Softmax", ["r"], ["y"])],
    {"x": [24, 32]},
    ["y"],
    {"w": weights(32, 32), "b": weights(32, seed=1)},
)
BARRED = candidate(CLAMPED, samples(3, x=(24, 32)), "cpu")


def test_a_bias_added_in_float_is_an_edit_and_no_site() -> None:
    (reshaped,) = (e for e in STATIC.plan.edits if e.kind is EditKind.RESHAPED_BIAS)
    assert reshaped == GraphEdit(EditKind.RESHAPED_BIAS, "b", (("bias", 1),), axes=3)
    (added,) = DYNAMIC.plan.edits
    assert added == GraphEdit(EditKind.ADDED_BIAS, "b", (("bias", 1),), node="product")
    for plan in (STATIC.plan, DYNAMIC.plan):
        assert "b" not in {s.value for s in plan.sites}


def _changed(plan: Plan, kind: EditKind, change: Callable[[GraphEdit], GraphEdit]) -> Plan:
    assert any(e.kind is kind for e in plan.edits)
    return replace(plan, edits=tuple(change(e) if e.kind is kind else e for e in plan.edits))


RESHAPED, ADDED, RESULT = EditKind.RESHAPED_BIAS, EditKind.ADDED_BIAS, EditKind.RESULT_BARRIER
DAMAGED: dict[str, tuple[Candidate, EditKind, Callable[[GraphEdit], GraphEdit]]] = {
    "an unknown value": (STATIC, RESHAPED, lambda e: replace(e, value="nowhere")),
    "another value": (STATIC, RESHAPED, lambda e: replace(e, value="w")),
    "an unknown consumer": (STATIC, RESHAPED, lambda e: replace(e, uses=(("nowhere", 1),))),
    "no Add": (STATIC, RESHAPED, lambda e: replace(e, value="w", uses=(("product", 1),))),
    "no consumer": (STATIC, RESHAPED, lambda e: replace(e, uses=())),
    "no axes": (STATIC, RESHAPED, lambda e: replace(e, axes=0)),
    "a barrier behind nothing": (BARRED, RESULT, lambda e: replace(e, value="nowhere")),
    "a barrier before no Q": (BARRED, RESULT, lambda e: replace(e, kind=EditKind.QUANTIZER_BARRIER)),
    "no product": (DYNAMIC, ADDED, lambda e: replace(e, node="nowhere")),
    "a product that is not quantized": (DYNAMIC, ADDED, lambda e: replace(e, node="Relu_r")),
    "a bias that is not constant": (DYNAMIC, ADDED, lambda e: replace(e, value="m", uses=(("bias", 0),))),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_edit_is_named(damage: str) -> None:
    done, kind, change = DAMAGED[damage]
    assert validate_plan(done.plan, done.model.view) == ""
    damaged = _changed(done.plan, kind, change)
    assert any(e.kind.value in validate_plan(damaged, done.model.view) for e in damaged.edits)
