"""Quantizing is what the ONNX operators do, to the bit: the specification and the runtime are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from qtool.numerics.qparams import QParams, fold, unfold
from qtool.numerics.quantize import bias_scale, dequantize, quantize, quantize_bias, spread
from qtool.numerics.weights import bias_scale_floor, weight_qparams
from qtool.runtime.session import Session
from qtool.tables.qtypes import (
    INT8,
    INT8_REDUCED,
    PER_TENSOR,
    UINT8,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    QType,
    TensorSpec,
)
from tests.graphs import model, node, rng
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
EIGHT_BITS = [UINT8, INT8, INT8_REDUCED]
ONNX_TYPE = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def by_name(value: object) -> str:
    return getattr(value, "name", None) or str(value)


def params(scale: object, zero_point: object = 0) -> QParams:
    scales = np.asarray(scale, np.float32)
    return QParams(scales, np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape).copy())


def both_engines(proto: object, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The output as the specification's reference gives it, and the runtime."""
    session = Session(proto.SerializeToString())
    return {
        "onnx.reference": ReferenceEvaluator(proto).run(None, feeds)[0],
        "onnxruntime": session.run(feeds)[0],
    }


def onnx_quantize(x: np.ndarray, p: QParams, qtype: QType, opset: int = 19, **attributes: int) -> dict:
    """QuantizeLinear, clipped to the integers that the type may use (-128 is left out of int8)."""
    proto = model(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes)],
        {"x": x.shape},
        ["q"],
        {"s": p.scale, "z": p.zero_point.astype(qtype.dtype)},
        opset=opset,
        ir_version=9 if opset < 21 else 10,
        output_type=ONNX_TYPE[qtype.dtype],
    )
    got = both_engines(proto, {"x": x})
    return {k: np.clip(v, qtype.qmin, qtype.qmax).astype(qtype.dtype) for k, v in got.items()}


def onnx_dequantize(q: np.ndarray, p: QParams, opset: int = 19, **attributes: int) -> dict:
    proto = model(
        [node("DequantizeLinear", ["q", "s", "z"], ["x"], **attributes)],
        {"q": q.shape},
        ["x"],
        {"s": p.scale, "z": p.zero_point.astype(q.dtype)},
        opset=opset,
        ir_version=9 if opset < 21 else 10,
        input_type=ONNX_TYPE[q.dtype.name],
    )
    return both_engines(proto, {"q": q})


def awkward(scale: float, qtype: QType) -> np.ndarray:
    """Float32 values on and beside every rounding tie, at both ends, and far past them."""
    ties = (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5)) * np.float32(scale)
    near = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(0))])
    ends = np.array([qtype.qmin, qtype.qmax, qtype.qmin - 1, qtype.qmax + 1], np.float32) * np.float32(scale)
    far = np.array([0.0, -0.0, 1e-45, -1e-45, 1e6 * scale, -1e6 * scale], np.float32)
    noise = rng(3).standard_normal(500).astype(np.float32) * np.float32(60 * scale)
    return np.concatenate([near, ends, far, noise]).astype(np.float32)


ZERO_POINTS = {"uint8": [0, 1, 128, 255], "int8": [0, -127, -3, 127], "int8-reduced": [0, -64, 64]}
CASES = [(t, s, z) for t in EIGHT_BITS for s in (0.25, 0.1, 3.7e-4, 17.3) for z in ZERO_POINTS[t.name]]


@pytest.mark.parametrize(
    ("qtype", "scale", "zero"), CASES, ids=[f"{t.name}-scale{s}-zero{z}" for t, s, z in CASES]
)
def test_per_tensor_quantize_is_quantizelinear_to_the_bit(qtype: QType, scale: float, zero: int) -> None:
    x = awkward(scale, qtype)
    p = params(scale, zero)
    mine = quantize(x, p, qtype)
    assert mine.dtype == qtype.dtype
    for engine, theirs in onnx_quantize(x, p, qtype).items():
        np.testing.assert_array_equal(mine, theirs, err_msg=engine)


@pytest.mark.parametrize(
    ("qtype", "scale", "zero"), CASES, ids=[f"{t.name}-scale{s}-zero{z}" for t, s, z in CASES]
)
def test_per_tensor_dequantize_is_dequantizelinear_to_the_bit(qtype: QType, scale: float, zero: int) -> None:
    q = np.arange(qtype.qmin, qtype.qmax + 1).astype(qtype.dtype)
    p = params(scale, zero)
    mine = dequantize(q, p)
    assert mine.dtype == np.float32
    for engine, theirs in onnx_dequantize(q, p).items():
        np.testing.assert_array_equal(mine, theirs, err_msg=engine)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
