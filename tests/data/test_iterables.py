"""Samples from Python: arrays, lists, generators and functions; and what is no sample."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtool.data.iterables import InMemory, Spooled, as_arrays
from qtool.data.open import open_source
from qtool.errors import DataError
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused
from tests.graphs import samples

Kind = Callable[[list[Mapping[str, Any]]], Any]
KINDS: dict[str, Kind] = {
    "list": open_source,
    "generator": lambda made: open_source(iter(made)),
    "function": lambda made: open_source(lambda: iter(made)),
}
ONE = model_inputs(x=("N", 3))
TWO = model_inputs(x=("N", 3), y=("N",))


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def test_samples_come_in_order_as_they_are_every_time(kind: Kind) -> None:
    made = samples(12, x=(1, 3), y=(2,))
    source = kind(made)
    assert names(source) == [str(i) for i in range(12)]
    for got, original in zip(arrays(source), made, strict=True):
        assert got.keys() == original.keys()
        for key, array in original.items():
            np.testing.assert_array_equal(got[key], array)
            assert got[key].dtype == array.dtype
    assert_positions(source)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "scope/x:0", "arr_0", "x.npy", "é"])
def test_an_input_may_have_any_name(kind: Kind, name: str) -> None:
    assert arrays(kind([{name: np.ones(2, np.float32)}]))[0].keys() == {name}


@pytest.mark.parametrize(
    "value",
    [1.5, [1, 2], np.float32(2), np.array(["a", "b"]), np.array(["a", "bc"], object), np.zeros((0, 2), "f2")],
    ids=["float", "list", "scalar", "strings", "objects", "empty"],
)
def test_numpy_makes_arrays_of_values(kind: Kind, value: object) -> None:
    (got,) = arrays(kind([{"x": value}]))
    assert got["x"].tolist() == np.asarray(value).tolist()
    assert got["x"].dtype != object


def test_the_arrays_of_a_sample_are_not_copied() -> None:
    array = np.zeros(3)
    assert as_arrays({"x": array}, "0")["x"] is array


# Arrays alone


def test_a_bare_array_is_the_only_input() -> None:
    made = [np.full((1, 3), k, np.float32) for k in range(4)]
    for data in (made, iter(made), lambda: iter(made)):
        got = arrays(open_source(data, ONE))
        assert [s["x"].tolist() for s in got] == [[[k] * 3] for k in range(4)]
    error = refused(lambda: arrays(open_source(made, TWO)))
    assert "sample 0 is a ndarray" in error.message
    assert "models of one input" in error.hint


@pytest.mark.parametrize("rows", [1, 2], ids=["open batch", "batch of two"])
def test_an_array_or_a_dict_of_arrays_is_a_stack_of_samples(rows: int) -> None:
    stack = np.arange(12, dtype=np.float32).reshape(4, 3)
    inputs = model_inputs(x=("N" if rows == 1 else rows, 3))
    for data in (stack, {"x": stack}):
        result = open_source(data, inputs)
        assert [s["x"].tolist() for s in arrays(result)] == [
            stack[k : k + rows].tolist() for k in range(0, 4, rows)
        ]
        assert_positions(result)
    error = refused(lambda: open_source({"x": stack, "y": np.zeros(3)}, TWO))
    assert "unequal numbers of samples" in error.message


# Functions


def test_a_function_is_called_anew_for_each_pass() -> None:
    calls = 0

    def made(inputs: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        nonlocal calls
        calls += 1
        for k in range(3):
            yield {name: np.full((1, 3), k, spec.dtype) for name, spec in inputs.items()}

    result = open_source(made, ONE)
    assert (len(result), result.name, calls) == (3, "made", 1)
    assert [s["x"].max() for s in arrays(result)] == [0, 1, 2]
    assert calls == 2


def test_a_function_must_give_the_same_samples_each_time() -> None:
    left = [3, 2]
    result = open_source(lambda: samples(left.pop(0), x=(1, 3)), ONE)
    assert "gave 2 samples, and 3 in the first pass" in refused(lambda: arrays(result)).message
    assert "gives no samples" in refused(lambda: open_source(list, ONE)).message
    assert "gives nothing, not samples" in refused(lambda: open_source(lambda: None, ONE)).message
    assert "takes 2 arguments (a, b)" in misused(lambda: open_source(lambda a, b: [], ONE)).message


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self) -> None:
        self._left = iter(samples(3, x=(1, 3)))

    def get_next(self) -> Any:
        return next(self._left, None)


def test_a_reader_or_its_class_gives_samples() -> None:
    for data in (Reader(), Reader):
        assert_positions(open_source(data, ONE))


# Generators


def test_a_generator_is_read_once() -> None:
    pulled = 0

    def made() -> Iterator[dict[str, np.ndarray]]:
        nonlocal pulled
        for sample in samples(3, x=(2,)):
            pulled += 1
            yield sample

    source = open_source(made())
    assert len(arrays(source)) == len(arrays(source)) == pulled == 3


def test_the_folder_of_spooled_samples_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Spooled(iter(samples(2, x=(1,))))
    assert list(tmp_path.iterdir())
    del source
    gc.collect()
    assert not list(tmp_path.iterdir())

    def failing() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": np.zeros(1)}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Spooled(failing())
    assert not list(tmp_path.iterdir())


def test_a_loader_with_a_length_is_read_in_place() -> None:
    class Loader:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return iter(samples(3, x=(1,)))

        def __len__(self) -> int:
            return 3

    source = open_source(Loader())
    assert isinstance(source, InMemory)
    assert_positions(source)


# What is no sample


def test_a_ragged_list_is_refused_by_sample_and_input(kind: Kind) -> None:
    error = refused(lambda: arrays(kind([{"x": [1.0]}, {"x": [[1.0], [2.0, 3.0]]}])))
    assert "sample 1: 'x' is no array" in error.message


@pytest.mark.parametrize("bad", [5, "text", [1, 2], None, np.zeros(3)], ids=type)
def test_a_sample_that_is_not_a_dict_is_named_by_its_index(kind: Kind, bad: object) -> None:
    error = refused(lambda: arrays(kind([{"x": np.zeros(1)}, bad])))
    assert "sample 1 is a" in error.message
    assert "dict" in error.hint


@pytest.mark.parametrize(
    "data",
    [[], (), iter([]), {}, None, 5, object(), b"ab"],
    ids="empty-list empty-tuple iterator empty-dict none number object bytes".split(),
)
def test_other_objects_are_refused(data: object) -> None:
    with pytest.raises(DataError):
        arrays(open_source(data))
