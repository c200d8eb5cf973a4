"""Files of samples: which are found, in which order, and how a file is opened."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data import files
from qtool.data.files import UnchangedFiles, names_in, natural, opened, with_suffix
from qtool.data.open import open_source
from qtool.runtime import heartbeat
from tests.data.helpers import refused, write
from tests.tiers import examples


def make(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, "")
    return folder


def test_hidden_files_and_linked_folders_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "b10", "b9", "c/a", "c/d/e", ".DS_Store", "._photo.jpg", ".git/config", "c/.hidden")
    (tmp_path / "c" / "loop").symlink_to(tmp_path / "c")
    assert names_in(tmp_path) == ["b9", "b10", "c"]
    assert names_in(tmp_path, nested=True) == ["b9", "b10", "c/a", "c/d/e", "c/loop"]


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "b", "c/d")
    monkeypatch.setattr(files, "MOST_FILES", 2)
    assert "more than 2 files" in refused(lambda: names_in(tmp_path, nested=True)).message


def test_missing_and_empty_folders_are_refused_with_a_hint(tmp_path: Path) -> None:
    make(tmp_path / "calib", "cat.xyz")
    make(tmp_path, "file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    error = refused(lambda: open_source(tmp_path / "calip"))
    assert "calip' does not exist" in error.message
    assert "'calib'" in error.hint
    assert "is empty" in refused(lambda: open_source(tmp_path / "empty")).message
    assert "no samples (it has: .xyz)" in refused(lambda: open_source(tmp_path / "calib")).message
    assert "is no file of samples" in refused(lambda: open_source(tmp_path / "file")).message
    for name in ("loop", "no/such", "x" * 300, "a\0b"):
        refused(lambda name=name: open_source(tmp_path / name))


def test_suffixes_ignore_case() -> None:
    assert with_suffix(["a.JPG", "b.jpg", "c.jpg.txt", "jpg", "d.Jpeg"], (".jpg", ".jpeg")) == ["a.JPG", "b.jpg", "d.Jpeg"]  # fmt: skip


@settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)
@given(st.integers(0, 10**12), st.integers(0, 10**12), st.lists(st.text(max_size=8), unique=True))
def test_numbers_in_names_are_ordered_by_value(a: int, b: int, names: list[str]) -> None:
    assert (natural(f"x{a}.npz") < natural(f"x{b}.npz")) == (a < b)
    keys = [natural(n) for n in sorted(names, key=natural)]
    names.reverse()
    assert keys == [natural(n) for n in sorted(names, key=natural)]


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path) -> None:
    file = write(tmp_path / "f", b"eleven byte")
    with opened(file, 11) as stream:
        assert stream.read() == b"eleven byte"

    def read() -> None:
        with opened(file, 10):
            raise AssertionError("opened")

    assert "11 bytes; such a file may have 10" in refused(read).message


def raising(file: Path, error: BaseException) -> Callable[[], None]:
    def read() -> None:
        with opened(file):
            raise error

    return read


def test_errors_are_data_errors_with_the_name_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "f", "")
    for error in (ValueError("bad\n\x1b[31m"), OSError(5, "Input/output error"), KeyError("k")):
        assert refused(raising(file, error)).message.startswith(f"{file}: ")
    for other in (MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(other)):
            raising(file, other)()


def test_reading_counts_as_one_step(tmp_path: Path) -> None:
    file, page = write(tmp_path / "f", ""), mmap.mmap(-1, heartbeat.PAGE_BYTES)
    heartbeat.show_on(page)
    with opened(file):
        step = heartbeat.read(page).step
        assert step is not None and (step.subject, step.doing) == (str(file), "it is read")
    after = heartbeat.read(page).step
    assert after is None or after.subject != str(file)


@pytest.mark.parametrize("change", ["written", "renamed over", "longer"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    file, unchanged = write(tmp_path / "f", "one"), UnchangedFiles()

    def read() -> bytes:
        with unchanged.opened(file) as stream:
            return stream.read()

    assert read() == read()
    if change == "renamed over":
        write(tmp_path / "new", "two").rename(file)
    else:
        write(file, "two" if change == "written" else "three")
        os.utime(file, ns=(1, 1))
    assert "f: changed while it was in use" in refused(read).message
