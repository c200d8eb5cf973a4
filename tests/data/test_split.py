"""The three sample sets of a run: sizes, order, independence, and what the notes say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data.iterables import InMemory
from qtool.data.samples import Samples, Traits, where
from qtool.data.split import LEAST, SampleSets, split_samples
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(100), derandomize=True, database=None)
COUNTS = st.integers(1, 300)


def numbered(first: int, count: int, name: str = "samples") -> Samples:
    """Samples that hold the numbers from `first` on."""
    source = InMemory([{"x": np.array(first + i)} for i in range(count)])
    source.name = name
    return source


@dataclass(frozen=True)
class Sets:
    """The numbers of each set's samples; None where there is no set."""

    calibrate: list[int] | None
    select: list[int] | None
    judge: list[int] | None


def numbers(source: Samples | None) -> list[int] | None:
    if source is None:
        return None
    result = [int(np.asarray(s.inputs["x"])) for s in source.read()]
    assert len(result) == len(source)
    return result


def sets_of(split: SampleSets) -> Sets:
    return Sets(numbers(split.calibrate), numbers(split.select), numbers(split.judge))


def split(calib: int | None, data: int | None, *, ranges_known: bool = False) -> SampleSets:
    """Split numbered samples; those of data are numbered from 1000 on."""
    return split_samples(
        None if calib is None else numbered(0, calib, "calib"),
        None if data is None else numbered(1000, data, "data"),
        ranges_known=ranges_known,
    )


def test_of_every_four_samples_two_calibrate_one_selects_one_judges() -> None:
    assert sets_of(split(18, None)) == Sets(
        [0, 1, 4, 5, 8, 9, 12, 13, 16, 17], [2, 6, 10, 14], [3, 7, 11, 15]
    )


def test_twelve_samples_are_four_for_each_set() -> None:
    assert sets_of(split(12, None)) == Sets([0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11])


def test_with_data_every_fourth_calib_sample_selects() -> None:
    result = sets_of(split(16, 3))
    assert result == Sets([i for i in range(16) if i % 4 != 3], [3, 7, 11, 15], [1000, 1001, 1002])


def test_without_calib_every_second_data_sample_selects() -> None:
    assert sets_of(split(None, 9)) == Sets(None, [1001, 1003, 1005, 1007], [1000, 1002, 1004, 1006, 1008])


def test_known_ranges_leave_calib_to_select() -> None:
    assert sets_of(split(5, 2, ranges_known=True)) == Sets(None, [0, 1, 2, 3, 4], [1000, 1001])
    assert sets_of(split(8, None, ranges_known=True)) == Sets(None, [1, 3, 5, 7], [0, 2, 4, 6])
    assert sets_of(split(None, 9, ranges_known=True)) == Sets(None, None, list(range(1000, 1009)))


@pytest.mark.parametrize("ranges_known", [False, True])
def test_without_samples_nothing_is_judged(ranges_known: bool) -> None:
    result = split(None, None, ranges_known=ranges_known)
    assert sets_of(result) == Sets(None, None, None)
    assert not result.judge_independent
    assert result.notes == ("not judged: there are no samples (add --data SRC)",)


@LAW
@given(calib=COUNTS | st.none(), data=COUNTS | st.none(), ranges_known=st.booleans())
def test_sets_are_sorted_complete_and_as_independent_as_stated(
    calib: int | None, data: int | None, ranges_known: bool
) -> None:
    result = split(calib, data, ranges_known=ranges_known)
    sets = sets_of(result)
    chosen = [set(s) for s in (sets.calibrate, sets.select) if s is not None]
    for numbers_of in (sets.calibrate, sets.select, sets.judge):
        assert numbers_of is None or numbers_of == sorted(set(numbers_of))
    if sets.judge is not None:
        assert result.judge_independent == all(not c & set(sets.judge) for c in chosen)
    if sets.select is not None:
        assert result.select_independent == (not set(sets.calibrate or ()) & set(sets.select))
    # No sample is lost and none is made up.
    everything = [*range(calib or 0), *range(1000, 1000 + (data or 0))]
    used: set[int] = set().union(*chosen, sets.judge or ())
    assert sorted(used) == everything
    assert sets_of(split(calib, data, ranges_known=ranges_known)) == sets


@LAW
@given(calib=COUNTS, data=COUNTS | st.none())
def test_sets_that_share_no_sample_have_four_at_least(calib: int, data: int | None) -> None:
    result = split(calib, data)
    sizes = [len(s) for s in (result.calibrate, result.select) if s is not None]
    if result.select_independent:
        assert min(sizes) >= LEAST
        assert len(result.calibrate or ()) >= len(result.select or ())
    if data is None and result.judge_independent:
        assert len(result.judge or ()) >= LEAST
    assert result.select_independent == (calib >= 8)
    assert result.judge_independent == (data is not None or calib >= 12)


@LAW
@given(total=COUNTS)
def test_data_is_read_by_the_verdict_only(total: int) -> None:
    result = sets_of(split(total, 20))
    assert result.judge == list(range(1000, 1020))
    assert not {*(result.calibrate or ()), *(result.select or ())} & set(result.judge)


NOTES = {
    "all three are one": (split(7, None), "judged on the 7 samples that also set the ranges"),
    "one sample": (split(1, None), "judged on the 1 sample that also set the ranges"),
    "select is judge": (split(10, None), "judged on the 5 samples of 10 that also made every choice"),
    "calibrate is select": (split(6, 20), "the 6 samples that set the ranges also made every choice"),
    "data alone, too few": (split(None, 3), "judged on the 3 samples that also made every choice"),
    "data alone, known ranges": (split(None, 3, ranges_known=True), "the 3 samples of --data only judge"),
    "ranges from a file": (
        split(20, None, ranges_known=True),
        "if the ranges file was made from the samples of --calib",
    ),
}


@pytest.mark.parametrize(("result", "said"), NOTES.values(), ids=NOTES)
def test_notes_name_each_shortcoming_of_a_split(result: SampleSets, said: str) -> None:
    assert said in result.notes[0]


@pytest.mark.parametrize(
    "result", [split(12, None), split(8, 1), split(None, 8), split(3, 1, ranges_known=True)]
)
def test_a_full_split_needs_no_words(result: SampleSets) -> None:
    assert result.notes == ()


def test_the_same_files_twice_are_not_independent() -> None:
    source = numbered(0, 40, "images")
    source.traits = Traits("images")  # type: ignore[misc]
    result = split_samples(source, source)
    assert not result.judge_independent
    assert result.select_independent
    assert "the same 40 samples" in result.notes[0]


def test_parts_are_named_by_their_use_and_messages_name_the_source() -> None:
    source = numbered(0, 20, "a/calib")
    result = split_samples(source, None)
    names = [s.name for s in (result.calibrate, result.select, result.judge) if s]
    assert names == [
        "a/calib (10 of 20 calibrate)",
        "a/calib (5 of 20 select)",
        "a/calib (5 of 20 judge)",
    ]
    both = split_samples(numbered(0, 8, "a/calib"), None).judge
    assert both is not None
    assert both.name == "a/calib (4 of 8 select and judge)"
    assert {where(name, "0.npz") for name in (*names, both.name)} == {"a/calib/0.npz"}
