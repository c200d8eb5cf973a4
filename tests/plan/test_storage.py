"""Weight storage: kinds, granularities, block sizes, and the reasons of weights that stay float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from qtool.numerics.metrics import sqnr
from qtool.numerics.qparams import magnitudes
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.plan.eligible import nbits_block
from qtool.plan.model import Kind, Site
from qtool.plan.scheme import BLOCKS
from qtool.plan.storage import cut_into_blocks, nearest_divisor, storage_granularity
from qtool.plan.weights import largest_divisor
from qtool.tables.modes import MODES
from qtool.tables.ops import OPS
from qtool.tables.qtypes import (
    INT8,
    PER_TENSOR,
    UINT2,
    UINT4,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    QType,
    TensorSpec,
)
from qtool.tables.targets import TARGETS
from tests.graphs import node, rng, weights
from tests.numerics.test_metrics import compare_arrays
from tests.plan.build import model
from tests.plan.flow import drafted, reasons
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(30), derandomize=True, database=None)
FLOOR = MODES["weight-only"].storage_floor_db
LEAST = MODES["weight-only"].storage_min_elements
STORES = (Kind.STORED, Kind.LOOKUP)


def matmul(w: np.ndarray, name: str = "n") -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"], name=name)], {"x": [2, w.shape[-2]]}, ["y"], {"w": w})


def table(w: np.ndarray, axis: int = 0) -> onnx.ModelProto:
    gather = node("Gather", ["w", "ids"], ["y"], name="n", axis=axis)
    return model([gather], {"ids": ["N"]}, ["y"], {"w": w}, input_type=TensorProto.INT64)


def stored(
    proto: onnx.ModelProto, target: str = "cpu", mode: str = "weight-only", **options: object
) -> list[Site]:
    return [s for s in drafted(proto, target, mode=mode, **options).sites if s.kind in STORES]


def heavy(*shape: int) -> np.ndarray:
    """Outliers that need one scale for each block."""
    w = rng(3).standard_normal(shape)
    w[..., 0] *= 40
    return w.astype(np.float32)


def hopeless(rows: int, columns: int) -> np.ndarray:
    """One value 60 times the rest in each channel."""
    w = rng(3).uniform(-2, 2, (rows, columns))
    w[0] = 127
    return w.astype(np.float32)


# ---- cut_into_blocks() ----

CUTS: dict[str, tuple[tuple[int, ...], Granularity, int, Granularity | None]] = {
    "matrix": ((128, 64), PerChannel(1), 32, PerBlock(0, 32)),
    "matrix-transposed": ((64, 128), PerChannel(0), 32, PerBlock(1, 32)),
    "matrix-as-asked": ((256, 8), PerChannel(1), 128, PerBlock(0, 128)),
    "matrix-near": ((300, 8), PerChannel(1), 32, PerBlock(0, 30)),
    "matrix-of-one-block": ((20, 8), PerChannel(1), 32, PerBlock(0, 20)),
    "matrix-prime": ((97, 8), PerChannel(1), 32, PerBlock(0, 32)),
    "matrix-too-short": ((15, 8), PerChannel(1), 32, None),
    "stack": ((3, 64, 8), PerChannel(2), 32, PerBlock(1, 32)),
    "conv": ((8, 16, 3, 3), PerChannel(0), 32, PerRun(36)),
    "conv-1x1": ((8, 64, 1, 1), PerChannel(0), 32, PerRun(32)),
    "conv-1d": ((8, 16, 4), PerChannel(0), 32, PerRun(32)),
    "depthwise": ((64, 1, 3, 3), PerChannel(0), 32, None),
    "transposed-conv": ((64, 8, 2, 2), PerChannel(1), 32, PerBlock(0, 32)),
    "recurrent": ((2, 96, 64), PerRowOfLast(), 32, PerBlock(2, 32)),
    "conv-prime": ((8, 53, 1, 1), PerChannel(0), 32, PerRun(32)),
    "recurrent-prime": ((2, 96, 97), PerRowOfLast(), 32, PerBlock(2, 32)),
    "vector": ((128,), PerChannel(0), 32, None),
    "whole": ((128, 64), PER_TENSOR, 32, None),
}


@pytest.mark.parametrize(("shape", "coarse", "size", "wanted"), CUTS.values(), ids=CUTS)
def test_channels_are_cut_into_blocks_near_the_size(
    shape: tuple[int, ...], coarse: Granularity, size: int, wanted: Granularity | None
) -> None:
    assert cut_into_blocks(weights(*shape), coarse, size) == wanted


@LAW
@given(
    st.lists(st.integers(1, 70), min_size=2, max_size=4),
    st.sampled_from([PerChannel(0), PerChannel(1), PerRowOfLast()]),
    st.sampled_from(BLOCKS),
)
def test_no_scale_covers_two_channels(shape: list[int], coarse: Granularity, size: int) -> None:
    """With channels of one value each, the largest and the smallest of every block are the same."""
    w = np.ones(shape, np.float32)
    if isinstance(coarse, PerChannel):
        axis: int | tuple[int, ...] = coarse.axis
        w *= np.arange(1, shape[axis] + 1).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    else:
        w *= np.arange(1, w[..., 0].size + 1).reshape(*shape[:-1], 1)
    cut = cut_into_blocks(w, coarse, size)
    if cut is None:
        return
    assert size // 2 <= cut.size <= size * 3 // 2
    np.testing.assert_allclose(magnitudes(w, cut) * magnitudes(1 / w, cut), 1, rtol=1e-5)


# ---- storage_granularity() ----


@LAW
@given(
    st.sampled_from([(64, 32), (32, 64), (128, 16), (96, 8), (40, 24)]),
    st.sampled_from([PerChannel(0), PerChannel(1)]),
    st.sampled_from([1.5, 2.0, 3.0, 30.0]),
    st.sampled_from([0, 32, 64, 128]),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_coarsest_granularity_above_the_floor_is_found(
    shape: tuple[int, int], coarse: PerChannel, tail: float, first: int, can_block: bool, seed: int
) -> None:
    w = rng(seed).standard_t(tail, shape).astype(np.float32)
    granularity = storage_granularity(w, coarse, FLOOR, can_block=can_block, first=first)

    def loss(option: Granularity) -> float:
        p = weight_qparams(w, TensorSpec(INT8, option, symmetric=True))
        return sqnr(compare_arrays(w, dequantize(quantize(w, p, INT8, option), p, option)))

    along = 1 - coarse.axis
    cuts = [PerBlock(along, size) for size in BLOCKS[::-1] if shape[along] % size == 0] if can_block else []
    order = [coarse, *cuts]
    if first and (begun := [c for c in cuts if c.size <= first]):
        order = begun  # a matrix of a weight-only file begins with blocks
    wanted = next((o for o in order if loss(o) >= FLOOR), None)
    assert granularity == wanted


# ---- stored() ----

KINDS: dict[str, tuple[onnx.ModelProto, Kind, Granularity]] = {
    "matmul": (matmul(weights(128, 64)), Kind.STORED, PerBlock(0, 128)),
    "matmul-that-can-t-be-cut": (matmul(weights(97, 64)), Kind.STORED, PerChannel(1)),
    "matmul-of-blocks": (matmul(weights(96, 64)), Kind.STORED, PerBlock(0, 32)),
    "table-of-rows": (table(weights(512, 32)), Kind.LOOKUP, PerChannel(0)),
    "table-of-columns": (table(weights(32, 512), axis=1), Kind.STORED, PerChannel(1)),
    "table-with-outliers": (table(heavy(64, 512)), Kind.STORED, PerBlock),
}  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize(("proto", "kind", "granularity"), KINDS.values(), ids=KINDS)
def test_kind_and_granularity_of_stored_weights(
    proto: onnx.ModelProto, kind: Kind, granularity: Granularity | type, target: str
) -> None:
    (site,) = stored(proto, target)
    assert site.kind is kind
    assert site.spec.qtype is INT8
    assert site.spec.symmetric
    actual = site.spec.granularity
    assert actual == granularity or (isinstance(granularity, type) and isinstance(actual, granularity))


def of_size(op: str, size: int) -> onnx.ModelProto:
    return matmul(weights(size // 8, 8)) if op == "MatMul" else table(weights(size // 8, 8))


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize(("op", "least"), [("MatMul", LEAST), ("Gather", OPS["Gather"].storage_min_elements)])
def test_small_weights_stay_with_their_reason(op: str, least: int, target: str) -> None:
    assert least > LEAST or op == "MatMul"
    assert len(stored(of_size(op, least), target)) == 1
    plan = drafted(of_size(op, least - 8), target, mode="weight-only")
    assert not plan.sites
    assert str(least) in reasons(plan)["n"]


def test_a_weight_below_the_floor_in_8_bits_stays_with_its_reason() -> None:
    """997 is a prime: it can't be cut either."""
    plan = drafted(matmul(hopeless(997, 8)), mode="weight-only")
    assert not plan.sites
    assert "dB" in reasons(plan)["n"]


