"""Nodes quantized at run time: every shape of product, on every target, against FP32 and an oracle of numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from qtool.plan.model import Kind
from qtool.tables.forms import Form
from qtool.tables.qtypes import PerBlock
from qtool.tables.targets import TARGETS
from tests.exact import exact, exact_products
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model
from tests.plan.flow import reasons, sites
from tests.rewrite.flow import Written, evaluate, run, sqnr, write
from tests.rewrite.zoo import CASES as ZOO
from tests.targets import COMMON
from tests.tiers import in_turn

K, N = 128, 96  # enough values to be worth it on every target
PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")


@dataclass(frozen=True)
class Product:
    """A product of x and a constant w, and what else is about it.

    Args:
        x, w: shapes.
        bias: shape of Gemm's C, or of what an Add behind a MatMul adds; None: there is none.
        parts: into how many products it is split.
        folded: the Add behind it is part of it on onnxruntime.
        fused: onnxruntime's own operators know it; standard ones know all of these.
        swapped: the bias is the Add's first operand.
    """

    op: str = "MatMul"
    x: tuple[int, ...] = (16, K)
    w: tuple[int, ...] = (K, N)
    bias: tuple[int, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    parts: int = 1
    folded: bool = True
    fused: bool = True
    swapped: bool = False

    def is_quantized(self, target: str) -> bool:
        """Whether it has a form at run time there."""
        return self.fused or not TARGETS[target].onnxruntime


def gemm(w: tuple[int, ...] = (K, N), bias: tuple[int, ...] | None = (N,), **attributes: Any) -> Product:
    return Product("Gemm", w=w, bias=bias, attributes=attributes)


TRANSPOSED = {"w": (N, K), "transB": 1}
CASES: dict[str, Product] = {
    "matmul": Product(),
    "matmul-3d": Product(x=(2, 8, K)),
    "matmul-4d": Product(x=(2, 2, 4, K)),
    "matmul-one-row": Product(x=(1, K), w=(K, 1500)),
    "matmul-bias": Product(bias=(N,)),
    "matmul-bias-left": Product(bias=(N,), swapped=True),
    "matmul-bias-row": Product(bias=(1, N)),
    "matmul-3d-bias": Product(x=(2, 8, K), bias=(N,)),
    "matmul-3d-bias-row": Product(x=(2, 8, K), bias=(1, N)),
    "matmul-3d-bias-cube": Product(x=(2, 8, K), bias=(1, 1, N)),
    "matmul-bias-raises-rank": Product(bias=(1, 1, N), folded=False),
    "matmul-bias-scalar": Product(bias=(), folded=False),
    "matmul-bias-one": Product(bias=(1,), folded=False),
    "matmul-bias-matrix": Product(bias=(16, N), folded=False),
    "matmul-bias-column": Product(bias=(16, 1), folded=False),
    "gemm": gemm(),
    "gemm-no-bias": gemm(bias=None),
    "gemm-transB": gemm(**TRANSPOSED),
    "gemm-transB-no-bias": gemm(bias=None, **TRANSPOSED),
    "gemm-bias-row": gemm(bias=(1, N)),
    "gemm-alpha": gemm(alpha=0.3),
    "gemm-alpha-negative": gemm(alpha=-2.0, **TRANSPOSED),
    "gemm-beta": gemm(beta=3.0),
    "gemm-beta-zero": gemm(beta=0.0),
    "gemm-alpha-beta": gemm(alpha=0.5, beta=-1.5, **TRANSPOSED),
    "gemm-alpha-no-bias": gemm(bias=None, alpha=4.0),
    "gemm-transA": Product("Gemm", (K, 16), bias=(N,), attributes={"transA": 1}, fused=False),
    "gemm-transA-transB": Product(
        "Gemm", (K, 16), (N, K), (N,), {"transA": 1, "transB": 1}, fused=False
    ),
    "gemm-bias-scalar": Product("Gemm", bias=()),
    "gemm-bias-one": Product("Gemm", bias=(1,)),
    "gemm-bias-matrix": Product("Gemm", bias=(16, N), folded=False),
    "gemm-bias-column": Product("Gemm", (N, K), bias=(N, 1), folded=False),
    "gemm-one-column-bias-column": Product("Gemm", w=(K, 1), bias=(16, 1), attributes={"beta": 2.0}, fused=False),
    "matmul-vector": Product(w=(K,), fused=False),
    "matmul-3d-vector": Product(x=(2, 8, K), w=(K,), fused=False),
    "matmul-vector-bias": Product(x=(K, K), w=(K,), bias=(K,), folded=False, fused=False),
    "matmul-vector-vector": Product(x=(K,), w=(K,), fused=False),
    "matmul-stack": Product(x=(2, 8, K), w=(2, K, N)),
    "matmul-stack-bias": Product(x=(2, 8, K), w=(2, K, N), bias=(N,), folded=False),
    "matmul-stack-spreads": Product(x=(8, K), w=(3, K, N), bias=(N,), folded=False),
    "matmul-stack-of-stacks": Product(x=(2, 3, 8, K), w=(2, 1, K, N)),
    "matmul-vector-stack": Product(x=(K,), w=(2, K, N), fused=False),
    "split-1024": Product(x=(16, 1024), w=(1024, 32), parts=2),
    "no-split-into-171s": Product(x=(16, 513), w=(513, 32)),
    "split-900": Product(x=(16, 900), w=(900, 32), bias=(32,), parts=2),
    "split-1536-3d": Product(x=(2, 8, 1536), w=(1536, 32), bias=(32,), parts=3),
    "split-gemm-transB": Product("Gemm", (16, 1024), (32, 1024), (32,), {"transB": 1}, parts=2),
    "split-gemm-alpha-beta": Product(
        "Gemm", (16, 1024), (1024, 32), (32,), {"alpha": 0.5, "beta": 2.0}, parts=2
    ),
    "split-gemm-transA": Product("Gemm", (1024, 16), (1024, 32), (32,), {"transA": 1}, parts=2, fused=False),
    "split-gemm-transA-transB": Product(
        "Gemm", (1024, 16), (32, 1024), None, {"transA": 1, "transB": 1, "alpha": 0.5}, parts=2, fused=False
    ),
    "no-split-of-a-stack": Product(x=(2, 16, 1024), w=(2, 1024, 32)),
    "no-split-of-a-prime": Product(x=(16, 1021), w=(1021, 32)),
    "no-split-at-512": Product(x=(16, 512), w=(512, 32)),
}  # fmt: skip
# onnxruntime (1.31) fuses MatMulInteger .. Add with a bias of more axes than the product, and loses the axes.
EVERYWHERE = [(c, t) for c, t in in_turn(CASES, COMMON) if (c, t) != ("matmul-bias-raises-rank", "generic")]


def build(case: Product) -> onnx.ModelProto:
    constants = {"w": weights(*case.w)}
    if case.bias is not None:
        constants["b"] = weights(*case.bias, seed=5) * 10
    if case.op == "Gemm":
        inputs = ["x", "w", *(["b"] if case.bias is not None else [])]
        nodes = [node("Gemm", inputs, ["y"], name="product", **case.attributes)]
    elif case.bias is None:
        nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    else:
        operands = ["b", "p"] if case.swapped else ["p", "b"]
        nodes = [node("MatMul", ["x", "w"], ["p"], name="product"), node("Add", operands, ["y"], name="add")]
    return model(nodes, {"x": list(case.x)}, ["y"], constants)


def written(name: str, target: str) -> Written:
    case = CASES[name]
    return write(build(case), samples(3, x=case.x), target, mode="dynamic")


def ops(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


@pytest.mark.parametrize(("name", "target"), EVERYWHERE)
def test_each_product(name: str, target: str) -> None:
    case, done = CASES[name], written(name, target)
    onnx.checker.check_model(done.proto, full_check=True)
    _is_what_was_planned(case, done)
    wanted = run(done.original, done.samples)
    fused, plain = (run(done.data, done.samples, optimize) for optimize in (True, False))
    for got in (fused, plain):
        assert [o["y"].shape for o in got] == [o["y"].shape for o in wanted]
        assert sqnr(wanted, got) > 30
    if target == "generic" and exact():
        assert sqnr(plain, evaluate(done.data, done.samples)) > 100
    if case.is_quantized(target) and exact():
        # Ties may fall to either side where the runtime divides in another order.
        assert sqnr(_by_the_formula(case, done), fused) > 65


def _is_what_was_planned(case: Product, done: Written) -> None:
    held, target = ops(done.proto), done.plan.target
    quantized = case.is_quantized(target)
    assert (done.plan.forms.get("product") is Form.DYNAMIC) == quantized
    assert sum(held[op] for op in PRODUCTS) == (case.parts if quantized else 0)
    if not quantized:
        assert reasons(done.plan)["product"]
        return
    onnxruntime = TARGETS[target].onnxruntime
    adds_itself = (onnxruntime and case.folded) or case.attributes.get("beta") == 0
    assert held["Split"] == (1 if case.parts > 1 else 0)
    added = 0 if case.bias is None or adds_itself else 1
    assert held["Add"] + held["Sum"] == added + held["Split"]
    assert ("com.microsoft" in {o.domain for o in done.proto.opset_import}) == onnxruntime


def quantized_at_run_time(x: np.ndarray) -> np.ndarray:
    """DynamicQuantizeLinear-11 and back, in numpy."""
    lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((hi - lo) / 255)
    zero = np.clip(np.rint(-lo / scale), 0, 255)
    q = np.clip(np.rint(x / scale) + zero, 0, 255)
    return np.asarray((q - zero) * scale, np.float64)


def _by_the_formula(case: Product, done: Written) -> list[dict[str, np.ndarray]]:
    """The results, where each part of x is quantized by its own range, the weight by the scales of the plan."""
    site = next(s for s in done.plan.sites if s.kind is Kind.FUSED)
    value = done.candidate.model.view.values[site.value].const_value
    assert value is not None
    assert site.qparams is not None
    w, scale = value.numpy(), site.qparams.scale
    if case.attributes.get("transB"):
        w, scale = w.T, scale.T
    scales = np.repeat(scale, len(w) // len(scale), axis=0) if scale.ndim == 2 else scale
    w = np.clip(np.rint(w / scales), site.spec.qtype.qmin, site.spec.qtype.qmax) * scales.astype(np.float64)
    bias = 0.0 if case.bias is None else weights(*case.bias, seed=5) * 10 * case.attributes.get("beta", 1.0)
    wanted = []
    across = w.ndim - 2 if w.ndim > 1 else 0
    for sample in done.samples:
        x = sample["x"].T if case.attributes.get("transA") else sample["x"]
        lefts, rights = np.split(x, case.parts, axis=-1), np.split(w, case.parts, axis=across)
        products = sum(quantized_at_run_time(p) @ v for p, v in zip(lefts, rights, strict=True))
        wanted.append({"y": products + bias})
    return wanted


@pytest.mark.parametrize("target", COMMON)
def test_an_outlier_spoils_its_own_part_only(target: str) -> None:
    """The purpose of splitting: a channel 1000 times the others coarsens 512 values, not all 1024."""
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": [16, 1024]}, ["y"], {"w": weights(1024, 32)})
    (sample,) = samples(1, x=(16, 1024))
    sample["x"][:, 0] = 1000
    done = write(proto, [sample], target, mode="dynamic")
    near, far = sample["x"].copy(), sample["x"].copy()
    near[:, 512:], far[:, :512] = 0, 0
    both, first = run(done.data, [sample, {"x": near}])
    assert sqnr(run(proto, [{"x": far}]), [{"y": both["y"] - first["y"]}]) > 30


@pytest.mark.parametrize(("target", "total"), in_turn(COMMON, [1024, 128]))
def test_readers_of_one_activation_quantize_it_once(target: str, total: int) -> None:
    nodes = [node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(3)]
    constants = {f"w{i}": weights(total, 96, seed=i) for i in range(3)}
    proto = model(nodes, {"x": [16, total]}, ["y0", "y1", "y2"], constants)
    fed = samples(2, x=(16, total))
    done = write(proto, fed, target, mode="dynamic")
    counts, parts = ops(done.proto), total // 512 or 1
    assert counts["DynamicQuantizeLinear"] == parts
    assert counts["Split"] == (1 if parts > 1 else 0)
    assert counts["DynamicQuantizeMatMul"] == 0
    assert sum(counts[op] for op in PRODUCTS) == 3 * parts
    for optimize in (True, False):
        assert sqnr(run(proto, fed), run(done.data, fed, optimize)) > 30


@pytest.mark.parametrize(("target", "trans"), in_turn(COMMON, [(0, 1), (0, 0)]))
@exact_products
def test_equal_uses_of_one_weight_share_its_integers(target: str, trans: tuple[int, int]) -> None:
    nodes = [node("Gemm", [f"x{i}", "w"], [f"y{i}"], transB=t) for i, t in enumerate(trans)]
    proto = model(nodes, {"x0": [16, K], "x1": [16, K]}, ["y0", "y1"], {"w": weights(K, K)})
    fed = samples(2, x0=(16, K), x1=(16, K))
    done = write(proto, fed, target, mode="dynamic")
    held = [t for t in done.proto.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert len(held) == len(set(trans))
    assert sqnr(run(proto, fed), run(done.data, fed)) > 30


@pytest.mark.parametrize("target", COMMON)
def test_blocks_of_the_weight_are_those_of_the_activation(target: str) -> None:
    plan = written("split-1536-3d", target).plan
    (fused,) = (s for s in plan.sites if s.kind is Kind.FUSED)
    assert fused.spec.granularity == PerBlock(0, 512)
    assert sites(plan, Kind.RUNTIME)["x"].spec.granularity == PerBlock(-1, 512)


LSTMS = [name for name in ZOO if "lstm" in name]


@pytest.mark.parametrize(("name", "target"), in_turn(LSTMS, ("cpu", "generic")))
@exact_products
def test_lstm(name: str, target: str) -> None:
    """onnxruntime has a fused form; elsewhere an LSTM stays, and its weights are stored as int8."""
    case = ZOO[name]
    done = write(case.build(), case.samples(), target, mode="dynamic")
    counts = ops(done.proto)
    before = ops(done.original)["LSTM"]
    fused = TARGETS[target].onnxruntime
    assert (counts["DynamicQuantizeLSTM"], counts["LSTM"]) == ((before, 0) if fused else (0, before))
    wanted = run(done.original, done.samples)
    for optimize in (True, False):
        assert sqnr(wanted, run(done.data, done.samples, optimize)) > 25
    if not fused:
        assert sqnr(run(done.data, done.samples, optimize=False), evaluate(done.data, done.samples)) > 80


GATHERS: dict[str, tuple[tuple[int, ...], int, Sequence[int]]] = {
    "rows": ((512, 32), 0, (2, 5)),
    "one-id": ((512, 32), 0, ()),
    "columns": ((32, 512), 1, (7,)),
    "last-axis": ((32, 512), -1, (2, 3)),
    "cube": ((512, 4, 8), 0, (3,)),
}


@pytest.mark.parametrize(
    ("name", "target", "mode"), in_turn(GATHERS, COMMON, ["dynamic", "static", "weight-only"])
)
def test_an_embedding_is_int8_in_the_file_and_gives_the_rows_it_did(
    name: str, target: str, mode: str
) -> None:
    shape, axis, ids = GATHERS[name]
    proto = model(
        [node("Gather", ["table", "ids"], ["y"], axis=axis)],
        {"ids": list(ids)},
        ["y"],
        {"table": weights(*shape)},
        input_type=onnx.TensorProto.INT64,
    )
    limit = shape[axis]
    fed = [{"ids": rng(i).integers(-limit, limit, ids)} for i in range(3)]
    done = write(proto, fed, target, mode=mode)
    assert all(
        t.data_type != onnx.TensorProto.FLOAT or len(t.raw_data) < 8192 * 4
        for t in done.proto.graph.initializer
    )
    wanted = run(proto, fed)
    for optimize in (True, False):
        got = run(done.data, fed, optimize)
        assert [o["y"].shape for o in got] == [o["y"].shape for o in wanted]
        assert sqnr(wanted, got) > 35
