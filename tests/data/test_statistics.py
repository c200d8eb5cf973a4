"""Statistics that are gathered in pieces are those of all numbers."""

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
def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(statistics, "_BLOCK", block)
    for offset in (0.0, 1e6):
        pieces = [np.random.default_rng(i).normal(offset, i + 1, 10 * i) for i in range(6)]
        everything = np.concatenate(pieces)
        result = figures(*pieces)
        assert (result.count, result.minimum, result.maximum) == (
            everything.size,
            everything.min(),
            everything.max(),
        )
        assert result.mean == pytest.approx(everything.mean(), rel=1e-12)
        assert result.std == pytest.approx(everything.std(), rel=1e-9)


def test_sums_do_not_overflow() -> None:
    for dtype in ("float16", "int64", "uint8", "bool"):
        result = figures(np.ones(100_000, dtype))
        assert (result.mean, result.std, result.maximum) == (1.0, 0.0, 1.0)


def test_infinity_is_counted_separately_and_without_numbers_all_is_0() -> None:
    assert figures(np.array([0.0, -np.inf, -np.inf])) == Figures(1, 0.0, 0.0, 0.0, 0.0, infinite=2)
    assert figures() == figures(np.zeros(0)) == Figures(0, 0.0, 0.0, 0.0, 0.0)


def test_whole_numbers_are_recognised() -> None:
    for values, integral in (([1.0, 255.0], True), ([1.0, 0.5], False), ([], True)):
        moments = Moments()
        moments.add(np.array(values))
        assert moments.integral is integral


@pytest.mark.parametrize("axis", [1, 3, None])
def test_statistics_are_per_channel(axis: int | None) -> None:
    of_input = InputStatistics(axis)
    arrays = [np.random.default_rng(i).normal(size=(1, 3, 4 + i, 3)).astype(np.float32) for i in range(3)]
    for array in arrays:
        of_input.add(array, "float64")
    assert of_input.shapes == {a.shape: 1 for a in arrays}
    assert of_input.source_dtypes == {"float64": 3}
    channels = [] if axis is None else range(3)
    means = [np.concatenate([a.take(c, axis).ravel() for a in arrays]).mean() for c in channels]
    assert [c.figures().mean for c in of_input.channels] == pytest.approx(means, rel=1e-6)


def test_text_has_no_figures() -> None:
    of_input = InputStatistics()
    of_input.add(np.array(["a"], object), "<U1")
    assert of_input.all.count == 0
