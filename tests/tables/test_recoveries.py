"""The rows of what is tried, and of how much."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qtool.recover.run import BEFORE_PLACEMENT, STEPS
from qtool.tables.efforts import BALANCED, BEST, EFFORTS
from qtool.tables.recoveries import AUTO, BY_NAME, NONE, RECOVERIES


def test_every_row_has_a_step_in_the_same_order() -> None:
    """Outlier columns are chosen while placement measures its costs."""
    assert [name for name in RECOVERIES if name != "columns"] == list(STEPS)
    assert next(iter(RECOVERIES)) == "columns"


def test_recoveries_before_placement_have_steps() -> None:
    assert set(BEFORE_PLACEMENT) <= STEPS.keys()
    assert list(BEFORE_PLACEMENT) == [name for name in STEPS if name in BEFORE_PLACEMENT]


def test_rows_are_named_after_themselves_and_no_row_after_a_word_of_its_option() -> None:
    assert all(name == row.name and row.summary for name, row in (RECOVERIES | EFFORTS).items())
    assert not {AUTO, NONE} & RECOVERIES.keys()
    assert all("," not in name and name == name.strip() for name in RECOVERIES)


@pytest.mark.parametrize("name", [r.name for r in RECOVERIES.values() if r.effort != BY_NAME])
def test_more_effort_includes_less_effort(name: str) -> None:
    row = RECOVERIES[name]
    assert row.effort in EFFORTS
    for less, more in pairwise(EFFORTS):
        assert row.within(more) or not row.within(less)
    assert row.within(BEST)


def test_efforts_rise() -> None:
    assert list(EFFORTS)[1:] == [BALANCED, BEST]
    for less, more in pairwise(EFFORTS.values()):
        assert less.built <= more.built and less.judged <= more.judged and less.rounds <= more.rounds
        assert more.measures or not less.measures


def test_fast_effort_measures_nothing() -> None:
    fast = next(iter(EFFORTS.values()))
    assert not fast.measures and fast.rounds == 0
    assert not any(row.within(fast.name) for row in RECOVERIES.values())
