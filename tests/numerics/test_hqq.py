"""HQQ: less error in its own norm, whatever the shape, the granularity and the type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.numerics import hqq as module
from qtool.numerics.hqq import POWER, half_quadratic
from qtool.numerics.qparams import QParams, scaled_axes, unfold
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.tables.qtypes import (
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
from tests.tiers import examples

INT4 = QType("int4", "int8", 4, -7, 7)
LAYOUTS: tuple[tuple[tuple[int, ...], Granularity], ...] = (
    ((24, 6), PerBlock(0, 8)),
    ((6, 24), PerBlock(1, 12)),
    ((25, 6), PerBlock(0, 8)),
    ((5, 24), PerChannel(0)),
    ((24, 5), PerChannel(1)),
    ((4, 3, 2, 2), PerRun(6)),
    ((2, 3, 8), PerRowOfLast()),
    ((3, 7), PER_TENSOR),
)


@st.composite
def weights_of_few_bits(draw: st.DrawFn) -> tuple[np.ndarray, TensorSpec]:
    shape, granularity = draw(st.sampled_from(LAYOUTS))
    qtype = draw(st.sampled_from([UINT2, UINT4, INT4]))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    w = random.standard_t(draw(st.sampled_from([1, 3, 30])), shape) * 10.0 ** draw(st.integers(-6, 6))
    w *= random.random(shape) > draw(st.sampled_from([0.0, 0.5, 1.0]))
    return w.astype(np.float32), TensorSpec(qtype, granularity, symmetric=qtype is INT4)


def norm(w: np.ndarray, spec: TensorSpec, params: QParams) -> np.ndarray:
    """The sum of |error|^p under each scale."""
    q = quantize(w, params, spec.qtype, spec.granularity)
    error = unfold(w - dequantize(q, params, spec.granularity), spec.granularity).astype(np.float64)
    return np.asarray((np.abs(error) ** POWER).sum(axis=scaled_axes(spec.granularity, w.ndim)))


@settings(max_examples=examples(200), deadline=None)
@given(weights_of_few_bits())
def test_never_worse_in_its_own_norm(made: tuple[np.ndarray, TensorSpec]) -> None:
    w, spec = made
    plain = weight_qparams(w, spec)
    optimized = half_quadratic(w, spec, plain)
    before = norm(w, spec, plain)
    assert (norm(w, spec, optimized) <= before * (1 + 1e-4)).all()
    assert optimized.scale.shape == plain.scale.shape and optimized.scale.dtype == np.float32
    assert (optimized.scale > 0).all() and np.isfinite(optimized.scale).all()
    assert optimized.zero_point.shape == plain.zero_point.shape and optimized.zero_point.dtype == np.int64
    assert (optimized.zero_point >= spec.qtype.qmin).all() and (optimized.zero_point <= spec.qtype.qmax).all()
    if spec.symmetric:
        np.testing.assert_array_equal(optimized.zero_point, plain.zero_point)


def test_values_on_a_grid_are_found_behind_outliers() -> None:
    """That is what the norm is for: by least squares the outliers set the scale."""
    random = np.random.default_rng(4)
    w = (random.integers(-1, 3, (16, 64)) * 0.5).astype(np.float32)
    w[:, 0] = 4.0
    spec = TensorSpec(UINT2, PerBlock(1, 64), symmetric=False)
    plain = weight_qparams(w, spec)
    optimized = half_quadratic(w, spec, plain)
    assert norm(w, spec, optimized).sum() < 0.2 * norm(w, spec, plain).sum()
    np.testing.assert_allclose(optimized.scale, 0.5, rtol=0.01)


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    spec = TensorSpec(UINT2, PerBlock(0, 16), symmetric=False)
    plain = weight_qparams(w, spec)
    unsplit = half_quadratic(w, spec, plain)
    monkeypatch.setattr(module, "_ROOM", 1)
    assert half_quadratic(w, spec, plain) == unsplit
