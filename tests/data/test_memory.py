"""Samples from Python: lists are read in place, generators are kept on disk; both can be read again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtool.data.memory import InMemory, Spooled, as_arrays
from qtool.data.open import open_source
from qtool.errors import DataError
from tests.graphs import samples

Kind = Callable[[list[Mapping[str, Any]]], Any]
KINDS: dict[str, Kind] = {"list": open_source, "generator": lambda made: open_source(iter(made))}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def test_samples_come_in_order_as_they_are_every_time(kind: Kind) -> None:
    made = samples(12, x=(1, 3), y=(2,))
    source = kind(made)
    assert (len(source), source.name) == (12, "samples")
    for _ in range(2):
        read = list(source.read())
        assert [s.name for s in read] == [str(i) for i in range(12)]
        for sample, original in zip(read, made, strict=True):
            assert sample.inputs.keys() == original.keys()
            for key, array in original.items():
                np.testing.assert_array_equal(sample.inputs[key], array)
                assert sample.inputs[key].dtype == array.dtype


def test_positions_choose_samples_in_order(kind: Kind) -> None:
    source = kind(samples(12, x=(1,)))
    assert [s.name for s in source.read({10, 2, 11})] == ["2", "10", "11"]
    assert list(source.read(set())) == []


@pytest.mark.parametrize(
    "value",
    [1.5, [1, 2], np.float32(2), np.array(["a", "b"]), np.array(True), np.zeros((0, 2), np.float16)],
    ids=["float", "list", "scalar", "strings", "bool", "empty"],
)
def test_whatever_numpy_makes_an_array_of_is_a_value(kind: Kind, value: object) -> None:
    (sample,) = kind([{"x": value}]).read()
    expected = np.asarray(value)
    np.testing.assert_array_equal(sample.inputs["x"], expected)
    assert (sample.inputs["x"].dtype, sample.inputs["x"].shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "scope/x:0", "arr_0", "x.npy", "a b", "é"])
def test_an_input_may_have_any_name(kind: Kind, name: str) -> None:
    (sample,) = kind([{name: np.ones(2, np.float32)}]).read()
    assert sample.inputs.keys() == {name}


def test_strings_may_be_held_as_objects(kind: Kind) -> None:
    (sample,) = kind([{"x": np.array(["a", "bc"], object)}]).read()
    assert sample.inputs["x"].tolist() == ["a", "bc"]


def test_a_ragged_list_is_refused_by_sample_and_input(kind: Kind) -> None:
    with pytest.raises(DataError, match="x") as caught:
        list(kind([{"x": [1.0]}, {"x": [[1.0], [2.0, 3.0]]}]).read())
    assert "1" in caught.value.message


@pytest.mark.parametrize("bad", [5, "text", [1, 2], None, np.zeros(3)], ids=type)
def test_a_sample_that_is_no_dict_is_refused_by_its_number(kind: Kind, bad: object) -> None:
    with pytest.raises(DataError, match="sample 1 is a") as caught:
        list(kind([{"x": np.zeros(1)}, bad]).read())
    assert caught.value.exit_code == 4


def test_a_generator_is_read_once_and_held_outside_memory() -> None:
    pulled = 0

    def made() -> Iterator[dict[str, np.ndarray]]:
        nonlocal pulled
        for sample in samples(3, x=(2,)):
            pulled += 1
            yield sample

    source = open_source(made())
    list(source.read())
    list(source.read())
    assert pulled == 3


def test_the_folder_of_spooled_samples_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Spooled(iter(samples(2, x=(1,))))
    assert list(tmp_path.iterdir())
    del source
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_generator_that_fails_leaves_nothing_and_its_error_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def made() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.zeros(1)}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Spooled(made())


def test_in_memory_knows_the_length_it_was_told() -> None:
    assert len(InMemory(samples(2, x=(1,)), 2)) == 2


def test_the_arrays_of_a_sample_are_not_copied() -> None:
    array = np.zeros(3)
    assert as_arrays({"x": array}, "0")["x"] is array
