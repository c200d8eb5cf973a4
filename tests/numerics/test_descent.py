"""Coordinate descent: never worse on e H e^T, and at rest only where no single step helps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.numerics import descent as module
from qtool.numerics.clip import refitted, searched
from qtool.numerics.descent import damped, descended, fitted
from qtool.numerics.gptq import gptq, hessian
from qtool.tables.qtypes import UINT2, UINT4
from tests.numerics.test_gptq import INT2, Layer, layer, layers
from tests.tiers import examples

FEW = settings(max_examples=examples(100), deadline=None)


def steadied(made: Layer) -> Layer:
    """The layer with what the descent goes by."""
    return Layer(made.w, damped(made.h), made.grid)


def slack(made: Layer) -> float:
    """Return the rounding error that float64 sums may have."""
    return 1e-9 + 1e-6 * float(np.trace(made.h, axis1=1, axis2=2).sum()) * float(np.square(made.w).max())


@FEW
@given(layers(), st.booleans())
def test_no_row_gets_worse(made: Layer, from_nearest: bool) -> None:
    start = made.grid.nearest(made.w) if from_nearest else made.best
    integers = descended(made.w, start, hessian(made.h), made.grid)
    assert integers.dtype == np.int16
    assert (integers >= made.grid.qtype.qmin).all() and (integers <= made.grid.qtype.qmax).all()
    on = steadied(made)
    assert (on.error(integers) <= on.error(start) + slack(made)).all()


@FEW
@given(layers())
def test_no_single_step_improves_the_result(made: Layer) -> None:
    integers = descended(made.w, made.best, hessian(made.h), made.grid, sweeps=1000)
    on = steadied(made)
    least = on.error(integers)
    for column in range(made.w.shape[2]):
        for step in (-1, 1):
            other = integers.copy()
            other[..., column] += step
            other = np.clip(other, made.grid.qtype.qmin, made.grid.qtype.qmax)
            assert (on.error(other) >= least - slack(made)).all()


def test_blocks_and_parts_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer(3, (2, 9, 60), 3, INT2)
    unsplit = descended(made.w, made.best, hessian(made.h), made.grid)
    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(module, "_ROOM", 1)
    np.testing.assert_array_equal(descended(made.w, made.best, hessian(made.h), made.grid), unsplit)


def test_columns_that_were_never_fed_stay() -> None:
    made = layer(1, (1, 4, 8), 1, INT2)
    silent = Layer(made.w, np.zeros_like(made.h), made.grid)
    start = made.grid.nearest(made.w)
    np.testing.assert_array_equal(descended(made.w, start, hessian(silent.h), made.grid), start)


@FEW
@given(layers())
def test_the_fit_is_never_worse_than_the_nearest(made: Layer) -> None:
    on = hessian(made.h)
    symmetric = made.grid.qtype not in (UINT4, UINT2)
    q, grid = fitted(made.w, on, made.grid, symmetric=symmetric)
    before = on.objective(made.w - made.grid.restored(made.grid.nearest(made.w)))
    assert (on.objective(made.w - grid.restored(q)) <= before).all()
    if symmetric:
        np.testing.assert_array_equal(grid.zero, made.grid.zero)


@pytest.mark.parametrize("seed", range(3))
def test_in_two_bits_it_gains_over_gptq(seed: int) -> None:
    made = layer(seed, (1, 48, 96), 3, UINT2)
    on = hessian(made.h)
    first = searched(made.w, on, made.grid, symmetric=False)
    q = gptq(made.w, on, first)
    plain = refitted(made.w, q, on, first)
    better, grid = fitted(made.w, on, made.grid, symmetric=False)
    alone, both = (on.objective(made.w - g.restored(i)).sum() for g, i in ((plain, q), (grid, better)))
    assert both < 0.9 * alone