@pytest.mark.parametrize(("mode", "bad"), [("weight-only", np.nan), ("static", -np.inf), ("dynamic", np.inf)])
def test_a_weight_that_is_not_finite_stays_with_its_reason(mode: str, bad: float) -> None:
    w = weights(64, 64)
    w[0, 0] = bad
    plan = drafted(matmul(w), mode=mode)
    assert not plan.sites
    assert "NaN or infinity" in reasons(plan)["n"]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_requested_block_is_kept(block: int) -> None:
    for w in (weights(256, 8), hopeless(256, 8)):
        (site,) = stored(matmul(w), block=block)
        assert site.spec == TensorSpec(INT8, PerBlock(0, block), symmetric=True)


@pytest.mark.parametrize(("w", "granularity"), [((128, 64), PerBlock(0, 32)), ((300, 8), PerBlock(0, 30))])
def test_four_bits_are_affine_in_blocks(w: Sequence[int], granularity: PerBlock) -> None:
    (site,) = stored(matmul(weights(*w)), bits=4)
    assert site.spec == TensorSpec(UINT4, granularity, symmetric=False)


@pytest.mark.parametrize(("length", "qtype"), [(97, UINT4), (15, INT8)])
def test_a_product_of_any_length_is_stored_in_4_bits_but_a_short_one(length: int, qtype: QType) -> None:
    """97 is a prime: the last block is shorter. Scales for 15 values would cost what 4 bits save."""
    (site,) = stored(matmul(weights(length, 256)), bits=4)
    assert site.spec.qtype is qtype


