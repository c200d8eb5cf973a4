"""Figures that are gathered piece by piece are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.data import statistics
from qtool.data.statistics import Figures, InputStatistics, Moments


def figures(*pieces: np.ndarray) -> Figures:
    moments = Moments()
    for piece in pieces:
        moments.add(piece)
    return moments.figures()


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize("offset", [0.0, 1e6], ids=["around 0", "far from 0"])
def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch, block: int, offset: float) -> None:
    monkeypatch.setattr(statistics, "_BLOCK", block)
    pieces = [np.random.default_rng(i).normal(offset, i + 1, 10 * i) for i in range(6)]
    whole = np.concatenate(pieces)
    found = figures(*pieces)
    assert (found.count, found.minimum, found.maximum) == (whole.size, whole.min(), whole.max())
    assert found.mean == pytest.approx(whole.mean(), rel=1e-12)
    assert found.std == pytest.approx(whole.std(), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8", "bool"])
def test_sums_do_not_overflow(dtype: str) -> None:
    found = figures(np.ones(100_000, dtype))
    assert (found.mean, found.std, found.maximum) == (1.0, 0.0, 1.0)


def test_infinity_is_counted_apart() -> None:
    assert figures(np.array([0.0, -np.inf, -np.inf])) == Figures(1, 0.0, 0.0, 0.0, 0.0, infinite=2)


@pytest.mark.parametrize(
    "pieces", [[], [np.zeros(0)], [np.array([-np.inf])]], ids=["none", "empty", "infinite"]
)
def test_of_no_numbers_all_is_0(pieces: list[np.ndarray]) -> None:
    found = figures(*pieces)
    assert (found.count, found.minimum, found.maximum, found.mean, found.std) == (0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(("values", "whole"), [([1.0, 255.0], True), ([1.0, 0.5], False), ([], True)])
def test_whole_numbers_are_known(values: list[float], whole: bool) -> None:
    moments = Moments()
    moments.add(np.array(values))
    assert moments.integral is whole


@pytest.mark.parametrize("axis", [1, 3, None])
def test_each_channel_has_its_own(axis: int | None) -> None:
    tally = InputStatistics(axis)
    arrays = [np.random.default_rng(i).normal(size=(1, 3, 4 + i, 3)).astype(np.float32) for i in range(3)]
    for array in arrays:
        tally.add(array, "float64")
    assert tally.shapes == {a.shape: 1 for a in arrays}
    assert tally.source_dtypes == {"float64": 3}
    wanted = (
        []
        if axis is None
        else [np.concatenate([a.take(c, axis).ravel() for a in arrays]).mean() for c in range(3)]
    )
    assert [c.figures().mean for c in tally.channels] == pytest.approx(wanted, rel=1e-6)


def test_text_has_no_figures() -> None:
    tally = InputStatistics()
    tally.add(np.array(["a"], object), "<U1")
    assert tally.all.count == 0
