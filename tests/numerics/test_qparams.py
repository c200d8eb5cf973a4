"""Scales and zero points: sane for any range, exact at zero."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qtool.numerics.qparams import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    QParams,
    activation_qparams,
    asymmetric,
    blocked_shape,
    magnitudes,
    symmetric,
)
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import bias_scale_floor, weight_qparams
from qtool.tables.qtypes import (
    INT8,
    INT8_REDUCED,
    PER_TENSOR,
    UINT8,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    QType,
    TensorSpec,
)
from tests.graphs import rng, weights
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(80), derandomize=True, database=None)
EIGHT_BITS = [UINT8, INT8, INT8_REDUCED]
ends = st.one_of(
    st.floats(-(2.0**126), 2.0**126, width=32),
    st.sampled_from(
        [0.0, -0.0, 2.0**-149, -(2.0**-149), 1.1754944e-38, 1e38, -1e38, 3.4028235e38, -3.4028235e38]
    ),
    st.floats(-10, 10, width=32),
)
ranges = st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))


def by_name(value: object) -> str:
    return getattr(value, "name", None) or str(value)


def assert_sane(p: QParams, qtype: QType) -> None:
    assert p.scale.dtype == np.float32
    assert p.scale.shape == p.zero_point.shape
    assert np.isfinite(p.scale).all()
    assert (p.scale >= SMALLEST_SCALE).all()
    assert (p.scale <= LARGEST_SCALE).all()
    assert (p.zero_point >= qtype.qmin).all()
    assert (p.zero_point <= qtype.qmax).all()


@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
@LAW
@given(span=ranges)
def test_every_range_has_a_normal_scale_and_an_exact_zero(qtype: QType, span: tuple[float, float]) -> None:
    p = asymmetric(*span, qtype)
    assert_sane(p, qtype)
    assert p.scale.shape == ()
    zero = quantize(np.zeros(1, np.float32), p, qtype)
    assert zero[0] == p.zero_point
    assert dequantize(zero, p)[0] == 0.0


@pytest.mark.parametrize(
    "span",
    [(-np.inf, np.inf), (-np.inf, 0.0), (0.0, np.inf), (-1.7e308, 1.7e308), (0.0, 0.0), (5e-324, 5e-324)],
    ids=str,
)
@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
def test_a_range_beyond_float32_still_gives_a_sane_scale(qtype: QType, span: tuple[float, float]) -> None:
    assert_sane(asymmetric(*span, qtype), qtype)


@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
@LAW
@given(
    span=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).map(sorted),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_values_in_the_range_come_back_within_half_a_step(
    qtype: QType, span: list[float], shares: list[float]
) -> None:
    lo, hi = span
    p = asymmetric(lo, hi, qtype)
    x = np.clip(np.array([lo + s * (hi - lo) for s in shares]), lo, hi).astype(np.float32)
    error = np.abs(dequantize(quantize(x, p, qtype), p).astype(np.float64) - x)
    assert (error <= float(p.scale) * 0.5001).all()


@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
@pytest.mark.parametrize(("lo", "hi"), [(2.0, 5.0), (-5.0, -2.0)], ids=["above-zero", "below-zero"])
def test_a_range_on_one_side_of_zero_is_stretched_to_it(qtype: QType, lo: float, hi: float) -> None:
    stretched = asymmetric(min(lo, 0), max(hi, 0), qtype)
    assert asymmetric(lo, hi, qtype) == stretched
    x = np.array([lo, hi], np.float32)
    np.testing.assert_allclose(
        dequantize(quantize(x, stretched, qtype), stretched), x, atol=float(stretched.scale) * 0.5001
    )


@pytest.mark.parametrize("qtype", [INT8, INT8_REDUCED], ids=by_name)
@LAW
@given(magnitude=st.floats(0, 3.4028235e38))
def test_symmetric_scales_are_sane_and_never_reach_below_minus_qmax(qtype: QType, magnitude: float) -> None:
    p = symmetric(np.asarray(magnitude), qtype)
    assert_sane(p, qtype)
    assert int(p.zero_point) == 0
    reach = min(magnitude, float(np.finfo(np.float32).max))
    q = quantize(np.array([-reach, reach], np.float32), p, qtype)
    assert -qtype.qmax <= q[0] <= 0 <= q[1] <= qtype.qmax
    assert q[0] == -q[1]


@pytest.mark.parametrize("lo_hi", [(-3.0, 1.0), (-1.0, 3.0), (0.0, 3.0)], ids=str)
def test_symmetric_activations_use_the_larger_bound(lo_hi: tuple[float, float]) -> None:
    p = activation_qparams(*lo_hi, TensorSpec(INT8, PER_TENSOR, symmetric=True))
    assert int(p.zero_point) == 0
    assert p.scale == np.float32(3 / 127)


def test_an_asymmetric_activation_takes_the_whole_range() -> None:
    p = activation_qparams(-1.0, 3.0, TensorSpec(UINT8, PER_TENSOR, symmetric=False))
    assert p.scale == np.float32(4 / 255)
    assert int(p.zero_point) == 64


# What each granularity is, as loops over slices: (granularity, shape, one index tuple a scale).
def naive(w: np.ndarray, granularity: Granularity) -> np.ndarray:
    """The largest |w| under each scale, element by element."""
    match granularity:
        case PerChannel(axis):
            return np.array([max(abs(v) for v in np.take(w, i, axis).flat) for i in range(w.shape[axis])])
        case PerRowOfLast():
            out = np.zeros(w.shape[:-1])
            for index in product(*map(range, w.shape[:-1])):
                out[index] = max(abs(v) for v in w[index])
            return out
        case PerBlock(axis, size):
            out = np.zeros([d // size if i == axis else d for i, d in enumerate(w.shape)])
            for index in product(*map(range, w.shape)):
                block = tuple(d // size if i == axis else d for i, d in enumerate(index))
                out[block] = max(out[block], abs(w[index]))
            return out
    return np.asarray(max(abs(v) for v in w.flat))


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (PER_TENSOR, (3, 4)),
        (PER_TENSOR, ()),
        (PerChannel(0), (3, 4)),
        (PerChannel(1), (3, 4, 2)),
        (PerChannel(-1), (3, 4)),
        (PerChannel(-2), (3, 4, 2)),
        (PerRowOfLast(), (2, 5, 3)),
        (PerBlock(0, 2), (6, 3)),
        (PerBlock(1, 3), (2, 6)),
        (PerBlock(1, 2), (2, 4, 3)),
        (PerBlock(2, 5), (2, 2, 5)),
        (PerBlock(0, 1), (4, 2)),
    ],
    ids=str,
)
def test_each_granularity_is_a_naive_loop(granularity: Granularity, shape: tuple[int, ...]) -> None:
    w = weights(*shape, seed=9) if shape else np.asarray(np.float32(-0.3))
    expected = naive(w, granularity)
    np.testing.assert_array_equal(magnitudes(w, granularity), expected)
    p = weight_qparams(w, TensorSpec(INT8, granularity, symmetric=True))
    np.testing.assert_array_equal(p.scale, (expected / 127).astype(np.float32))
    assert not p.zero_point.any()


@pytest.mark.parametrize(
    ("shape", "axis", "size", "expected"),
    [((6, 3), 0, 2, (3, 2, 3)), ((2, 6), 1, 3, (2, 2, 3)), ((2, 4, 3), 1, 4, (2, 1, 4, 3))],
)
def test_blocking_splits_one_axis(
    shape: tuple[int, ...], axis: int, size: int, expected: tuple[int, ...]
) -> None:
    assert blocked_shape(shape, axis, size) == expected


def test_a_dead_channel_takes_the_largest_scale_of_the_others() -> None:
    w = weights(4, 6)
    w[2] = 0
    p = weight_qparams(w, TensorSpec(INT8, PerChannel(0), symmetric=True))
    assert p.scale[2] == p.scale.max() == np.float32(np.abs(w).max().astype(np.float64) / 127)
    assert not quantize(w, p, INT8, PerChannel(0))[2].any()


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [(PER_TENSOR, (3, 4)), (PerChannel(0), (3, 4)), (PerBlock(1, 2), (3, 4)), (PerRowOfLast(), (1, 3, 4))],
    ids=str,
)
def test_a_weight_of_zeros_gives_sane_scales_and_zeros_back(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    w = np.zeros(shape, np.float32)
    p = weight_qparams(w, TensorSpec(INT8, granularity, symmetric=True))
    assert_sane(p, INT8)
    assert not dequantize(quantize(w, p, INT8, granularity), p, granularity).any()


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [(PER_TENSOR, (0, 4)), (PerChannel(0), (3, 0)), (PerChannel(1), (0, 3))],
    ids=str,
)
def test_a_weight_without_elements_gives_sane_scales(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    assert_sane(weight_qparams(np.zeros(shape, np.float32), TensorSpec(INT8, granularity, True)), INT8)


@pytest.mark.parametrize("qtype", [INT8, INT8_REDUCED], ids=by_name)
@LAW
@given(w=npst.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_weight_gives_sane_scales(qtype: QType, w: np.ndarray) -> None:
    assert_sane(weight_qparams(w, TensorSpec(qtype, PerChannel(0), symmetric=True)), qtype)


@LAW
@given(
    w=npst.arrays(np.float32, (4, 3), elements=st.floats(-2, 2, width=32)),
    bias=npst.arrays(np.float32, 4, elements=st.floats(-1e5, 1e5, width=32)),
)
def test_a_bias_floor_only_ever_raises_scales(w: np.ndarray, bias: np.ndarray) -> None:
    spec = TensorSpec(INT8, PerChannel(0), symmetric=True)
    floor = bias_scale_floor(bias, np.asarray(np.float32(1e-4)))
    plain, raised = weight_qparams(w, spec), weight_qparams(w, spec, floor)
    assert (raised.scale >= plain.scale).all()
    assert (raised.scale.astype(np.float64) >= floor * (1 - 1e-6)).all()
    needless = floor <= plain.scale * (1 - 1e-6)
    np.testing.assert_array_equal(raised.scale[needless], plain.scale[needless])


def test_float16_and_float64_weights_get_the_scales_of_their_values() -> None:
    spec = TensorSpec(INT8, PerChannel(0), symmetric=True)
    w = rng(4).standard_normal((3, 5)).astype(np.float16)
    expected = weight_qparams(w.astype(np.float32), spec).scale
    np.testing.assert_array_equal(weight_qparams(w, spec).scale, expected)
    np.testing.assert_array_equal(weight_qparams(w.astype(np.float64), spec).scale, expected)