def test_tables_keep_8_bits_unless_the_user_sets_4() -> None:
    """Every output depends on an embedding; the op's row says 8."""
    proto = table(weights(512, 32))
    (site,) = stored(proto, bits=4)
    assert site.spec.qtype is INT8
    (site,) = stored(proto, bits=4, sets=["n=int4"])
    assert site.spec.qtype is UINT4


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_every_mode_stores_weights_of_float_nodes_but_excluded_ones(mode: str, target: str) -> None:
    """An excluded node's weight stays float; one that no mode computes in int8 is stored in each."""
    nodes = [node("Gather", ["w", "ids"], ["e"], name="n"), node("Sin", ["e"], ["y"])]
    proto = model(nodes, {"ids": ["N"]}, ["y"], {"w": weights(512, 32)}, input_type=TensorProto.INT64)
    (site,) = stored(proto, target, mode)
    assert (site.kind, site.spec) == (Kind.LOOKUP, TensorSpec(INT8, PerChannel(0), symmetric=True))
    assert not stored(proto, target, mode, exclude=["n"])


def test_a_table_read_in_two_ways_is_stored_once_for_both() -> None:
    nodes = [
        node("Gather", ["w", "ids"], ["a"], name="pick"),
        node("MatMul", ["a", "v"], ["b"], name="product"),
        node("Gemm", ["b", "w"], ["y"], name="tied", transB=1),
    ]
    constants = {"w": weights(512, 32), "v": weights(32, 32)}
    proto = model(nodes, {"ids": ["N"]}, ["y"], constants, input_type=TensorProto.INT64)
    uses = {u for s in stored(proto) if s.value == "w" for u in s.uses or ()}
    assert uses == {("pick", 0), ("tied", 1)}


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_blocks_need_opset_21_or_onnxruntime(target: str) -> None:
    """Static plans are of opset 13: where DequantizeLinear must say it, a channel is the least there."""
    stored_sites = stored(table(heavy(64, 512)), target, "static")
    granularity = [s.spec.granularity for s in stored_sites]
    if TARGETS[target].onnxruntime:
        assert [type(g) for g in granularity] == [PerBlock]
    else:
        assert not any(isinstance(g, PerBlock) for g in granularity)


