"""MatMulNBits against FP32, against the integers in the plan, and against its own stored twin."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import numpy_helper

from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.model import Kind, Site
from qtool.plan.scheme import BLOCKS
from qtool.rewrite.nbits import pack
from qtool.tables.forms import Form
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import PerBlock
from qtool.tables.targets import TARGETS, Target
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import reasons
from tests.rewrite.flow import Written, run, sqnr, write
from tests.tiers import examples, in_turn

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
ABLE = [name for name, row in TARGETS.items() if Form.NBITS in row.forms]
# What one 8-bit quantization of the activations, which the kernel does, and one of the weights leave.
FLOORS = {8: 38.0, 4: 15.0, 2: 5.0}


@dataclass(frozen=True)
class Product:
    """x [.., K] times a constant w, in blocks.

    Args:
        bias: shape of Gemm's C, or of what an Add behind a MatMul adds.
        folded: the Add behind it becomes its bias.
        block: asked for; 0: the default.
    """

    op: str = "MatMul"
    x: tuple[int, ...] = (4, 512)
    w: tuple[int, ...] = (512, 256)
    bias: tuple[int, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    folded: bool = True
    block: int = 0


CASES: dict[str, Product] = {
    "matmul": Product(),
    "matmul-3d": Product(x=(2, 3, 512)),
    "matmul-one-row": Product(x=(1, 512)),
    "matmul-bias": Product(bias=(256,)),
    "matmul-bias-row": Product(bias=(1, 256)),
    "matmul-3d-bias-cube": Product(x=(2, 3, 512), bias=(1, 1, 256)),
    "matmul-bias-raises-rank": Product(bias=(1, 1, 256), folded=False),
    "matmul-bias-matrix": Product(bias=(4, 256), folded=False),
    "gemm": Product("Gemm", bias=(256,)),
    "gemm-row": Product("Gemm", bias=(1, 256)),
    "gemm-no-bias": Product("Gemm"),
    "gemm-transB": Product("Gemm", w=(256, 512), bias=(256,), attributes={"transB": 1}),
    "gemm-alpha-beta": Product("Gemm", bias=(256,), attributes={"alpha": 0.5, "beta": -2.0}),
    "one-block": Product(x=(4, 128), w=(128, 1100), block=128),
    "odd-number-of-blocks": Product(x=(4, 480), w=(480, 300), block=32),
    "odd-transB": Product("Gemm", (4, 480), (300, 480), attributes={"transB": 1}, block=32),
    "blocks-of-16": Product(x=(4, 496), w=(496, 300), block=32),
    "odd-columns": Product(w=(512, 259), bias=(259,)),
    **{f"blocks-of-{size}": Product(bias=(256,), block=size) for size in BLOCKS},
}
EVERY = in_turn(product(CASES, WEIGHT_BITS), ABLE)


def of_any_size(name: str) -> Target:
    """The target, did it find every product worth it."""
    target = TARGETS[name]
    if Form.NBITS not in target.forms:
        return target
    eager = replace(target.forms[Form.NBITS], min_weight=0, min_vector_weight=0)
    return replace(target, forms={**target.forms, Form.NBITS: eager})


def build(case: Product, scale: float = 1.0) -> onnx.ModelProto:
    constants = {"w": weights(*case.w) * np.float32(scale)}
    if case.bias is not None:
        constants["b"] = weights(*case.bias, seed=5) * 10
    if case.op == "Gemm":
        inputs = ["x", "w", *(["b"] if case.bias is not None else [])]
        nodes = [node("Gemm", inputs, ["y"], name="product", **case.attributes)]
    elif case.bias is None:
        nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    else:
        nodes = [
            node("MatMul", ["x", "w"], ["p"], name="product"),
            node("Add", ["p", "b"], ["y"], name="add"),
        ]
    return model(nodes, {"x": list(case.x)}, ["y"], constants)


def written(name: str, bits: int, prefer: str = "speed", target: str = "cpu") -> Written:
    case = CASES[name]
    options = {"bits": bits, "block": case.block, "prefer": prefer}
    return write(build(case), samples(3, x=case.x), of_any_size(target), mode="weight-only", **options)


def the_node(proto: onnx.ModelProto) -> onnx.NodeProto:
    (product,) = [n for n in proto.graph.node if n.op_type == "MatMulNBits"]
    return product


def attributes(product: onnx.NodeProto) -> dict[str, int]:
    return {a.name: a.i for a in product.attribute}


@pytest.mark.parametrize(("name", "bits", "target"), EVERY)
def test_each_product(name: str, bits: int, target: str) -> None:
    case, done = CASES[name], written(name, bits, target=target)
    onnx.checker.check_model(done.proto, full_check=True)
    _holds_the_integers_of_the_plan(case, done, bits)
    adds = [n for n in done.proto.graph.node if n.op_type == "Add"]
    inside = case.bias is not None and case.folded
    assert bool([i for i in the_node(done.proto).input[5:] if i]) == inside
    assert len(adds) == (case.bias is not None and not inside)
    wanted = run(done.original, done.samples)
    for optimize in (True, False):
        got = run(done.data, done.samples, optimize)
        assert [o["y"].shape for o in got] == [o["y"].shape for o in wanted]
        assert sqnr(wanted, got) > FLOORS[bits]


def weight_of(done: Written) -> tuple[Site, np.ndarray]:
    (site,) = [s for s in done.plan.sites if s.kind is Kind.FUSED]
    value = done.candidate.model.view.values[site.value].const_value
    assert value is not None
    return site, value.numpy()


def _holds_the_integers_of_the_plan(case: Product, done: Written, bits: int) -> None:
    """Unpacked as the operator's documentation says, they are the plan's weight, [N, K]."""
    site, w = weight_of(done)
    assert site.qparams is not None
    granularity = site.spec.granularity
    assert isinstance(granularity, PerBlock)
    wanted = dequantize(quantize(w, site.qparams, site.spec.qtype, granularity), site.qparams, granularity)
    if not case.attributes.get("transB"):
        wanted = wanted.T
    product = the_node(done.proto)
    said = attributes(product)
    held = {t.name: numpy_helper.to_array(t) for t in done.proto.graph.initializer}
    columns, total, size = said["N"], said["K"], said["block_size"]
    assert (columns, total, size, said["bits"]) == (*wanted.shape, granularity.size, bits)
    packed, scales = held[product.input[1]], held[product.input[2]]
    assert packed.shape == (columns, total // size, size * bits // 8)
    assert scales.reshape(columns, -1).shape == (columns, total // size)
    zeros = np.full((columns, total // size), 2 ** (bits - 1))
    if len(product.input) > 3 and product.input[3]:
        zeros = unpack(held[product.input[3]].reshape(columns, -1), bits)[:, : total // size]
    q = unpack(packed, bits).reshape(columns, total // size, size)
    restored = (q - zeros[..., None]) * scales.reshape(columns, -1, 1)
    np.testing.assert_allclose(restored.reshape(columns, total), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "bits"), in_turn(["one-block", "odd-transB", "blocks-of-64"], WEIGHT_BITS))
def test_size_and_speed_agree(name: str, bits: int) -> None:
    """A weight unpacked at load is the same as in the kernel, whose 8-bit activations differ."""
    size, speed = written(name, bits, "size"), written(name, bits)
    (stored,) = [s for s in size.plan.sites if s.kind is Kind.STORED]
    assert weight_of(speed)[0].spec == stored.spec
    assert sqnr(run(size.data, size.samples), run(speed.data, speed.samples)) > 35


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_last_block_is_filled(bits: int) -> None:
    """683 is a prime: no block divides it."""
    case = replace(CASES["matmul"], x=(4, 683), w=(683, 300))
    proto = build(case)
    size, speed = (
        write(proto, samples(2, x=case.x), of_any_size("cpu"), mode="weight-only", bits=bits, prefer=prefer)
        for prefer in ("size", "speed")
    )
    assert set(speed.plan.forms.values()) == {Form.NBITS}
    assert all(s.spec.qtype.bits == bits for s in (*size.plan.sites, *speed.plan.sites))
    for done in (size, speed):
        assert sqnr(run(proto, done.samples), run(done.data, done.samples)) > FLOORS[bits]


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_what_is_shorter_than_a_block_says_so_and_is_stored(bits: int) -> None:
    total = 15
    proto = model(
        [node("MatMul", ["x", "w"], ["y"], name="product")],
        {"x": [4, total]},
        ["y"],
        {"w": weights(total, 300)},
    )
    done = write(
        proto, samples(2, x=(4, total)), of_any_size("cpu"), mode="weight-only", bits=bits, prefer="speed"
    )
    assert "product" not in done.plan.forms
    assert "block" in reasons(done.plan)["product"]
    assert [s.kind for s in done.plan.sites] == [Kind.STORED]
    assert sqnr(run(proto, done.samples), run(done.data, done.samples)) > FLOORS[bits]


@pytest.mark.parametrize(("scale", "bits"), in_turn([1e-12, 1e-3, 1e6], WEIGHT_BITS))
def test_weights_of_any_size(bits: int, scale: float) -> None:
    case = CASES["matmul"]
    done = write(
        build(case, scale), samples(2, x=case.x), "cpu", mode="weight-only", bits=bits, prefer="speed"
    )
    assert sqnr(run(done.original, done.samples), run(done.data, done.samples)) > FLOORS[bits]


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_a_column_of_zeros_stays_one(bits: int) -> None:
    proto = build(CASES["matmul"])
    w = weights(512, 256)
    w[:, 7] = 0
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    done = write(proto, samples(2, x=(4, 512)), "cpu", mode="weight-only", bits=bits, prefer="speed")
    for out in run(done.data, done.samples):
        # The kernel takes the zero points' share off a sum of the activations, which rounds.
        np.testing.assert_allclose(out["y"][:, 7], 0, atol=1e-5)
        assert np.isfinite(out["y"]).all()


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_two_products_of_one_weight_hold_it_once(bits: int) -> None:
    nodes = [node("MatMul", [f"x{i}", "w"], [f"y{i}"]) for i in range(2)]
    proto = model(nodes, {"x0": [4, 512], "x1": [4, 512]}, ["y0", "y1"], {"w": weights(512, 256)})
    done = write(
        proto,
        samples(2, x0=(4, 512), x1=(4, 512)),
        of_any_size("cpu"),
        mode="weight-only",
        bits=bits,
        prefer="speed",
    )
    made = [n for n in done.proto.graph.node if n.op_type == "MatMulNBits"]
    assert len(made) == 2
    assert list(made[0].input[1:]) == list(made[1].input[1:])
    assert sqnr(run(proto, done.samples), run(done.data, done.samples)) > FLOORS[bits]


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """As many in a byte as fit, the first lowest."""
    parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1).astype(np.int64)


@LAW
@given(
    st.sampled_from(list(WEIGHT_BITS)),
    npst.array_shapes(min_dims=1, max_dims=3, max_side=9),
    st.integers(0, 2**32 - 1),
)
def test_packing_is_reversible(bits: int, shape: tuple[int, ...], seed: int) -> None:
    """The rest of the last byte is zeros."""
    q = np.random.default_rng(seed).integers(0, 2**bits, shape)
    packed = pack(q, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    unpacked = unpack(packed, bits)
    np.testing.assert_array_equal(unpacked[..., : shape[-1]], q)
    assert not unpacked[..., shape[-1] :].any()
