"""Weights that are fed rather than stored, and convolutions: both operands quantized at run time, in ONNX's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from qtool.plan.model import Kind
from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import drafted, reasons, sites
from tests.rewrite.flow import Written, evaluate, run, sqnr, write
from tests.targets import COMMON
from tests.tiers import in_turn

ORT_TARGETS = [t for t in COMMON if TARGETS[t].onnxruntime]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fed:
    """A node `n` of x and w, perhaps of b.

    Args:
        x, w, b: shapes; None: there is no bias.
        stored: which of w and b are initializers; the others are fed.
    """

    op: str
    x: Shape
    w: Shape
    b: Shape | None = None
    stored: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def gemm(x: Shape = (16, 48), w: Shape = (48, 32), b: Shape | None = None, **attributes: Any) -> Fed:
    return Fed("Gemm", x, w, b, attributes=attributes)


def conv(x: Shape, w: Shape, b: int = 0, stored: tuple[str, ...] = (), **attributes: Any) -> Fed:
    return Fed("Conv", x, w, (b,) if b else None, stored, attributes)


IMAGE, FILTERS = (2, 8, 9, 9), (12, 8, 3, 3)
FED: dict[str, Fed] = {
    "matmul": Fed("MatMul", (16, 48), (48, 32)),
    "matmul-3d": Fed("MatMul", (2, 16, 48), (2, 48, 32)),
    "matmul-spreads": Fed("MatMul", (16, 48), (3, 48, 32)),
    "matmul-4d": Fed("MatMul", (1, 2, 8, 48), (3, 1, 48, 32)),
    "matmul-vector": Fed("MatMul", (16, 48), (48,)),
    "matmul-vector-first": Fed("MatMul", (48,), (48, 32)),
    "matmul-two-vectors": Fed("MatMul", (48,), (48,)),
    "matmul-long": Fed("MatMul", (16, 1024), (1024, 32)),
    "gemm": gemm(),
    "gemm-bias": gemm(b=(32,)),
    "gemm-bias-stored": Fed("Gemm", (16, 48), (48, 32), (32,), ("b",)),
    "gemm-bias-stored-scaled": Fed("Gemm", (16, 48), (48, 32), (32,), ("b",), {"beta": 0.5}),
    "gemm-bias-scalar": gemm(b=()),
    "gemm-bias-one": gemm(b=(1,)),
    "gemm-bias-row": gemm(b=(1, 32)),
    "gemm-bias-column": gemm(b=(16, 1)),
    "gemm-bias-matrix": gemm(b=(16, 32)),
    "gemm-bias-alone": Fed("Gemm", (16, 48), (48, 32), (32,), ("w",)),
    "gemm-alpha": gemm(alpha=0.3),
    "gemm-alpha-negative": gemm(b=(32,), alpha=-2.0),
    "gemm-beta": gemm(b=(32,), beta=3.0),
    "gemm-beta-zero": gemm(b=(32,), beta=0.0),
    "gemm-transA": gemm(x=(48, 16), transA=1),
    "gemm-transB": gemm(w=(32, 48), transB=1),
    "gemm-all": gemm((48, 16), (32, 48), (1, 32), alpha=0.25, beta=0.35, transA=1, transB=1),
    "gemm-all-but-w": Fed("Gemm", (48, 16), (32, 48), (1, 32), ("w",), {"alpha": 0.25, "beta": 0.35, "transA": 1, "transB": 1}),
    "conv": conv(IMAGE, FILTERS),
    "conv-bias": conv(IMAGE, FILTERS, 12),
    "conv-bias-stored": conv(IMAGE, FILTERS, 12, ("b",)),
    "conv-bias-alone": conv(IMAGE, FILTERS, 12, ("w",)),
    "conv-stored": conv(IMAGE, FILTERS, 12, ("w", "b")),
    "conv-padded": conv(IMAGE, FILTERS, 12, pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv-padded-unevenly": conv(IMAGE, FILTERS, pads=[1, 0, 1, 2]),
    "conv-dilated": conv(IMAGE, FILTERS, dilations=[2, 2]),
    "conv-same": conv(IMAGE, FILTERS, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv-depthwise": conv(IMAGE, (8, 1, 3, 3), 8, group=8),
    "conv-grouped-stored": conv(IMAGE, (12, 4, 3, 3), 12, ("w", "b"), group=2),
    "conv-1d": conv((2, 8, 21), (12, 8, 3), 12, pads=[1, 1]),
    "conv-1d-bias-alone": conv((2, 8, 21), (12, 8, 3), 12, ("w",)),
    "conv-3d": conv((1, 4, 6, 6, 6), (8, 4, 3, 3, 3), 8),
}  # fmt: skip
# There is no ConvTransposeInteger.
CALIBRATED_ONLY: dict[str, Fed] = {
    "deconv": Fed("ConvTranspose", IMAGE, (8, 12, 3, 3)),
    "deconv-bias": Fed("ConvTranspose", IMAGE, (8, 12, 3, 3), (12,), attributes={"strides": [2, 2]}),
}
FORMATS = ("qdq", "qoperator")


def shapes(case: Fed) -> dict[str, Shape]:
    return {"x": case.x, "w": case.w, **({} if case.b is None else {"b": case.b})}


def written(name: str, mode: str = "dynamic", **choices: str) -> Written:
    case = FED[name] if name in FED else CALIBRATED_ONLY[name]
    shape_of = shapes(case)
    fed = {k: s for k, s in shape_of.items() if k not in case.stored}
    constants = {k: weights(*shape_of[k], seed=i) for i, k in enumerate(case.stored)}
    nodes = [node(case.op, list(shape_of), ["y"], name="n", **case.attributes)]
    proto = model(nodes, {k: list(s) for k, s in fed.items()}, ["y"], constants)
    return write(proto, samples(3, **fed), "generic", mode=mode, **choices)


def ops(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


@pytest.mark.parametrize("name", FED)
def test_each_operator(name: str) -> None:
    case, done = FED[name], written(name)
    _has_both_operands_in_integers(case, done)
    wanted = run(done.original, done.samples)
    fused, plain = (run(done.data, done.samples, optimize) for optimize in (True, False))
    for got in (fused, plain):
        assert [o["y"].shape for o in got] == [o["y"].shape for o in wanted]
        assert sqnr(wanted, got) > 25
    assert sqnr(plain, evaluate(done.data, done.samples)) > 100


def _has_both_operands_in_integers(case: Fed, done: Written) -> None:
    """In standard operators."""
    counts = ops(done.proto)
    stored = "w" in case.stored
    assert done.plan.forms == {"n": Form.DYNAMIC}
    assert sites(done.plan, Kind.RUNTIME).keys() == ({"x"} if stored else {"x", "w"})
    assert sites(done.plan, Kind.FUSED).keys() == ({"w"} if stored else set())
    assert counts["DynamicQuantizeLinear"] == (1 if stored else 2)
    assert counts["ConvInteger" if case.op == "Conv" else "MatMulInteger"] == 1
    assert not counts[case.op]
    assert {o.domain for o in done.proto.opset_import} <= {"", "ai.onnx"}
    onnx.checker.check_model(done.proto, full_check=True)


@pytest.mark.parametrize(("name", "target"), in_turn(["matmul", "gemm", "conv", "conv-1d"], ORT_TARGETS))
def test_fused_operators_need_the_weight_itself(target: str, name: str) -> None:
    plan = drafted(written(name).original, target, mode="dynamic")
    assert not plan.forms
    assert reasons(plan) == {"n": "its weight is not a constant"}


@pytest.mark.parametrize("target", COMMON)
def test_attention_stays_float(target: str) -> None:
    """Products of what other nodes make lose too much to one scale a run for all that they hold."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="linear"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1], name="t"),
        node("MatMul", ["q", "kt"], ["s"], name="scores"),
        node("Softmax", ["s"], ["p"], name="softmax"),
        node("Sigmoid", ["k"], ["v"], name="values"),
        node("MatMul", ["p", "v"], ["y"], name="mixed"),
    ]
    inputs = {"x": [1, 60, 128], "k": [1, 60, 128]}
    plan = drafted(model(nodes, inputs, ["y"], {"w": weights(128, 128)}), target, mode="dynamic")
    assert plan.forms == {"linear": Form.DYNAMIC}
    assert reasons(plan)["scores"] == reasons(plan)["mixed"] == "its weight is not a constant"