# ---- block sizes ----

LENGTHS = st.integers(1, 5000)
TYPES = [INT8, UINT4, UINT2]


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@LAW
@given(LENGTHS, st.integers(1, 600))
def test_largest_divisor_up_to_a_limit(number: int, limit: int) -> None:
    assert largest_divisor(number, limit) == max(d for d in divisors(number) if d <= limit)


@LAW
@given(LENGTHS, st.integers(1, 256))
def test_nearest_divisor_within_half_of_the_wanted_size(number: int, wanted: int) -> None:
    divisor = nearest_divisor(number, wanted)
    near = [d for d in divisors(number) if wanted // 2 <= d <= wanted * 3 // 2]
    if not near:
        assert divisor == 0
        return
    assert divisor in near
    assert abs(divisor - wanted) == min(abs(d - wanted) for d in near)


@pytest.mark.parametrize(
    ("number", "wanted", "divisor"),
    [
        (27, 32, 27),  # 3 channels of 3 x 3: one block
        (72, 32, 36),
        (147, 32, 21),
        (100, 32, 25),
        (300, 32, 30),
        (31, 32, 31),
        (97, 32, 0),  # a prime
        (16, 32, 16),
        (15, 32, 0),
        (48, 32, 24),  # of two as near, the shorter
        (49, 32, 0),
        (1, 32, 0),
    ],
)
def test_nearest_divisor_of_real_layers(number: int, wanted: int, divisor: int) -> None:
    assert nearest_divisor(number, wanted) == divisor


@LAW
@given(LENGTHS, st.sampled_from(TYPES), st.sampled_from([0, *BLOCKS]))
def test_matmulnbits_blocks_are_powers_of_two_from_16_that_divide_where_one_does(
    total: int, qtype: QType, wanted: int
) -> None:
    """MatMulNBits takes nothing else (onnxruntime docs/ContribOperators.md), and fills the last block."""
    size = nbits_block(total, qtype, wanted)
    if size == 0:
        assert total < 16
        return
    assert size >= 16
    assert size & (size - 1) == 0
    assert not wanted or size <= wanted
    assert total % size == 0 or (total % 16 and total >= size)
    assert size == wanted or not wanted or total % (2 * size) or total % 16, (
        "a longer block would divide, too"
    )


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "attributes", "axis"),
    [
        ("Attention", ["x", "w", "b"], (32, 96), {"num_heads": 4}, 1),
        ("FusedMatMul", ["x", "w"], (96, 32), {"transA": 1, "transB": 1}, 0),
        ("FusedMatMul", ["x", "w"], (32, 96), {"transA": 1}, 1),
    ],
)
def test_weights_of_the_runtimes_own_ops_are_stored_by_output_channel(
    op: str, inputs: list[str], shape: tuple[int, ...], attributes: dict[str, object], axis: int
) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [1, 32, 32]}, {"y": [1, 32, 96]}, {})
    proto.graph.node[0].CopyFrom(node(op, inputs, ["y"], "n", domain="com.microsoft", **attributes))
    held = {"w": weights(*shape), "b": weights(96)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(held[name], name) for name in inputs[1:])
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    (site,) = stored(proto)
    assert (site.value, site.spec.granularity) == ("w", PerBlock(1 - axis, 32))
