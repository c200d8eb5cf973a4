"""Cached FP32 outputs give the comparison that the live session gives, and are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qtool.data.iterables import InMemory
from qtool.data.samples import Part
from qtool.data.split import split_samples
from qtool.evaluate.cached_outputs import MEMORY, CachedOutputs
from qtool.evaluate.compare import compare
from qtool.evaluate.float_io import InputInfo
from qtool.runtime.session import Session
from tests.evaluate.test_compare import linear
from tests.graphs import samples

INPUTS = [s for i, n in enumerate((1, 7, 3, 2, 5, 1, 1, 4)) for s in samples(1, seed=i, x=(n, 8))]
SOURCE = InMemory(INPUTS)


def session(proto: onnx.ModelProto) -> Session:
    return Session(proto.SerializeToString(), threads=1)


class Counted:
    """A model of one input that gives what a function makes of it, and counts its runs."""

    def __init__(self, function: Any = lambda x: x) -> None:
        self.name = "counted"
        self.outputs = ["y"]
        self.output_shapes: dict[str, list[int | str | None]] = {"y": [None]}
        self.inputs = {"x": InputInfo([None])}
        self.input_dtypes: dict[str, str | None] = {"x": "float32"}
        self.runs = 0
        self._function = function

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        self.runs += 1
        return [self._function(sample["x"])]


def at(value: float) -> dict[str, np.ndarray]:
    return {"x": np.array([value], np.float32)}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary folders."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("memory", [MEMORY, 100, 0], ids=["memory", "both", "files"])
def test_cached_outputs_give_the_same_comparison(memory: int, scratch: Path) -> None:
    quantized = session(linear(0.1))
    live = compare(session(linear()), quantized, SOURCE)
    with CachedOutputs("fp32", lambda: session(linear()), memory) as golden:
        assert compare(golden, quantized, SOURCE) == live
        assert compare(golden, quantized, SOURCE) == live
        assert bool(list(scratch.iterdir())) == (memory < MEMORY)


def test_each_sample_is_computed_once_whatever_subset_comes_first() -> None:
    source = InMemory([at(i) for i in range(20)])
    model, other = Counted(), Counted()
    sets = split_samples(source, None)
    assert sets.select is not None
    with CachedOutputs("fp32", lambda: model) as golden:
        compare(golden, other, Part(sets.select, frozenset({0, 3}), "some"))
        assert model.runs == 2
        compare(golden, other, sets.select)
        assert model.runs == 5
        compare(golden, other, source)
        compare(golden, other, sets.select)
        assert model.runs == 20


def test_the_model_is_opened_only_when_it_is_needed() -> None:
    opened: list[Counted] = []

    def open_model() -> Counted:
        opened.append(Counted())
        return opened[-1]

    with CachedOutputs("fp32", open_model) as golden:
        assert golden.name == "fp32"
        assert not opened
        golden.run(at(1))
        golden.run(at(2))
        assert len(opened) == 1
        golden.release()
        golden.run(at(1))
        assert golden.outputs == ["y"]
        assert len(opened) == 1
        golden.run(at(3))
    assert len(opened) == 2


def test_the_cache_key_has_values_types_and_shapes() -> None:
    model = Counted()
    inputs = [
        np.zeros(2, np.float32),
        np.zeros(2, np.int32),
        np.zeros((1, 2), np.float32),
        np.ones(2, np.float32),
    ]
    with CachedOutputs("fp32", lambda: model) as golden:
        for x in (*inputs, *inputs):
            (actual,) = golden.run({"x": x})
            assert actual.dtype == x.dtype
            assert np.array_equal(actual, x)
    assert model.runs == len(inputs)


@pytest.mark.parametrize("memory", [MEMORY, 0], ids=["memory", "files"])
@pytest.mark.parametrize(
    "value",
    [
        np.array([["a", "ü"]], object),
        np.array([True, False]),
        np.float16([1, np.nan]),
        np.zeros((0, 3), np.float32),
        np.float32(2.5).reshape(()),
        [np.arange(3), np.arange(4)],
        [{1: 0.5}],
        None,
    ],
    ids=["strings", "bool", "nan", "empty", "scalar", "sequence", "map", "absent"],
)
def test_outputs_of_every_kind_are_returned_unchanged(value: Any, memory: int) -> None:
    with CachedOutputs("fp32", lambda: Counted(lambda x: value), memory) as golden:
        for _ in range(2):
            (actual,) = golden.run(at(0), ["y"])
            assert type(actual) is type(value)
            np.testing.assert_equal(actual, value)
            assert getattr(actual, "dtype", None) == getattr(value, "dtype", None)


def test_the_folder_is_removed_even_when_a_comparison_fails(scratch: Path) -> None:
    with pytest.raises(ZeroDivisionError), CachedOutputs("fp32", Counted, memory=0) as golden:
        golden.run(at(1))
        assert len(list(scratch.rglob("*.npy"))) == 1
        raise ZeroDivisionError
    assert not list(scratch.iterdir())


def test_files_are_written_only_beyond_the_memory_limit(scratch: Path) -> None:
    with CachedOutputs("fp32", Counted, memory=8) as golden:
        golden.run(at(1))
        golden.run(at(2))
        assert not list(scratch.iterdir())
        golden.run(at(3))
        assert len(list(scratch.rglob("*.npy"))) == 1


def test_cached_arrays_are_read_only() -> None:
    with CachedOutputs("fp32", lambda: Counted(lambda x: x + 1)) as golden:
        (actual,) = golden.run(at(1))
        with pytest.raises(ValueError, match="read-only"):
            actual += 1
