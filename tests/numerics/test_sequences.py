"""Sequences of classes: unchanged as they are, and as CTC reads them."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.numerics.sequences import SequenceCounts, collapsed


@pytest.mark.parametrize(
    ("steps", "blank", "text"),
    [
        ([0, 3, 3, 0, 3, 1], 0, [3, 3, 1]),
        ([4, 4, 2, 2, 4], 4, [2]),
        ([0, 0], 0, []),
        ([], 0, []),
        ([1, 2], 0, [1, 2]),
    ],
)
def test_ctc_collapses_repeats_and_then_drops_blanks(steps: list[int], blank: int, text: list[int]) -> None:
    assert collapsed(np.array(steps, np.int64), blank).tolist() == text


def counted(a: list[list[int]], b: list[list[int]], classes: int) -> SequenceCounts:
    counts = SequenceCounts()
    for x, y in zip(a, b, strict=True):
        counts.add(np.array([x]), np.array([y]), classes)
    return counts


def test_a_text_is_unchanged_where_only_its_timing_moves() -> None:
    a = [[4, 1, 4, 4, 2, 4], [4, 1, 1, 4, 4, 4], [4, 3, 4, 4, 4, 4]]
    b = [[4, 1, 1, 4, 2, 2], [4, 1, 4, 1, 4, 4], [4, 3, 4, 4, 4, 4]]
    counts = counted(a, b, 5)
    assert (counts.sequences, counts.equal, counts.equal_collapsed) == (3, 1, 2), (
        "the second doubles a letter"
    )


@pytest.mark.parametrize(
    ("steps", "is_ctc"),
    [
        ([0, 1, 0, 0, 2, 0], True),
        ([4, 1, 4, 4, 2, 4], True),
        ([2, 1, 2, 2, 3, 2], False),
        ([1, 2, 3, 1, 2, 3], False),
    ],
    ids=["blank first", "blank last", "another class is frequent", "no blank"],
)
def test_ctc_outputs_are_recognized_by_blanks(steps: list[int], is_ctc: bool) -> None:
    assert counted([steps], [steps], 5).looks_like_ctc == is_ctc
