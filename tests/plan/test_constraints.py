"""The user's constraints: --exclude, --include and --set override the tables; unmatched patterns are errors."""

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
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate, drafted, ready, reasons, rules_plan
from tests.rewrite.flow import run, sqnr, write
from tests.rewrite.zoo import CASES

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
IMAGE = {"x": [1, 16, 8, 8]}


def three(*names: str) -> onnx.ModelProto:
    """Three convolutions in a row, of these names."""
    values = ["x", "a", "b", "y"]
    nodes = []
    for index, name in enumerate(names):
        made = node("Conv", [values[index], f"w{index}"], [values[index + 1]], **CONV3)
        made.name = name
        nodes.append(made)
    return model(nodes, IMAGE, ["y"], {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(3)})


PATTERNS = {
    "name": ("head/one", {"head/one"}),
    "glob": ("head/*", {"head/one", "head/two"}),
    "question mark": ("head/t?o", {"head/two"}),
    "op": ("op:Conv", {"body", "head/one", "head/two"}),
}


@pytest.mark.parametrize(("pattern", "wanted"), PATTERNS.values(), ids=PATTERNS)
def test_exclude_keeps_its_matches_in_float(pattern: str, wanted: set[str]) -> None:
    plan = drafted(three("body", "head/one", "head/two"), exclude=[pattern])
    assert {"body", "head/one", "head/two"} - plan.forms.keys() == wanted
    assert all(pattern in reasons(plan)[name] for name in wanted)


def test_brackets_in_a_name_match_themselves() -> None:
    plan = drafted(three("conv[0]", "conv[1]", "conv0"), exclude=["conv[0]"])
    assert "conv[0]" not in plan.forms
    assert "conv[1]" in plan.forms


