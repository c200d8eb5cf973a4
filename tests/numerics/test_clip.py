"""Scales for few bits: never worse on what they are judged by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from qtool.numerics.clip import refitted, searched
from qtool.numerics.gptq import Grid, gptq, hessian
from qtool.tables.qtypes import UINT2, UINT4
from tests.numerics.test_gptq import INT4, Layer, layer, layers
from tests.tiers import examples


def weighted(made: Layer, grid: Grid) -> np.ndarray:
    """The squared error of each run, each column by what its error costs."""
    e = (made.w - grid.restored(grid.nearest(made.w))).astype(np.float64) ** 2
    cost = hessian(made.h).cost[:, None]
    return (e * cost).reshape(*grid.scale.shape, -1).sum(axis=-1)


@settings(max_examples=examples(100), deadline=None)
@given(layers())
def test_no_run_gets_worse(made: Layer) -> None:
    symmetric = made.grid.qtype not in (UINT4, UINT2)
    clipped = searched(made.w, hessian(made.h), made.grid, symmetric=symmetric)
    assert (weighted(made, clipped) <= weighted(made, made.grid) * (1 + 1e-5) + 1e-9).all()
    assert clipped.scale.dtype == np.float32 and (clipped.scale > 0).all()
    if symmetric:
        np.testing.assert_array_equal(clipped.zero, made.grid.zero)
    assert (clipped.zero >= made.grid.qtype.qmin).all() and (clipped.zero <= made.grid.qtype.qmax).all()


@settings(max_examples=examples(100), deadline=None)
@given(layers())
def test_scales_fitted_to_integers_make_no_row_worse(made: Layer) -> None:
    q = made.best
    on = hessian(made.h)
    new = refitted(made.w, q, on, made.grid)
    before, after = (on.objective(made.w - g.restored(q)) for g in (made.grid, new))
    assert (after <= before * (1 + 1e-5) + 1e-5 * np.trace(made.h[0])).all()


@pytest.mark.parametrize("qtype", [INT4, UINT4], ids=lambda t: t.name)
def test_an_outlier_is_clipped_where_that_pays(qtype: object) -> None:
    made = layer(2, (1, 8, 64), 1, INT4 if qtype is INT4 else UINT4)
    w = made.w.copy()
    w[..., 0] = 6.0
    scale = np.full(made.grid.scale.shape, 6 / 7, np.float32)
    loud = Layer(w, np.eye(64)[None], Grid(scale, made.grid.zero, made.grid.qtype))
    clipped = searched(w, hessian(loud.h), loud.grid, symmetric=qtype is INT4)
    assert weighted(loud, clipped).sum() < weighted(loud, loud.grid).sum()


def test_both_together_are_better_than_gptq() -> None:
    made = layer(0, (1, 64, 96), 3, INT4)
    on = hessian(made.h)
    first = searched(made.w, on, made.grid, symmetric=True)
    q = gptq(made.w, on, first)
    last = refitted(made.w, q, on, first)
    assert on.objective(made.w - last.restored(q)).sum() < made.error(made.best).sum()
