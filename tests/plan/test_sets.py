"""--set PATTERN=precision: types node by node, whatever the mode; the last word on a node wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest

from qtool.errors import UsageError
from qtool.plan.constraints import Constraints
from qtool.plan.model import WEIGHTS, Kind, Plan
from qtool.plan.scheme import PRECISIONS, WIDE_OPSET
from qtool.tables.forms import Form
from qtool.tables.modes import MODES
from qtool.tables.qtypes import INT8, UINT2, UINT4
from qtool.tables.targets import TARGETS
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import drafted, ready, reasons
from tests.rewrite.flow import run, sqnr, write

LAYERS = ("body/0", "body/1", "head")
SIZE = 96  # a weight of 9216 values is worth storing, and quantizing at run time
EVERYWHERE = [(m, t) for m in MODES for t in TARGETS]


def three() -> onnx.ModelProto:
    """Three matrices in a row with a Relu behind each but the last."""
    values = ["x", "a", "b", "y"]
    nodes = []
    for index, name in enumerate(LAYERS):
        last = index == len(LAYERS) - 1
        nodes.append(node("MatMul", [values[index], f"w{index}"], ["y" if last else f"m{index}"], name=name))
        if not last:
            nodes.append(node("Relu", [f"m{index}"], [values[index + 1]], name=f"relu{index}"))
    constants = {f"w{i}": weights(SIZE, SIZE, seed=i) for i in range(3)}
    return model(nodes, {"x": [8, SIZE]}, ["y"], constants)


GIVEN = samples(3, x=(8, SIZE))


def state(plan: Plan, layer: str) -> str:
    """What becomes of a layer: the precision that a user would call it."""
    if plan.forms.get(layer) is Form.FLOAT16:
        return "fp16"
    for site in plan.sites:
        if site.kind in WEIGHTS and (layer, 1) in (site.uses or ()):
            return {INT8: "int8", UINT4: "int4", UINT2: "int2"}.get(site.spec.qtype, "int8")
    return "fp32"


def states(sets: Sequence[str], mode: str, target: str = "cpu", **asked: Sequence[str]) -> list[str]:
    plan = drafted(three(), target, mode=mode, sets=sets, **asked)
    return [state(plan, layer) for layer in LAYERS]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
def test_any_precision_can_be_asked_of_one_node_in_any_mode(mode: str, target: str, precision: str) -> None:
    plain = states([], mode, target)
    found = states([f"head={precision}"], mode, target)
    assert found[2] == precision
    assert found[:2] == plain[:2]


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
def test_two_bits_for_one_node_run(mode: str, target: str) -> None:
    done = write(three(), GIVEN, target, mode=mode, sets=["body/*=int2", "body/1=int8"])
    assert state(done.plan, "body/0") == "int2"
    onnx.checker.check_model(done.proto, full_check=True)
    wanted = run(done.original, GIVEN)
    for optimize in (True, False):
        assert sqnr(wanted, run(done.data, GIVEN, optimize)) > 4


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
def test_four_precisions_in_one_model_run(mode: str, target: str) -> None:
    sets = ["body/0=int8", "body/1=int4", "head=fp16"]
    done = write(three(), GIVEN, target, mode=mode, sets=sets)
    assert [state(done.plan, layer) for layer in LAYERS] == ["int8", "int4", "fp16"]
    assert done.proto.opset_import[0].version >= WIDE_OPSET
    onnx.checker.check_model(done.proto, full_check=True)
    wanted = run(done.original, GIVEN)
    for optimize in (True, False):
        assert sqnr(wanted, run(done.data, GIVEN, optimize)) > 12  # one layer of the three has 4 bits


ORDERS = [
    (["*=int8", "head=fp32"], ["int8", "int8", "fp32"]),
    (["head=fp32", "*=int8"], ["int8", "int8", "int8"]),
    (["op:MatMul=int4", "body/*=int8"], ["int8", "int8", "int4"]),
    (["body/*=int8", "op:MatMul=int4"], ["int4", "int4", "int4"]),
    (["head=int8", "head=int4", "head=fp16"], ["fp32", "fp32", "fp16"]),
    (["head=fp16", "head=int4", "head=int8"], ["fp32", "fp32", "int8"]),
    (["op:MatMul=fp16", "body/?=fp32"], ["fp32", "fp32", "fp16"]),
]


@pytest.mark.parametrize(("sets", "wanted"), ORDERS, ids=[" ".join(s) for s, _ in ORDERS])
def test_of_several_for_one_node_the_last_wins(sets: list[str], wanted: list[str]) -> None:
    """With everything excluded first, so that nothing but --set speaks."""
    assert states(sets, "weight-only", exclude=["*"]) == wanted


@pytest.mark.parametrize(("mode", "target"), EVERYWHERE)
@pytest.mark.parametrize("pattern", ["head", "body/*", "op:MatMul"])
def test_exclude_is_fp32(mode: str, target: str, pattern: str) -> None:
    excluded = drafted(three(), target, mode=mode, exclude=[pattern])
    as_set = drafted(three(), target, mode=mode, sets=[f"{pattern}=fp32"])
    assert excluded.forms == as_set.forms
    assert excluded.sites == as_set.sites
    assert replace(excluded.fp16, reasons={}) == replace(as_set.fp16, reasons={})
    matched = [n for n in LAYERS if pattern == "op:MatMul" or n == pattern or n.startswith(pattern[:-1])]
    for name in matched:
        assert state(excluded, name) == "fp32"
        assert pattern in reasons(excluded)[name]
        assert pattern in reasons(as_set)[name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_set_wins_over_exclude_and_include(precision: str) -> None:
    sets = [f"head={precision}"]
    assert states(sets, "static", exclude=["*"])[2] == precision
    assert states(sets, "static", include=["head"])[2] == precision


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("pattern", "hint"), [("haed", "head"), ("op:MatMull", "op:MatMul"), ("nothing/*", "op:Conv")]
)
def test_a_misspelt_pattern_is_an_error_with_a_hint(pattern: str, hint: str, precision: str) -> None:
    with pytest.raises(UsageError) as caught:
        drafted(three(), sets=[f"{pattern}={precision}"])
    assert "--set" in caught.value.message
    assert pattern in caught.value.message
    assert hint in caught.value.hint.replace("'", "")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("head=int9", "int8"),
        ("head=fp8", "fp"),
        ("head", "int8"),
        ("=int8", ""),
        ("head=", "int8"),
        ("", "int8"),
        ("head=INT8", "fp32"),
        ("head=zzz", "int8, int4, int2, fp16, fp32"),
    ],
)
def test_what_is_not_pattern_and_precision_is_an_error(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="--set") as caught:
        drafted(three(), sets=[text])
    assert hint in caught.value.hint


def test_an_equals_sign_in_a_name_belongs_to_the_name() -> None:
    proto = three()
    proto.graph.node[-1].name = "head=1"
    plan = drafted(proto, mode="weight-only", sets=["head=1=int4"])
    assert any(s.spec.qtype is UINT4 for s in plan.sites)


@pytest.mark.parametrize("precision", ["int8", "int4", "int2"])
def test_integers_for_what_has_none_are_an_error(precision: str) -> None:
    nodes = [node("Sin", ["x"], ["s"], name="sine"), node("MatMul", ["s", "w"], ["y"])]
    proto = model(nodes, {"x": [4, 32]}, ["y"], {"w": weights(32, 32)})
    with pytest.raises(UsageError, match=f"Sin has no {precision} form"):
        drafted(proto, sets=[f"sine={precision}"])


def test_of_what_a_glob_matches_only_what_can_take_it_does() -> None:
    """'*' meets the Relus, too, which have no weights to keep in 4 bits."""
    plan = drafted(three(), mode="weight-only", sets=["*=int4"])
    assert [state(plan, n) for n in LAYERS] == ["int4"] * 3


@pytest.mark.parametrize("mode", MODES)
def test_the_reason_says_who_asked(mode: str) -> None:
    plan = drafted(three(), mode=mode, sets=["body/1=fp32"])
    assert "fp32" in reasons(plan)["body/1"]
    assert "'body/1'" in reasons(plan)["body/1"]


def test_one_weight_read_in_two_precisions_is_two_sites() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("MatMul", ["a", "w"], ["y"], name="two"),
    ]
    proto = model(nodes, {"x": [8, SIZE]}, ["y"], {"w": weights(SIZE, SIZE)})
    done = write(proto, GIVEN, "cpu", mode="weight-only", sets=["two=int4"])
    assert {state(done.plan, n) for n in ("one", "two")} == {"int8", "int4"}
    for optimize in (True, False):
        assert sqnr(run(proto, GIVEN), run(done.data, GIVEN, optimize)) > 14


@pytest.mark.parametrize("target", TARGETS)
def test_int8_forces_what_the_target_would_rather_not(target: str) -> None:
    """A first convolution of few channels is slower in int8 on a CPU: asked for, it is done."""
    nodes = [node("Conv", ["x", "w"], ["y"], name="stem", kernel_shape=[3, 3])]
    proto = model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": weights(16, 3, 3, 3)})
    assert drafted(proto, target, sets=["stem=int8"]).forms["stem"] is Form.INT8


def test_prepare_and_plan_do_not_touch_what_was_set_to_fp32() -> None:
    done = write(three(), GIVEN, "cpu", mode="weight-only", sets=["head=fp32"])
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in done.proto.graph.initializer}
    np.testing.assert_array_equal(kept["w2"], weights(SIZE, SIZE, seed=2))
    assert not [s for s in done.plan.sites if s.value == "w2" and s.kind is not Kind.ACTIVATION]


def test_no_sets_ask_for_nothing() -> None:
    assert ready(three()).task.constraints == Constraints()