def test_per_channel_is_the_onnx_operators_to_the_bit_on_every_axis(qtype: QType, axis: int) -> None:
    shape = (3, 4, 2, 5)
    x = (rng(1).standard_normal(shape) * 40).astype(np.float32)
    channels = shape[axis]
    scale = np.linspace(0.05, 0.9, channels).astype(np.float32)
    zero = np.linspace(qtype.qmin, qtype.qmax, channels).astype(np.int64)
    p = QParams(scale, zero)
    mine = quantize(x, p, qtype, PerChannel(axis))
    for engine, theirs in onnx_quantize(x, p, qtype, axis=axis).items():
        np.testing.assert_array_equal(mine, theirs, err_msg=engine)
    back = dequantize(mine, p, PerChannel(axis))
    for engine, theirs in onnx_dequantize(mine, p, axis=axis).items():
        np.testing.assert_array_equal(back, theirs, err_msg=engine)


@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [((8, 3), 0, 4), ((3, 8), 1, 2), ((2, 6, 5), 1, 3), ((4, 4), 0, 4), ((4, 4), 1, 1)],
)
def test_per_block_is_the_onnx_operators_to_the_bit(shape: tuple[int, ...], axis: int, size: int) -> None:
    x = (rng(2).standard_normal(shape) * 3).astype(np.float32)
    scales = tuple(d // size if i == axis else d for i, d in enumerate(shape))
    scale = rng(3).uniform(0.01, 0.5, scales).astype(np.float32)
    zero = rng(4).integers(100, 150, scales)
    p = QParams(scale, zero)
    mine = quantize(x, p, UINT8, PerBlock(axis, size))
    for engine, theirs in onnx_quantize(x, p, UINT8, opset=21, axis=axis, block_size=size).items():
        np.testing.assert_array_equal(mine, theirs, err_msg=engine)
    back = dequantize(mine, p, PerBlock(axis, size))
    for engine, theirs in onnx_dequantize(mine, p, opset=21, axis=axis, block_size=size).items():
        np.testing.assert_array_equal(back, theirs, err_msg=engine)


@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
def test_values_far_out_of_range_saturate(qtype: QType) -> None:
    biggest = np.finfo(np.float32).max
    x = np.array([-np.inf, -biggest, biggest, np.inf], np.float32)
    mine = quantize(x, params(2.0**-60, 0), qtype)
    assert mine.tolist() == [qtype.qmin, qtype.qmin, qtype.qmax, qtype.qmax]


@pytest.mark.parametrize("qtype", EIGHT_BITS, ids=by_name)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)], ids=str)
def test_shapes_without_axes_or_elements_are_kept(qtype: QType, shape: tuple[int, ...]) -> None:
    q = quantize(np.ones(shape, np.float32), params(0.5), qtype)
    assert (q.shape, q.dtype) == (shape, qtype.dtype)
    assert dequantize(q, params(0.5)).shape == shape


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 6, 5)], ids=str)
def test_per_row_of_last_is_a_loop_over_rows(shape: tuple[int, int, int]) -> None:
    w = rng(5).standard_normal(shape).astype(np.float32)
    p = weight_qparams(w, TensorSpec(INT8, PerRowOfLast(), symmetric=True))
    assert p.scale.shape == shape[:2]
    mine = quantize(w, p, INT8, PerRowOfLast())
    back = dequantize(mine, p, PerRowOfLast())
    for d in range(shape[0]):
        for r in range(shape[1]):
            one = params(p.scale[d, r], p.zero_point[d, r])
            np.testing.assert_array_equal(mine[d, r], quantize(w[d, r], one, INT8))
            np.testing.assert_array_equal(back[d, r], dequantize(mine[d, r], one))


GRANULARITIES: list[tuple[Granularity, tuple[int, ...]]] = [
    (PER_TENSOR, (4, 6)),
    (PerChannel(0), (4, 6)),
    (PerChannel(1), (4, 6)),
    (PerChannel(-1), (2, 3, 4)),
    (PerRowOfLast(), (2, 3, 4)),
    (PerBlock(0, 2), (4, 6)),
    (PerBlock(1, 3), (4, 6)),
    (PerBlock(1, 4), (4, 6)),  # the last block is shorter
    (PerRun(5), (4, 3, 2)),
]