@pytest.mark.parametrize("option", ["exclude", "include", "sets"])
@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("head/onne", "head/one"), ("op:Covn", "op:Conv"), ("nothing/*", "op:Conv"), ("op:Gemm", "Conv")],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_a_hint(option: str, pattern: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        drafted(
            three("body", "head/one", "head/two"),
            **{option: [f"{pattern}=int4" if option == "sets" else pattern]},
        )
    assert f"--{option.removesuffix('s')}" in caught.value.message
    assert pattern in caught.value.message
    assert hint.replace("'", "") in caught.value.hint.replace("'", "")


def test_a_folded_node_is_named_as_such() -> None:
    with pytest.raises(UsageError, match="folds"):
        drafted(CASES["conv-bn-relu6"].build(), exclude=["BatchNormalization_b0"])


STEM = [node("Conv", ["x", "w"], ["y"], name="stem", **CONV3)]


def stem() -> onnx.ModelProto:
    return model(STEM, {"x": [1, 3, 8, 8]}, ["y"], {"w": weights(16, 3, 3, 3)})


@pytest.mark.parametrize("pattern", ["stem", "st*", "op:Conv"])
def test_include_overrides_the_target(pattern: str) -> None:
    assert "stem" not in drafted(stem()).forms
    assert "stem" in drafted(stem(), include=[pattern]).forms


def test_include_wins_over_exclude() -> None:
    plan = drafted(three("a", "b", "c"), exclude=["op:Conv"], include=["b"])
    assert {"a", "c"}.isdisjoint(plan.forms)
    assert "b" in plan.forms


def test_including_an_op_without_a_quantized_form_is_an_error() -> None:
    nodes = [node("Sin", ["x"], ["s"], name="sine"), node("Conv", ["s", "w"], ["y"], **CONV3)]
    proto = model(nodes, IMAGE, ["y"], {"w": weights(16, 16, 3, 3)})
    with pytest.raises(UsageError, match="no quantized form"):
        drafted(proto, include=["sine"])


def test_include_can_not_quantize_a_node_without_a_range() -> None:
    """Calibration never ran the node."""
    case = CASES["embedding"]
    empty = [{"ids": s["ids"][:, :0]} for s in case.samples()]
    done = candidate(case.build(), empty, "cpu", include=["MatMul_y"])
    assert "MatMul_y" not in done.plan.forms
    assert "never executed" in reasons(done.plan)["MatMul_y"]


@pytest.mark.parametrize("name", ["node_conv2d_1", "node_", "Conv_1"])
def test_generated_names_do_not_take_a_name_of_the_model(name: str) -> None:
    """torch's dynamo exporter names nodes `node_...`; preparation names unnamed nodes."""
    job = ready(three("", "", name), exclude=[name])
    (skip,) = rules_plan(job).skips
    weight = job.view.node_by_name[skip.node].inputs[1]
    assert weight is not None
    assert weight.name == "w2", "another node was excluded"
    assert skip.node == name


# ---- --set ----

LAYERS = ("body/0", "body/1", "head")
SIZE = 96  # a weight of 9216 values is worth storing, and quantizing at run time
# Every mode, and the target without onnxruntime's operators.
PAIRS = [*((m, "cpu") for m in MODES), ("static", "generic"), ("dynamic", "generic")]


def layers() -> onnx.ModelProto:
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


SAMPLES = samples(3, x=(8, SIZE))


def state(plan: Plan, layer: str) -> str:
    """The precision of a layer, by the name that --set has for it."""
    if plan.forms.get(layer) is Form.FLOAT16:
        return "fp16"
    for site in plan.sites:
        if site.kind in WEIGHTS and (layer, 1) in (site.uses or ()):
            return {INT8: "int8", UINT4: "int4", UINT2: "int2"}.get(site.spec.qtype, "int8")
    return "fp32"


def states(sets: Sequence[str], mode: str, target: str = "cpu", **options: Sequence[str]) -> list[str]:
    plan = drafted(layers(), target, mode=mode, sets=sets, **options)
    return [state(plan, layer) for layer in LAYERS]


@pytest.mark.parametrize(("mode", "target"), PAIRS)
def test_set_gives_one_node_any_precision_in_any_mode(mode: str, target: str) -> None:
    plain = states([], mode, target)
    for precision in PRECISIONS:
        assert states([f"head={precision}"], mode, target) == [*plain[:2], precision]


@pytest.mark.parametrize(("mode", "target"), PAIRS)
def test_models_of_several_precisions_run(mode: str, target: str) -> None:
    """The bounds leave room for one of three layers in few bits: 2 bits give some 5 dB, 4 bits some 15."""
    for sets, wanted, least in (
        (["body/0=int2", "body/1=int8", "head=int8"], ["int2", "int8", "int8"], 4),
        (["body/0=int8", "body/1=int4", "head=fp16"], ["int8", "int4", "fp16"], 12),
    ):
        done = write(layers(), SAMPLES, target, mode=mode, sets=sets)
        assert [state(done.plan, layer) for layer in LAYERS] == wanted
        assert done.proto.opset_import[0].version >= WIDE_OPSET
        onnx.checker.check_model(done.proto, full_check=True)
        floats = run(done.original, SAMPLES)
        for optimize in (True, False):
            assert sqnr(floats, run(done.data, SAMPLES, optimize)) > least


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
def test_the_last_set_of_a_node_wins(sets: list[str], wanted: list[str]) -> None:
    """With everything excluded first, so that only --set decides."""
    assert states(sets, "weight-only", exclude=["*"]) == wanted


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pattern", ["head", "body/*", "op:MatMul"])
def test_exclude_is_set_to_fp32(mode: str, pattern: str) -> None:
    excluded = drafted(layers(), mode=mode, exclude=[pattern])
    as_set = drafted(layers(), mode=mode, sets=[f"{pattern}=fp32"])
    assert (excluded.forms, excluded.sites) == (as_set.forms, as_set.sites)
    assert replace(excluded.fp16, reasons={}) == replace(as_set.fp16, reasons={})
    matched = [n for n in LAYERS if pattern == "op:MatMul" or n == pattern or n.startswith(pattern[:-1])]
    for name in matched:
        assert state(excluded, name) == "fp32"
        assert pattern in reasons(excluded)[name]
        assert "fp32" in reasons(as_set)[name] and f"'{pattern}'" in reasons(as_set)[name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_set_wins_over_exclude_and_include(precision: str) -> None:
    sets = [f"head={precision}"]
    assert states(sets, "static", exclude=["*"])[2] == precision
    assert states(sets, "static", include=["head"])[2] == precision


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
def test_a_set_that_is_not_pattern_and_precision_is_an_error(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="sets") as caught:
        drafted(layers(), sets=[text])
    assert hint in caught.value.hint


def test_an_equals_sign_in_a_name_belongs_to_the_name() -> None:
    proto = layers()
    proto.graph.node[-1].name = "head=1"
    plan = drafted(proto, mode="weight-only", sets=["head=1=int4"])
    assert any(s.spec.qtype is UINT4 for s in plan.sites)


@pytest.mark.parametrize("precision", ["int8", "int4", "int2"])
def test_integers_for_an_op_without_weights_are_an_error(precision: str) -> None:
    nodes = [node("Sin", ["x"], ["s"], name="sine"), node("MatMul", ["s", "w"], ["y"])]
    proto = model(nodes, {"x": [4, 32]}, ["y"], {"w": weights(32, 32)})
    with pytest.raises(UsageError, match=f"Sin has no {precision} form"):
        drafted(proto, sets=[f"sine={precision}"])


def test_set_skips_matches_without_weights() -> None:
    """'*' also matches the Relus, which have no weights."""
    plan = drafted(layers(), mode="weight-only", sets=["*=int4"])
    assert [state(plan, n) for n in LAYERS] == ["int4"] * 3


def test_one_weight_in_two_precisions_is_two_sites() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("MatMul", ["a", "w"], ["y"], name="two"),
    ]
    proto = model(nodes, {"x": [8, SIZE]}, ["y"], {"w": weights(SIZE, SIZE)})
    done = write(proto, SAMPLES, "cpu", mode="weight-only", sets=["two=int4"])
    assert {state(done.plan, n) for n in ("one", "two")} == {"int8", "int4"}
    for optimize in (True, False):
        assert sqnr(run(proto, SAMPLES), run(done.data, SAMPLES, optimize)) > 14


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_set_int8_overrides_the_target(target: str) -> None:
    """A first convolution of few channels is slower in int8 on a CPU."""
    nodes = [node("Conv", ["x", "w"], ["y"], name="stem", kernel_shape=[3, 3])]
    proto = model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": weights(16, 3, 3, 3)})
    assert drafted(proto, target, sets=["stem=int8"]).forms["stem"] is Form.INT8


def test_weights_set_to_fp32_stay_as_they_are() -> None:
    done = write(layers(), SAMPLES, "cpu", mode="weight-only", sets=["head=fp32"])
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in done.proto.graph.initializer}
    np.testing.assert_array_equal(kept["w2"], weights(SIZE, SIZE, seed=2))
    assert not [s for s in done.plan.sites if s.value == "w2" and s.kind is not Kind.ACTIVATION]


def test_without_patterns_there_are_no_constraints() -> None:
    assert ready(layers()).task.constraints == Constraints()
