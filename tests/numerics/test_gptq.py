"""GPTQ against a slow implementation that follows the paper, and what it promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.numerics import gptq as module
from qtool.numerics.gptq import Grid, gptq, hessian
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.tables.qtypes import INT8, UINT2, UINT4, PerChannel, QType, TensorSpec
from tests.tiers import examples

INT2 = QType("int2", "int8", 2, -2, 1)
INT4 = QType("int4", "int8", 4, -7, 7)


@dataclass(frozen=True)
class Layer:
    """Weights, what they are multiplied with, and the grid they must lie on."""

    w: np.ndarray
    h: np.ndarray
    grid: Grid

    @property
    def best(self) -> np.ndarray:
        return gptq(self.w, hessian(self.h), self.grid)

    def error(self, q: np.ndarray) -> np.ndarray:
        e = (self.w - self.grid.restored(q)).astype(np.float64)
        return np.einsum("gok,gkl,gol->go", e, self.h, e)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    seed = draw(st.integers(0, 10_000))
    groups, rows, size = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 8))
    runs = draw(st.integers(1, 3))
    return layer(
        seed, (groups, rows, runs * size), runs, draw(st.sampled_from([INT8, UINT4, INT4, INT2, UINT2]))
    )


def layer(seed: int, shape: tuple[int, int, int], runs: int, qtype: QType) -> Layer:
    random = np.random.default_rng(seed)
    groups, rows, columns = shape
    w = random.normal(size=shape).astype(np.float32)
    # Correlated inputs, uncentred; some are always 0.
    x = (
        random.normal(size=(groups, 4 * columns, columns)) @ random.normal(size=(groups, columns, columns))
        + 1
    )
    x *= random.random(columns) > 0.1
    size = columns // runs
    middle = (qtype.qmin + qtype.qmax + 1) // 2
    reach = np.abs(w).reshape(groups, rows, runs, size).max(axis=-1)
    scale = (reach / max(qtype.qmax - middle, 1)).astype(np.float32)
    zero = np.full(scale.shape, middle, np.int64)
    if qtype is UINT4:
        zero += random.integers(-2, 3, scale.shape)
    if qtype is UINT2:
        zero += random.integers(-2, 2, scale.shape)
    return Layer(w, np.matmul(x.swapaxes(1, 2), x), Grid(scale, zero, qtype))


def by_the_paper(made: Layer) -> np.ndarray:
    """Algorithm 1: H inverse, its Cholesky factor, and every error pushed on at once, in float64."""
    wide = made.grid.wide(made.w.shape[2])
    result = np.zeros(made.w.shape, np.int64)
    for g, h in enumerate(made.h):
        order = np.argsort(-np.diag(h), kind="stable")
        mean = np.trace(h) / len(h) or 1.0  # of zeros: as without any H
        damped = (h + module.DAMPING * mean * np.eye(len(h)))[order][:, order]
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T
        for o, row in enumerate(made.w[g].astype(np.float64)):
            left = row[order]
            for i, k in enumerate(order):
                scale, zero = float(wide.scale[g, o, k]), int(wide.zero[g, o, k])
                q = int(np.clip(np.rint(left[i] / scale) + zero, made.grid.qtype.qmin, made.grid.qtype.qmax))
                result[g, o, k] = q
                left[i:] -= (left[i] - (q - zero) * scale) / upper[i, i] * upper[i, i:]
    return result


@settings(max_examples=examples(150), deadline=None)
@given(layers())
def test_no_row_is_worse_than_the_nearest_integers(made: Layer) -> None:
    nearest = made.error(made.grid.nearest(made.w))
    assert (made.error(made.best) <= nearest * (1 + 1e-9)).all()


@settings(max_examples=examples(80), deadline=None)
@given(layers())
def test_it_is_the_algorithm_of_the_paper(made: Layer) -> None:
    slow, nearest = by_the_paper(made), made.grid.nearest(made.w)
    wanted = np.where((made.error(slow) < made.error(nearest))[..., None], slow, nearest)
    np.testing.assert_allclose(made.error(made.best), made.error(wanted), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 300])
def test_blocks_change_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer(3, (2, 4, columns), 1, INT4)
    in_blocks = made.best
    monkeypatch.setattr(module, "_BLOCK", 1)
    np.testing.assert_array_equal(in_blocks, made.best)
    monkeypatch.setattr(module, "_ROOM", 1)  # a row at a time
    np.testing.assert_array_equal(in_blocks, made.best)


@settings(max_examples=examples(50), deadline=None)
@given(layers(), st.integers(-40, 40))
def test_the_scale_of_h_changes_nothing(made: Layer, power: int) -> None:
    scaled = Layer(made.w, made.h * 2.0**power, made.grid)
    np.testing.assert_array_equal(made.best, scaled.best)


@settings(max_examples=examples(50), deadline=None)
@given(layers())
def test_weights_on_the_grid_stay(made: Layer) -> None:
    q = made.grid.nearest(made.w)
    exact = Layer(made.grid.restored(q), made.h, made.grid)
    assert (exact.error(exact.best) == 0).all()


@settings(max_examples=examples(50), deadline=None)
@given(layers())
def test_groups_are_independent(made: Layer) -> None:
    together = made.best
    for g in range(len(made.w)):
        part = slice(g, g + 1)
        grid = Grid(made.grid.scale[part], made.grid.zero[part], made.grid.qtype)
        alone = Layer(made.w[part], made.h[part], grid)
        np.testing.assert_allclose(alone.error(alone.best), made.error(together)[part], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("damage", ["nan", "zeros", "negative"])
def test_singular_hessians_round_to_nearest(damage: str) -> None:
    made = layer(5, (2, 3, 6), 1, INT8)
    bad = made.h.copy()
    bad[0] = {"nan": np.full((6, 6), np.nan), "zeros": np.zeros((6, 6)), "negative": -bad[0]}[damage]
    rounded = Layer(made.w, bad, made.grid).best
    np.testing.assert_array_equal(rounded[0], made.grid.nearest(made.w)[0])
    if damage != "negative":
        np.testing.assert_array_equal(rounded[1], made.best[1])


def test_columns_without_input_are_rounded_to_nearest() -> None:
    made = layer(1, (1, 4, 12), 1, INT4)
    h = made.h.copy()
    h[:, 3], h[:, :, 3] = 0, 0
    rounded = Layer(made.w, h, made.grid).best
    np.testing.assert_array_equal(rounded[..., 3], made.grid.nearest(made.w)[..., 3])


def test_it_improves_correlated_inputs() -> None:
    made = layer(0, (1, 64, 96), 3, INT4)
    assert made.error(made.best).sum() < 0.5 * made.error(made.grid.nearest(made.w)).sum()


def test_a_grid_rounds_as_onnx_does() -> None:
    w = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    spec = TensorSpec(INT8, PerChannel(0), symmetric=True)
    params: QParams = weight_qparams(w, spec)
    grid = Grid(params.scale[None, :, None], params.zero_point[None, :, None], INT8)
    q = quantize(w, params, INT8, spec.granularity)
    np.testing.assert_array_equal(grid.nearest(w[None])[0], q)
    np.testing.assert_array_equal(grid.restored(q[None])[0], dequantize(q, params, spec.granularity))
