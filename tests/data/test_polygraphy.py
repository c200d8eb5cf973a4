"""Inputs that Polygraphy saved, some written by its own writer, and other JSON, which is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.helpers import arrays, assert_positions, model_inputs, names, refused, source, write
from tests.data.test_npz import npy

# By polygraphy.json.to_json of 0.53.6: [{"x": float32 [0, 1]}], plain and as a LazyArray.
ARRAY = "k05VTVBZAQB2AHsnZGVzY3InOiAnPGY0JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDIsKSwgfSAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAAAAACAPw=="
PLAIN = {"array": ARRAY, "polygraphy_class": "ndarray"}
LAZY = {"values": PLAIN, "polygraphy_class": "LazyArray"}
# Before 0.30 or so.
LEGACY = {"array": ARRAY, "__polygraphy_encoded_ndarray": "polygraphy_serialized_json_type"}
LEGACY_LAZY = {"values": LEGACY, "__polygraphy_encoded_LazyNumpyArray": "polygraphy_serialized_json_type"}

X = model_inputs(x=(2,))


def saved(folder: Path, content: Any, name: str = "inputs.json") -> Path:
    return write(folder / name, json.dumps(content))


@pytest.mark.parametrize(
    "value", [PLAIN, LAZY, LEGACY, LEGACY_LAZY], ids=["plain", "lazy", "legacy", "legacy lazy"]
)
def test_the_output_of_polygraphy_is_read(tmp_path: Path, value: dict) -> None:
    result = source(saved(tmp_path, [{"x": value}] * 3), X)
    assert names(result) == [f"inputs.json[{k}]" for k in range(3)]
    assert [s["x"].tolist() for s in arrays(result)] == [[0, 1]] * 3
    assert arrays(result)[0]["x"].dtype == np.float32
    assert_positions(result)


def test_a_folder_of_files_is_read_if_the_kind_is_forced(tmp_path: Path) -> None:
    for k in range(11):
        saved(tmp_path, {"x": PLAIN}, f"{k:010}.json")
    result = source(tmp_path, X, kind="polygraphy")
    assert names(result) == [f"{k:010}.json" for k in range(11)]
    assert_positions(result)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), "i8"), np.array(True), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.ones(2, ">f4"), np.array(["é"])],
    ids=lambda a: str(a.dtype),
)  # fmt: skip
def test_any_array_is_read(tmp_path: Path, array: np.ndarray) -> None:
    value = {"array": base64.b64encode(npy(array)).decode(), "polygraphy_class": "ndarray"}
    (got,) = arrays(source(saved(tmp_path, [{"x": value}]), X))
    np.testing.assert_array_equal(got["x"], array)
    assert got["x"].dtype == array.dtype


def packed(content: bytes) -> list:
    return [{"x": {"array": base64.b64encode(content).decode(), "polygraphy_class": "ndarray"}}]


BROKEN: dict[str, tuple[Any, str]] = {
    "nothing": ([], "holds no samples"),
    "numbers": ([1, 2], "int where a dict of arrays should be"),
    "a number": (5, "int where"),
    "results of runs": ({"lst": [], "polygraphy_class": "RunResults"}, "a RunResults where"),
    "labels": ({"0.npz": 3}, "'0.npz' is no array that Polygraphy saved"),
    "an array that is none": ([{"x": {"polygraphy_class": "ndarray"}}], "'x' is no array that Polygraphy saved"),
    "no base64": ([{"x": {"array": "k05V*", "polygraphy_class": "ndarray"}}], "'x' is no array"),
    "cut base64": ([{"x": {**PLAIN, "array": ARRAY[:-8]}}], "'x' is no array"),
    "a tensor of torch": ([{"x": {"tensor": "AA==", "polygraphy_class": "Tensor"}}], "tensor of PyTorch"),
    "objects": (packed(npy(np.array([{}], object))), "'x' is no array: Object arrays"),
    "a pickle": (packed(b"\x80\x04]."), "is no array"),
    "lazy and empty": ([{"x": {"values": None, "polygraphy_class": "LazyArray"}}], "is no array"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_other_json_is_refused(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    error = refused(lambda: arrays(source(saved(tmp_path, content), X)))
    assert "inputs.json" in error.message
    assert message in error.message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "no UTF-8", "deep"]
)
def test_other_than_json_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "inputs.json", content)
    assert "no JSON" in refused(lambda: source(tmp_path / "inputs.json", X)).message


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "inputs.json").open("wb") as stream:
        stream.truncate((1 << 30) + 1)
    assert (
        "such a file may have 1,073,741,824" in refused(lambda: source(tmp_path / "inputs.json", X)).message
    )
