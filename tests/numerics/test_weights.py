"""Scales of weights: affine and symmetric, in every type and granularity, held to what rounding allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qtool.numerics.metrics import sqnr
from qtool.numerics.qparams import LARGEST_SCALE, SMALLEST_SCALE, QParams, fold, midpoint, unfold
from qtool.numerics.quantize import dequantize, quantize, spread
from qtool.numerics.weights import affine_qparams, bias_scale_floor, weight_qparams
from qtool.plan.scheme import WEIGHT_TYPES
from qtool.tables.qtypes import (
    INT8,
    INT8_REDUCED,
    INT16,
    PER_TENSOR,
    UINT4,
    UINT8,
    UINT16,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    QType,
    TensorSpec,
)
from tests.graphs import rng, weights
from tests.numerics.test_metrics import compare_arrays
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
SYMMETRIC = [*(t for t in WEIGHT_TYPES if t.bits > 4), INT8_REDUCED, UINT16]
AFFINE = [UINT8, INT8, INT16, UINT16]
FINE = st.floats(-1e4, 1e4, width=32).filter(lambda v: v == 0 or abs(v) > 1e-9)
MATRICES = npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=FINE)
# A weight's shape and how its scales lie.
LAYOUTS: dict[str, tuple[tuple[int, ...], Granularity]] = {
    "tensor": ((6, 8), PER_TENSOR),
    "rows": ((6, 8), PerChannel(0)),
    "columns": ((6, 8), PerChannel(1)),
    "conv": ((6, 4, 3, 3), PerChannel(0)),
    "conv-transpose": ((4, 6, 3, 3), PerChannel(1)),
    "recurrent": ((2, 6, 8), PerRowOfLast()),
    "blocks-down": ((32, 5), PerBlock(0, 8)),
    "blocks-across": ((5, 32), PerBlock(1, 8)),
    "blocks-with-a-rest": ((5, 29), PerBlock(1, 8)),
    "one-block": ((7, 5), PerBlock(0, 7)),
    "blocks-of-one": ((4, 3), PerBlock(0, 1)),
    "recurrent-blocks": ((2, 6, 8), PerBlock(2, 4)),
    "runs": ((6, 4, 3, 3), PerRun(12)),
    "odd-runs": ((3, 5, 3, 3), PerRun(15)),
}


def by_name(value: object) -> str:
    return getattr(value, "name", None) or str(value)


def there_and_back(w: np.ndarray, p: QParams, qtype: QType, granularity: Granularity) -> np.ndarray:
    return dequantize(quantize(w, p, qtype, granularity), p, granularity)


def steps_off(w: np.ndarray, p: QParams, qtype: QType, granularity: Granularity) -> np.ndarray:
    """The error of each value in steps of its own scale."""
    error = np.abs(there_and_back(w, p, qtype, granularity).astype(np.float64) - w)
    return unfold(error, granularity) / spread(p.scale.astype(np.float64), granularity, w.ndim)


def assert_sane(p: QParams, qtype: QType) -> None:
    assert p.scale.dtype == np.float32
    assert p.zero_point.dtype == np.int64
    assert p.scale.shape == p.zero_point.shape
    assert ((p.scale >= SMALLEST_SCALE) & (p.scale <= LARGEST_SCALE)).all()
    assert ((p.zero_point >= qtype.qmin) & (p.zero_point <= qtype.qmax)).all()


# ---- symmetric ----


@pytest.mark.parametrize("qtype", SYMMETRIC, ids=by_name)
@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS.values(), ids=LAYOUTS)
def test_symmetric_weights_come_back_within_half_a_step(
    shape: tuple[int, ...], granularity: Granularity, qtype: QType
) -> None:
    w = weights(*shape)
    p = weight_qparams(w, TensorSpec(qtype, granularity, symmetric=True))
    assert_sane(p, qtype)
    assert (p.zero_point == midpoint(qtype)).all()
    assert steps_off(w, p, qtype, granularity).max() <= 0.5 + 1e-2 * (qtype.bits == 16) + 1e-4


@pytest.mark.parametrize("qtype", SYMMETRIC, ids=by_name)
@LAW
@given(w=MATRICES)
def test_half_a_step_bounds_the_error_of_any_weight(qtype: QType, w: np.ndarray) -> None:
    """Float32 rounds the division and the product: at 16 bits that shows in the last place."""
    for granularity in (PER_TENSOR, PerChannel(0), PerChannel(1)):
        p = weight_qparams(w, TensorSpec(qtype, granularity, symmetric=True))
        assert_sane(p, qtype)
        slack = 2.0 ** (qtype.bits - 22)
        assert steps_off(w, p, qtype, granularity).max(initial=0) <= 0.5 + slack


@pytest.mark.parametrize("qtype", SYMMETRIC, ids=by_name)
@LAW
@given(w=MATRICES)
def test_the_largest_weight_takes_the_last_integer(qtype: QType, w: np.ndarray) -> None:
    spec = TensorSpec(qtype, PER_TENSOR, symmetric=True)
    q = quantize(w, weight_qparams(w, spec), qtype).astype(np.int64) - midpoint(qtype)
    if w.any():
        assert np.abs(q).max() == qtype.qmax - midpoint(qtype)


@pytest.mark.parametrize("qtype", SYMMETRIC, ids=by_name)
@LAW
@given(w=MATRICES)
def test_negated_weights_are_negated_integers(qtype: QType, w: np.ndarray) -> None:
    """So says the type that leaves out its lowest value."""
    spec = TensorSpec(qtype, PerChannel(0), symmetric=True)
    a, b = weight_qparams(w, spec), weight_qparams(-w, spec)
    assert a == b
    middle = midpoint(qtype)
    q, r = (quantize(x, a, qtype, PerChannel(0)).astype(np.int64) - middle for x in (w, -w))
    np.testing.assert_array_equal(q, -r)


@pytest.mark.parametrize(("fine", "coarse"), [(INT16, INT8), (INT8, INT8_REDUCED)], ids=["16-8", "8-7"])
@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS.values(), ids=LAYOUTS)
def test_each_bit_is_worth_six_decibels(
    shape: tuple[int, ...], granularity: Granularity, fine: QType, coarse: QType
) -> None:
    w = weights(*shape)
    ratios = {
        t.name: sqnr(
            compare_arrays(
                w, there_and_back(w, weight_qparams(w, TensorSpec(t, granularity, True)), t, granularity)
            )
        )
        for t in (fine, coarse)
    }
    if granularity == PerBlock(0, 1):
        return  # a scale a value holds each to the bit of its scale
    gained = ratios[fine.name] - ratios[coarse.name]
    assert gained == pytest.approx(6.02 * (fine.bits - coarse.bits), abs=3)


def test_a_bias_floor_raises_the_scale_to_itself() -> None:
    w, bias = weights(4, 8) * 1e-9, np.array([100.0, 0, -5, 1e-9], np.float32)
    floor = bias_scale_floor(bias, np.float32(0.01))
    for qtype in (INT8, INT16, UINT8):
        p = weight_qparams(w, TensorSpec(qtype, PerChannel(0), symmetric=True), floor)
        assert (p.scale.astype(np.float64) >= floor * (1 - 1e-6)).all()
        assert (np.abs(bias / (p.scale.astype(np.float64) * 0.01)) <= 2**30 * (1 + 1e-6)).all()


# ---- affine ----


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS.values(), ids=LAYOUTS)
def test_affine_scales_have_the_shape_of_symmetric_ones(
    shape: tuple[int, ...], granularity: Granularity, qtype: QType
) -> None:
    w = weights(*shape)
    p = weight_qparams(w, TensorSpec(qtype, granularity, symmetric=False))
    assert_sane(p, qtype)
    assert p.scale.shape == weight_qparams(w, TensorSpec(INT8, granularity, symmetric=True)).scale.shape
    assert sqnr(compare_arrays(w, there_and_back(w, p, qtype, granularity))) > 5 * qtype.bits - 5


@pytest.mark.parametrize("qtype", AFFINE, ids=by_name)
@LAW
@given(w=MATRICES, shift=st.sampled_from([-1e4, 0.0, 1e4]))
def test_an_affine_weight_comes_back_within_a_step(qtype: QType, w: np.ndarray, shift: float) -> None:
    """Half a step for rounding the value, and half for the zero point, which is rounded too."""
    w = (w + np.float32(shift)).astype(np.float32)
    for granularity in (PER_TENSOR, PerChannel(0), PerChannel(1)):
        p = affine_qparams(w, TensorSpec(qtype, granularity, symmetric=False))
        assert_sane(p, qtype)
        slack = 2.0 ** (qtype.bits - 22)
        assert steps_off(w, p, qtype, granularity).max(initial=0) <= 1.0 + slack


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@LAW
@given(w=MATRICES)
def test_zero_is_exact(qtype: QType, w: np.ndarray) -> None:
    for granularity in (PER_TENSOR, PerChannel(0)):
        p = affine_qparams(w, TensorSpec(qtype, granularity, symmetric=False))
        zeros = np.zeros_like(w)
        np.testing.assert_array_equal(there_and_back(zeros, p, qtype, granularity), zeros)
        back = there_and_back(w, p, qtype, granularity)
        assert not back[w == 0].any()


@LAW
@given(w=npst.arrays(np.float32, (3, 16), elements=FINE))
def test_four_bits_lose_no_more_than_plain_min_max(w: np.ndarray) -> None:
    """Clipping and refitting are only kept where the squared error falls, block by block."""
    granularity = PerBlock(1, 8)
    p = affine_qparams(w, TensorSpec(UINT4, granularity, symmetric=False))
    assert_sane(p, UINT4)
    blocks = w.reshape(3, 2, 8).astype(np.float64)
    lo, hi = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = np.where(hi > lo, hi - lo, 1).astype(np.float32) / np.float32(15)
    plain = QParams(scale, np.clip(np.rint(-lo / scale), 0, 15).astype(np.int64))

    def error(qparams: QParams) -> np.ndarray:
        back = there_and_back(w, qparams, UINT4, granularity).reshape(3, 2, 8)
        return np.square(back - blocks).sum(-1)

    ours, theirs = error(p), error(plain)
    assert (ours <= theirs * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_four_bits_gain_by_clipping_what_is_gaussian(size: int) -> None:
    w = weights(64, 128)
    granularity = PerBlock(1, size)
    blocks = w.reshape(64, -1, size)
    lo, hi = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = (hi - lo) / np.float32(15)
    plain = QParams(scale, np.rint(-lo / scale).astype(np.int64))
    fitted = affine_qparams(w, TensorSpec(UINT4, granularity, symmetric=False))
    a, b = (sqnr(compare_arrays(w, there_and_back(w, p, UINT4, granularity))) for p in (plain, fitted))
    assert b > a + 0.15


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@pytest.mark.parametrize("top", [1e30, 1e38, 3.4e38])
def test_the_ends_of_float32_give_finite_scales_without_a_warning(qtype: QType, top: float) -> None:
    w = np.asarray(rng(0).uniform(-1, 1, (4, 8)) * top, np.float32)
    w[0, :2] = top, -top
    p = affine_qparams(w, TensorSpec(qtype, PerChannel(0), symmetric=False))
    assert np.isfinite(p.scale).all()
    assert (p.scale > 0).all()


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
def test_weights_on_one_side_of_zero_have_their_zero_point_at_the_end(qtype: QType, sign: int) -> None:
    w = np.asarray(sign * rng(0).uniform(0.5, 1.0, (8, 16)), np.float32)
    p = affine_qparams(w, TensorSpec(qtype, PerChannel(0), symmetric=False))
    assert (p.zero_point == (qtype.qmin if sign > 0 else qtype.qmax)).all()


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-30, 1e15])
def test_a_constant_weight(qtype: QType, value: float) -> None:
    """One value is held as well as float32 and the least scale allow."""
    w = np.full((4, 8), value, np.float32)
    for granularity in (PER_TENSOR, PerChannel(0), PerBlock(1, 4)):
        p = affine_qparams(w, TensorSpec(qtype, granularity, symmetric=False))
        assert_sane(p, qtype)
        back = there_and_back(w, p, qtype, granularity)
        if abs(value) > SMALLEST_SCALE:
            np.testing.assert_allclose(back, w, rtol=1e-3)
        assert np.isfinite(back).all()


@pytest.mark.parametrize("qtype", [*AFFINE, UINT4], ids=by_name)
@pytest.mark.parametrize(
    ("shape", "granularity"), [((0, 4), PER_TENSOR), ((4, 0), PerChannel(0)), ((0, 4), PerChannel(1))]
)
def test_an_empty_weight_gives_sane_scales(
    shape: tuple[int, ...], granularity: Granularity, qtype: QType
) -> None:
    assert_sane(
        affine_qparams(np.zeros(shape, np.float32), TensorSpec(qtype, granularity, symmetric=False)), qtype
    )


@pytest.mark.parametrize(("shape", "granularity"), LAYOUTS.values(), ids=LAYOUTS)
def test_each_scale_depends_on_its_own_values(shape: tuple[int, ...], granularity: Granularity) -> None:
    """Scaling a weight by powers of two under each scale scales those scales, and moves no integer."""
    if granularity == PER_TENSOR:
        return
    w = weights(*shape)
    for qtype, symmetric in ((INT8, True), (UINT4, False), (UINT8, False)):
        spec = TensorSpec(qtype, granularity, symmetric)
        p = weight_qparams(w, spec)
        factors = 2.0 ** rng(1).integers(-8, 8, p.scale.shape)
        scaled = unfold(w, granularity) * spread(factors, granularity, w.ndim)
        scaled = fold(scaled, granularity, w.shape).astype(np.float32)
        moved = weight_qparams(scaled, spec)
        np.testing.assert_allclose(moved.scale, p.scale * factors, rtol=1e-6)
        np.testing.assert_array_equal(moved.zero_point, p.zero_point)
        np.testing.assert_array_equal(
            quantize(scaled, moved, qtype, granularity), quantize(w, p, qtype, granularity)
        )


def test_the_weight_is_not_changed() -> None:
    w = weights(8, 16)
    before = w.copy()
    for symmetric in (True, False):
        weight_qparams(w, TensorSpec(UINT4 if not symmetric else INT8, PerChannel(0), symmetric))
    np.testing.assert_array_equal(w, before)
