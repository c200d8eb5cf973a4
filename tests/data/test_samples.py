"""Parts of a source, and what messages call its samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data.iterables import InMemory
from qtool.data.samples import Part, Samples, by_file, where
from qtool.data.split import split_samples
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(100), derandomize=True, database=None)


def numbered(count: int) -> Samples:
    return InMemory([{"x": np.array(i)} for i in range(count)])


def numbers(source: Samples, positions: set[int] | None = None) -> list[int]:
    return [int(s.inputs["x"]) for s in source.read(positions)]


def test_a_part_reads_by_its_own_positions() -> None:
    part = Part(numbered(10), frozenset({8, 1, 5}), "part")
    assert numbers(part) == [1, 5, 8]
    assert numbers(part, {0, 2}) == [1, 8]
    assert numbers(part, set()) == []
    assert numbers(part, {7}) == []


def test_a_part_of_a_part_is_a_part() -> None:
    part = Part(Part(numbered(10), frozenset({2, 4, 6, 8}), "even"), frozenset({1, 3}), "some")
    assert numbers(part) == [4, 8]
    assert len(part) == 2


@LAW
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8), wanted=st.sets(st.integers(0, 60)) | st.none()
)
def test_positions_are_found_in_their_files(sizes: list[int], wanted: set[int] | None) -> None:
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    result = [starts[file] + p for file, positions in by_file(starts, wanted) for p in positions]
    assert result == [p for p in range(starts[-1]) if wanted is None or p in wanted]
    assert all(0 <= p < sizes[file] for file, positions in by_file(starts, wanted) for p in positions)


@pytest.mark.parametrize(
    ("source", "sample", "place"),
    [
        ("calib", "0.npz", "calib/0.npz"),
        ("a/calib/", "0.npz", "a/calib/0.npz"),
        ("a/speech.wav", "speech.wav@0.5", "a/speech.wav@0.5"),
        ("t.csv", "t.csv:7", "t.csv:7"),
        ("a/0.npz", "0.npz", "a/0.npz"),
        ("a/speech.wav (4 of 16 judge)", "speech.wav@0.5", "a/speech.wav@0.5"),
        ("calib (4 of 16 judge)", "0.npz", "calib/0.npz"),
        ("samples", "3", "samples/3"),
        ("random:8", "3", "random:8/3"),
        ("calib.py:f", "3", "calib.py:f/3"),
        ("", "3", "3"),
        ("e\x1b[31m", "3", "e?[31m/3"),
    ],
)
def test_a_message_says_where_a_sample_is(source: str, sample: str, place: str) -> None:
    assert where(source, sample) == place


@pytest.mark.parametrize("total", [8, 12, 20])
def test_the_names_of_sample_sets_are_known_to_messages(total: int) -> None:
    sets = split_samples(numbered(total), None)
    for part in (sets.calibrate, sets.select, sets.judge):
        assert part is not None
        assert where(part.name, "3") == "samples/3"
