"""Rows are matched by what they hold, whatever their order and number."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.numerics.rows import match_rows
from tests.graphs import rng


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_finds_the_rows_of_a_shuffled_subset(kind: type[np.generic]) -> None:
    a = (rng().standard_normal((50, 4)) * 1000).astype(kind)
    order = rng(1).permutation(50)[:40]
    noise = rng(2).standard_normal((40, 4)) if kind is np.float32 else 0
    first, second = match_rows(a, (a[order] + noise).astype(kind))
    assert first.tolist() == sorted(order)
    assert order[second].tolist() == first.tolist()


def test_rows_that_are_far_apart_are_not_the_same() -> None:
    a, b = (np.asarray(v, np.float32) for v in ([[10, 10], [50, 0]], [[11, 10], [0, -40], [np.nan, 0]]))
    first, second = match_rows(a, b)
    assert (first.tolist(), second.tolist()) == ([0], [0])


def test_equal_rows_are_matched_once_each() -> None:
    first, second = match_rows(np.asarray([3, 3, 1]), np.asarray([3, 2]))
    assert (first.tolist(), second.tolist()) == ([0], [0])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_matches_nothing(shape: tuple[int, int]) -> None:
    first, second = match_rows(np.zeros(shape, np.float32), np.zeros((0, shape[1]), np.float32))
    assert first.size == second.size == 0


def test_many_rows_are_matched_in_blocks() -> None:
    a = np.arange(1, 10_001, dtype=np.float32)[:, None]
    first, second = match_rows(a, np.delete(a, 5_000, axis=0))
    assert np.count_nonzero(first - second == (first > 5_000)) > 9_900
