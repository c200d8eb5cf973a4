"""A Sum of two becomes an Add; longer ones, and those before a norm, stay."""

from __future__ import annotations

import pytest

from qtool.graph.prepare.sums import replace_sums
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graph.prepare.test_norms import NORM, STATS
from tests.graphs import model, node

SHAPE = (2, 4, 8)


@pytest.mark.parametrize("other", [SHAPE, (4, 1), (1,)], ids=str)
def test_a_sum_of_two_is_an_add(other: tuple[int, ...]) -> None:
    proto = model([node("Sum", ["x", "z"], ["y"])], {"x": SHAPE, "z": other}, ["y"])
    made, note = applied(proto, replace_sums)
    assert ops(made) == ["Add"]
    assert "1 Sum" in note
    assert_alike(proto, made)


def test_a_sum_of_three_and_one_before_a_norm_stay() -> None:
    proto = model(
        [node("Sum", ["x", "x", "x"], ["t"]), node("Sum", ["x", "t"], ["s"]), NORM],
        {"x": SHAPE},
        ["y"],
        STATS,
    )
    assert_untouched(proto, replace_sums)
