"""AdaRound: no row worse than its start, on the grid, and clearly better than the nearest where inputs go together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.numerics import adaround as module
from qtool.numerics.adaround import adaround
from qtool.numerics.gptq import gptq, hessian
from qtool.tables.qtypes import INT8, UINT2, UINT4
from tests.numerics.test_gptq import INT2, INT4, Layer, layer
from tests.tiers import examples


@st.composite
def starts(draw: st.DrawFn) -> tuple[Layer, np.ndarray]:
    """A layer, and integers anywhere on its grid."""
    groups, rows, runs = (draw(st.integers(1, n)) for n in (2, 4, 2))
    made = layer(
        draw(st.integers(0, 10_000)),
        (groups, rows, runs * draw(st.integers(1, 6))),
        runs,
        draw(st.sampled_from([INT8, UINT4, INT4, INT2, UINT2])),
    )
    nearest = made.grid.nearest(made.w)
    off = np.random.default_rng(draw(st.integers(0, 1000))).integers(-3, 4, nearest.shape)
    kind = draw(st.sampled_from(["nearest", "near", "gptq"]))
    start = {"nearest": nearest, "near": nearest + off, "gptq": made.best}[kind]
    return made, np.asarray(np.clip(start, made.grid.qtype.qmin, made.grid.qtype.qmax), np.int16)


@settings(max_examples=examples(25), deadline=None)
@given(starts())
def test_no_row_is_worse_than_its_start_and_all_lie_on_the_grid(drawn: tuple[Layer, np.ndarray]) -> None:
    made, start = drawn
    rounded = adaround(made.w, hessian(made.h), made.grid, start)
    assert rounded.dtype == np.int16 and rounded.shape == start.shape
    assert (made.error(rounded) <= made.error(start) * (1 + 1e-6) + 1e-9).all()
    assert (made.grid.qtype.qmin <= rounded).all() and (rounded <= made.grid.qtype.qmax).all()


@settings(max_examples=examples(15), deadline=None)
@given(starts())
def test_each_weight_is_rounded_up_or_down_or_left(drawn: tuple[Layer, np.ndarray]) -> None:
    made, start = drawn
    rounded = adaround(made.w, hessian(made.h), made.grid, start)
    wide = made.grid.wide(made.w.shape[2])
    exact = made.w / wide.scale + wide.zero
    inside = (made.grid.qtype.qmin <= exact) & (exact <= made.grid.qtype.qmax)
    near = np.abs(rounded - exact) < 1 + 1e-3
    assert (near | (rounded == start))[inside].all()


def correlated(seed: int, shape: tuple[int, int, int] = (2, 8, 48)) -> Layer:
    made = layer(seed, shape, 1, INT4)
    random = np.random.default_rng(seed)
    x = random.normal(size=(shape[0], 400, 10)) @ random.normal(size=(shape[0], 10, shape[2]))
    x += 0.1 * random.normal(size=x.shape)
    return Layer(made.w, np.matmul(x.swapaxes(1, 2), x), made.grid)


@pytest.mark.parametrize("seed", range(3))
def test_it_improves_on_rounding_for_correlated_inputs(seed: int) -> None:
    made = correlated(seed)
    nearest = made.grid.nearest(made.w)
    rounded = adaround(made.w, hessian(made.h), made.grid, nearest)
    assert made.error(rounded).sum() < 0.6 * made.error(nearest).sum()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_worse_than_gptq(seed: int) -> None:
    made = correlated(seed)
    on = hessian(made.h)
    start = gptq(made.w, on, made.grid)
    assert (made.error(adaround(made.w, on, made.grid, start)) <= made.error(start) * (1 + 1e-6)).all()


def test_splitting_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = correlated(1)
    nearest = made.grid.nearest(made.w)
    at_once = made.error(adaround(made.w, hessian(made.h), made.grid, nearest))
    monkeypatch.setattr(module, "_ROOM", 1)  # a row at a time
    parts = made.error(adaround(made.w, hessian(made.h), made.grid, nearest))
    assert (parts <= made.error(nearest) * (1 + 1e-6)).all()
    assert parts.sum() < 1.3 * at_once.sum()


def test_it_keeps_weights_without_inputs_or_error() -> None:
    made = layer(2, (1, 4, 8), 1, INT4)
    start = made.grid.nearest(made.w)
    np.testing.assert_array_equal(adaround(made.w, hessian(np.zeros_like(made.h)), made.grid, start), start)
    exact = made.grid.restored(start)
    np.testing.assert_array_equal(adaround(exact, hessian(made.h), made.grid, start), start)


def test_it_is_the_same_every_time() -> None:
    made = correlated(4)
    start = made.grid.nearest(made.w)
    first, second = (adaround(made.w, hessian(made.h), made.grid, start) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_derivative_is_that_of_the_rectified_sigmoid() -> None:
    v = np.linspace(-4, 4, 41, dtype=np.float32)
    h, slope = module._rectified(v)
    step = np.float32(1e-2)
    numeric = (module._rectified(v + step)[0] - module._rectified(v - step)[0]) / (2 * step)
    inner = (np.abs(h - 0.5) < 0.45) | (np.abs(v) > 3.5)
    np.testing.assert_allclose(slope[inner], numeric[inner], atol=1e-3)
    share = np.linspace(0.05, 0.95, 19, dtype=np.float32)
    np.testing.assert_allclose(module._rectified(module._inverse(share))[0], share, atol=1e-5)