@pytest.mark.parametrize("op", ["Gemm", "Conv"])
def test_a_weight_that_another_node_makes_stays_float(op: str) -> None:
    shape = (48, 48) if op == "Gemm" else (8, 8, 3, 3)
    nodes = [node("Sigmoid", ["w"], ["s"]), node(op, ["x", "s"], ["y"], name="n")]
    x = [16, 48] if op == "Gemm" else [1, 8, 9, 9]
    plan = drafted(model(nodes, {"x": x, "w": list(shape)}, ["y"]), "generic", mode="dynamic")
    assert not plan.forms
    assert reasons(plan)["n"] == "its weight is not a constant"


def test_an_operand_that_is_read_twice_is_quantized_and_transposed_once() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], transB=1),
        node("Gemm", ["z", "w"], ["b"], transB=1),
        node("MatMul", ["w", "w"], ["c"]),
    ]
    proto = model(nodes, {"x": [16, 48], "z": [8, 48], "w": [48, 48]}, ["a", "b", "c"])
    fed = samples(2, x=(16, 48), z=(8, 48), w=(48, 48))
    done = write(proto, fed, "generic", mode="dynamic")
    counts = ops(done.proto)
    assert (counts["DynamicQuantizeLinear"], counts["Transpose"], counts["MatMulInteger"]) == (3, 1, 3)
    for optimize in (True, False):
        assert sqnr(run(proto, fed), run(done.data, fed, optimize)) > 25


