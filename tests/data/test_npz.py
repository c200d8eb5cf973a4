"""A directory of .npz files: the order, what is read, and what is refused by the file's name."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qtool.data.open import open_source
from qtool.data.samples import Samples
from qtool.errors import DataError
from tests.graphs import samples, write_samples


def names(source: Samples, positions: set[int] | None = None) -> list[str]:
    return [sample.name for sample in source.read(positions)]


def save(folder: Path, *stems: str) -> Path:
    for stem in stems:
        np.savez(folder / f"{stem}.npz", x=np.zeros(2, np.float32))
    return folder


@pytest.mark.parametrize(
    "ordered",
    [
        ["2", "10", "100"],
        ["img2", "img10"],
        ["a1b2", "a1b10", "a2b1"],
        ["007", "8", "09"],
        ["1", "1a", "a", "b"],
        ["s-1.5", "s-1.10"],
        ["1", "²"],
        ["٢", "3"],
    ],
    ids=" ".join,
)
def test_files_come_in_natural_order(tmp_path: Path, ordered: list[str]) -> None:
    source = open_source(save(tmp_path, *reversed(ordered)))
    assert names(source) == [f"{stem}.npz" for stem in ordered]
    assert len(source) == len(ordered)


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    source = open_source(write_samples(tmp_path / "d", samples(5, x=(1, 3))))
    first, second = ([s.inputs["x"] for s in source.read()] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_arrays_come_back_as_they_were_saved(tmp_path: Path) -> None:
    saved = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "ids": np.array([[1, -1]], np.int64),
        "flag": np.array(True),
        "none": np.zeros((0, 4), np.float16),
        "words": np.array(["a", "bc"]),
        "scope/name:0": np.ones(1, np.uint8),
        "file": np.ones(1, np.float32),
    }
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
        for key, array in saved.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{key}.npy", member.getvalue())
    (sample,) = open_source(tmp_path).read()
    assert sample.inputs.keys() == saved.keys()
    for key, array in saved.items():
        np.testing.assert_array_equal(sample.inputs[key], array)
        assert sample.inputs[key].dtype == array.dtype


@pytest.mark.parametrize(
    ("positions", "wanted"), [({0}, [0]), ({3, 1}, [1, 3]), (set(), []), ({2, 99}, [2])], ids=str
)
def test_positions_choose_samples_in_order(tmp_path: Path, positions: set[int], wanted: list[int]) -> None:
    source = open_source(save(tmp_path, *map(str, range(5))))
    assert names(source, positions) == [f"{i}.npz" for i in wanted]


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    save(tmp_path, "0", "2")
    (tmp_path / "1.npz").write_bytes(b"broken")
    assert names(open_source(tmp_path), {0, 2}) == ["0.npz", "2.npz"]


def test_other_files_in_the_folder_are_not_samples(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{}")
    assert names(open_source(save(tmp_path, "0"))) == ["0.npz"]


def refused(data: Callable[[], object]) -> DataError:
    with pytest.raises(DataError) as caught:
        data()
    error = caught.value
    assert error.exit_code == 4
    assert "\n" not in error.message
    return error


def test_a_missing_folder_is_refused_with_a_hint_at_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    error = refused(lambda: open_source(tmp_path / "calip"))
    assert "calip" in error.message
    assert "'calib'" in error.hint


def test_a_missing_parent_is_refused_too(tmp_path: Path) -> None:
    assert "does not exist" in refused(lambda: open_source(tmp_path / "no" / "such")).message


def test_a_single_file_is_a_source_of_one_sample(tmp_path: Path) -> None:
    save(tmp_path, "0", "1")
    assert names(open_source(tmp_path / "1.npz")) == ["1.npz"]


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert "empty" in refused(lambda: open_source(tmp_path)).message


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "cat.xyz").touch()
    (tmp_path / "dog.xyz").touch()
    message = refused(lambda: open_source(tmp_path)).message
    assert "no samples" in message
    assert ".xyz" in message


def truncated() -> bytes:
    whole = io.BytesIO()
    np.savez(whole, x=np.arange(1000, dtype=np.float32))
    return whole.getvalue()[:-200]


def flipped() -> bytes:
    whole = io.BytesIO()
    np.savez(whole, x=np.arange(1000, dtype=np.float32))
    data = bytearray(whole.getvalue())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def object_arrays() -> bytes:
    whole = io.BytesIO()
    np.savez(whole, x=np.array([{"a": 1}], object))
    return whole.getvalue()


def single_array() -> bytes:
    whole = io.BytesIO()
    np.save(whole, np.zeros(3))
    return whole.getvalue()


def member_that_is_no_array(name: str) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(name, "just text")
    return whole.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"not a zip at all",
    "truncated": truncated(),
    "flipped-bits": flipped(),
    "pickle": pickle.dumps([1, 2]),
    "object-arrays": object_arrays(),
    "single-array": single_array(),
    "text-member": member_that_is_no_array("x.txt"),
    "text-member-named-npy": member_that_is_no_array("x.npy"),
    "zip-magic-only": b"PK\x03\x04",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, "0")
    (tmp_path / "1.npz").write_bytes(content)
    assert "1.npz" in refused(lambda: list(open_source(tmp_path).read())).message


def test_a_single_array_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "0.npz").write_bytes(single_array())
    assert "single array" in refused(lambda: list(open_source(tmp_path).read())).message


def test_a_folder_named_like_a_sample_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "0.npz").mkdir()
    assert "0.npz" in refused(lambda: list(open_source(tmp_path).read())).message


def test_a_file_that_went_away_is_refused_by_its_name(tmp_path: Path) -> None:
    source = open_source(save(tmp_path, "0", "1"))
    (tmp_path / "1.npz").unlink()
    assert "1.npz" in refused(lambda: list(source.read())).message


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (trap,)

    folder = tmp_path / "d"
    folder.mkdir()
    np.savez(folder / "0.npz", x=np.array([Trap()], object))
    refused(lambda: list(open_source(folder).read()))
    assert not trap.exists()
