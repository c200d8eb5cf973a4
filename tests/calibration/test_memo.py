"""A memo of ranges: requests and their order change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.calibration.memo import RangeMemo
from qtool.calibration.ranges import Range, Ranges
from qtool.errors import DataError

SETS = (("a", "b", "empty"), ("c",), (), ("d", "e"))
NAMES = [name for names in SETS for name in names]


class Observer:
    """Gives ranges that depend on all that they were observed with, and counts its runs."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []

    def __call__(self, values: Sequence[str]) -> tuple[Ranges, Mapping[str, str]]:
        self.runs.append(tuple(values))
        top = float(sum(map(ord, "".join(values))))
        observed_ranges = {n: Range(0.0, top + ord(n), 1, 0, 0.0, 1) for n in values if n != "empty"}
        return observed_ranges, {"c": "a guess"} if "c" in values else {}


REQUESTS = st.lists(st.lists(st.sampled_from([*NAMES, "unknown"]), max_size=4), max_size=5)


@given(before=REQUESTS, values=st.lists(st.sampled_from([*NAMES, "unknown"])))
def test_a_range_does_not_depend_on_earlier_requests(before: list[list[str]], values: list[str]) -> None:
    first, later = RangeMemo(SETS, Observer()), RangeMemo(SETS, Observer())
    for names in before:
        later.of(names)
    assert later.of(values) == first.of(values)
    assert first.of(values).keys() == set(values) - {"empty", "unknown"}
    assert later.basis(values) == first.basis(values) == ({"c": "a guess"} if "c" in values else {})


@given(requests=REQUESTS)
def test_a_set_is_observed_once_and_as_a_whole(requests: list[list[str]]) -> None:
    observer = Observer()
    memo = RangeMemo(SETS, observer)
    for names in requests:
        memo.of(names)
    wanted = {names for names in SETS for batch in requests if {*names} & {*batch}}
    assert sorted(observer.runs) == sorted(wanted)


def test_a_run_that_failed_is_run_again() -> None:
    runs = []

    def fail_once(values: Sequence[str]) -> tuple[Ranges, Mapping[str, str]]:
        runs.append(values)
        if len(runs) == 1:
            raise DataError("no samples", "")
        return {}, {}

    memo = RangeMemo(SETS, fail_once)
    with pytest.raises(DataError):
        memo.of(["a"])
    assert memo.of(["a"]) == {} and len(runs) == 2