def test_a_weight_without_values_stays_float() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"], name="n")], {"x": [4, 8], "w": [8, 0]}, ["y"])
    plan = drafted(proto, "generic", mode="dynamic")
    assert not plan.forms
    assert reasons(plan) == {"n": "its weight is empty"}


def test_loop_variables_are_not_model_inputs() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[4, 4] x, float[4, 4] w) => (float[4, 4] y) {
            n = Constant<value = int64 {3}>()
            t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[4, 4] s) => (bool d, float[4, 4] r) {
                d = Identity(c)
                [outer] p = MatMul(s, w)
                [own] r = MatMul(p, s)
            }>
        }"""
    proto = onnx.parser.parse_model(text)
    fed = samples(2, x=(4, 4), w=(4, 4))
    done = write(proto, fed, "generic", mode="dynamic")
    assert done.plan.forms == {"outer": Form.DYNAMIC}
    assert reasons(done.plan)["own"] == "its weight is not a constant"
    for optimize in (True, False):
        assert sqnr(run(proto, fed), run(done.data, fed, optimize)) > 20


def test_an_alpha_that_does_not_fold_is_a_separate_factor() -> None:
    """It overflows float32 in the weight, though not in the product; fused operators have no alpha."""
    nodes = [node("Gemm", ["x", "w"], ["y"], name="n", alpha=3e38)]
    proto = model(nodes, {"x": [16, 128]}, ["y"], {"w": weights(128, 96) * 100})
    fed = [{k: (v * 1e-30).astype(np.float32) for k, v in s.items()} for s in samples(2, x=(16, 128))]
    done = write(proto, fed, "generic", mode="dynamic")
    assert done.plan.forms == {"n": Form.DYNAMIC}
    for optimize in (True, False):
        assert sqnr(run(proto, fed), run(done.data, fed, optimize)) > 30
    for target in ORT_TARGETS:
        assert "alpha" in reasons(drafted(proto, target, mode="dynamic"))["n"]


@pytest.mark.parametrize(
    ("name", "form"),
    in_turn([*CALIBRATED_ONLY, *(n for n, case in FED.items() if "w" not in case.stored)], FORMATS),
)
def test_calibrated_scales_do_for_a_weight_that_is_fed(name: str, form: str) -> None:
    done = written(name, "static", format=form)
    assert "n" in done.plan.forms
    assert sites(done.plan, Kind.ACTIVATION).keys() == {"x", "w", "y"}
    onnx.checker.check_model(done.proto, full_check=True)
    wanted = run(done.original, done.samples)
    for optimize in (True, False):
        assert sqnr(wanted, run(done.data, done.samples, optimize)) > 25
    assert sqnr(run(done.data, done.samples, optimize=False), evaluate(done.data, done.samples)) > 30


@pytest.mark.parametrize(("op", "target"), in_turn(["Gemm", "Conv", "ConvTranspose"], ORT_TARGETS))
def test_onnxruntime_has_no_calibrated_form_for_a_weight_that_is_fed(target: str, op: str) -> None:
    shape = (48, 48) if op == "Gemm" else (8, 8, 3, 3)
    x = [16, 48] if op == "Gemm" else [1, 8, 9, 9]
    proto = model([node(op, ["x", "w"], ["y"], name="n")], {"x": x, "w": list(shape)}, ["y"])
    plan = drafted(proto, target)
    assert not plan.forms
    assert reasons(plan) == {"n": "its weight is not a constant"}