@pytest.mark.parametrize(("granularity", "shape"), GRANULARITIES, ids=str)
def test_spread_scales_broadcast_over_the_unfolded_tensor(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    w = rng(6).standard_normal(shape).astype(np.float32)
    p = weight_qparams(w, TensorSpec(INT8, granularity, symmetric=True))
    values = unfold(w, granularity)
    assert np.broadcast_shapes(values.shape, spread(p.scale, granularity, w.ndim).shape) == values.shape


@pytest.mark.parametrize(("granularity", "shape"), GRANULARITIES, ids=str)
@pytest.mark.parametrize("qtype", [INT8, INT8_REDUCED], ids=by_name)
@LAW
@given(data=st.data())
def test_a_weight_comes_back_within_half_a_step(
    granularity: Granularity, shape: tuple[int, ...], qtype: QType, data: st.DataObject
) -> None:
    w = data.draw(npst.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32)))
    p = weight_qparams(w, TensorSpec(qtype, granularity, symmetric=True))
    q = quantize(w, p, qtype, granularity)
    # Symmetric: -x and x are held alike, so the lowest integer of the dtype is never used.
    assert q.size == 0 or (int(q.min()) >= -qtype.qmax and int(q.max()) <= qtype.qmax)
    step = np.broadcast_to(spread(p.scale, granularity, w.ndim), unfold(w, granularity).shape)
    error = np.abs(dequantize(q, p, granularity).astype(np.float64) - w)
    assert (error <= fold(step, granularity, shape).astype(np.float64) * 0.5001).all()


def test_reduced_int8_products_of_two_fit_in_sixteen_bits() -> None:
    w = (rng(7).standard_normal((16, 16)) * 5).astype(np.float32)
    spec = TensorSpec(INT8_REDUCED, PerChannel(0), symmetric=True)
    q = quantize(w, weight_qparams(w, spec), INT8_REDUCED, PerChannel(0)).astype(np.int64)
    assert q.min() >= -64
    assert q.max() <= 64
    assert 2 * 255 * np.abs(q).max() < 2**15


@LAW
@given(
    bias=npst.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    weight=npst.arrays(np.float32, (5, 4), elements=st.floats(-10, 10, width=32)),
    exponent=st.floats(-30, 10),
)
def test_a_bias_never_saturates_and_its_scale_is_the_float32_product(
    bias: np.ndarray, weight: np.ndarray, exponent: float
) -> None:
    input_scale = np.asarray(np.float32(2.0**exponent))
    spec = TensorSpec(INT8, PerChannel(0), symmetric=True)
    p = weight_qparams(weight, spec, bias_scale_floor(bias, input_scale))
    scale = bias_scale(input_scale, p.scale)
    q = quantize_bias(bias, scale)
    assert q.dtype == np.int32
    assert np.abs(q.astype(np.int64)).max() < 2**31 - 1
    exact_product = np.float64(input_scale) * p.scale.astype(np.float64)  # 24 + 24 bits: exact in float64
    np.testing.assert_array_equal(scale, exact_product.astype(np.float32))
    error = np.abs(q * scale.astype(np.float64) - bias)
    assert (error <= scale.astype(np.float64) * 0.5001).all()


def test_a_live_bias_over_dead_weights_does_not_saturate() -> None:
    bias = np.array([3.0, -7.5, 0.0], np.float32)
    weight = np.zeros((3, 2), np.float32)
    weight[2] = 1e-20
    input_scale = np.asarray(np.float32(1e-3))
    spec = TensorSpec(INT8, PerChannel(0), symmetric=True)
    p = weight_qparams(weight, spec, bias_scale_floor(bias, input_scale))
    scale = bias_scale(input_scale, p.scale)
    q = quantize_bias(bias, scale)
    assert np.abs(q.astype(np.int64)).max() < 2**31 - 1
    np.testing.assert_allclose(q * scale.astype(np.float64), bias, rtol=1e-6)


def test_a_bias_at_a_scale_too_fine_for_it_is_clamped_not_wrapped() -> None:
    scale = bias_scale(np.float32(1e-6), np.array([1e-6] * 2, np.float32))
    q = quantize_bias(np.array([1e9, -1e9], np.float32), scale)
    assert q.tolist() == [2**31 - 1, -(2**31 - 1)]


@pytest.mark.parametrize("scale_shape", [(), (1,)], ids=str)
def test_the_input_scale_may_have_no_axis_or_one(scale_shape: tuple[int, ...]) -> None:
    input_scale = np.full(scale_shape, 0.5, np.float32)
    scale = bias_scale(input_scale, np.array([0.25, 0.5], np.float32))
    q = quantize_bias(np.array([1.0, 2.0], np.float32), scale)
    assert q.tolist() == [8, 8]
    assert scale.tolist() == [0.125, 0.25]
