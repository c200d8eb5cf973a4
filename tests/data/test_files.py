"""Files of samples: which are found, in which order, and how one that is no plain file is met."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data import files
from qtool.data.files import Unchanged, blamed, mark_of, names_in, natural, opened, with_suffix
from qtool.runtime import heartbeat
from tests.data.helpers import refused, write
from tests.data.test_archive import what_is_no_file

LAW = settings(deadline=None, max_examples=100, derandomize=True, database=None)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, "")
    return folder


def test_the_folder_alone_or_all_below_it(tmp_path: Path) -> None:
    make(tmp_path, "b10", "b9", "c/a", "c/d/e")
    assert names_in(tmp_path) == ["b9", "b10", "c"]
    assert names_in(tmp_path, nested=True) == ["b9", "b10", "c/a", "c/d/e"]


@pytest.mark.parametrize("name", [".DS_Store", "._photo.jpg", ".git/config", "a/.hidden", ".cache/a.npz"])
def test_what_is_hidden_is_no_sample(tmp_path: Path, name: str) -> None:
    make(tmp_path, "seen", name)
    assert names_in(tmp_path, nested=True) == ["seen"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "d/a", "d/b")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    assert names_in(tmp_path, nested=True) == ["d/a", "d/b", "d/loop"]


def test_a_disk_is_no_folder_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "b", "c/d")
    monkeypatch.setattr(files, "MOST_FILES", 2)
    assert "more than 2 files" in refused(lambda: names_in(tmp_path, nested=True)).message


def test_suffixes_are_in_whatever_case() -> None:
    assert with_suffix(["a.JPG", "b.jpg", "c.jpg.txt", "jpg", "d.Jpeg"], (".jpg", ".jpeg")) == ["a.JPG", "b.jpg", "d.Jpeg"]  # fmt: skip


@LAW
@given(st.lists(st.text(max_size=8), unique=True), st.randoms(use_true_random=False))
def test_any_names_are_ordered_alike_wherever_they_come_from(names: list[str], random: Random) -> None:
    mixed = random.sample(names, len(names))
    assert [natural(n) for n in sorted(mixed, key=natural)] == [
        natural(n) for n in sorted(names, key=natural)
    ]


@LAW
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_in_names_are_ordered_by_value(a: int, b: int) -> None:
    assert (natural(f"x{a}.npz") < natural(f"x{b}.npz")) == (a < b)


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    with opened(write(tmp_path / "f", "text")) as stream:
        assert stream.read() == b"text"


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling", "folder"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    what_is_no_file(kind, tmp_path / "f")

    def read() -> None:
        with opened(tmp_path / "f"):
            raise AssertionError("opened")

    message = refused(read).message
    assert message.startswith(f"{tmp_path / 'f'}: ")
    assert "not a regular file" in message or "can't be read" in message


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path) -> None:
    file = write(tmp_path / "f", bytes(11))
    with opened(file, 11):
        pass

    def read() -> None:
        with opened(file, 10):
            raise AssertionError("opened")

    assert "11 bytes; such a file may have 10" in refused(read).message


@pytest.mark.parametrize(
    "error", [ValueError("bad\n\x1b[31m"), OSError(5, "Input/output error"), KeyError("k")]
)
def test_whatever_goes_wrong_is_the_fault_of_the_file(tmp_path: Path, error: Exception) -> None:
    def read() -> None:
        with blamed(tmp_path / "f"):
            raise error

    assert refused(read).message.startswith(f"{tmp_path / 'f'}: ")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()], ids=["memory", "interrupt"])
def test_what_is_not_the_fault_of_the_file_is_not_blamed_on_it(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), blamed(tmp_path / "f"):
        raise error


def test_reading_is_a_step_that_ends(tmp_path: Path) -> None:
    file, page = write(tmp_path / "f", ""), mmap.mmap(-1, heartbeat.PAGE_BYTES)
    heartbeat.show_on(page)
    with opened(file):
        step = heartbeat.seen(page).step
        assert step is not None and (step.subject, step.doing) == (str(file), "it is read")
    after = heartbeat.seen(page).step
    assert after is None or after.subject != str(file)


@pytest.mark.parametrize("how", ["written", "renamed over", "longer"])
def test_a_file_must_stay_as_it_was_first_seen(tmp_path: Path, how: str) -> None:
    file, unchanged = write(tmp_path / "f", "one"), Unchanged()

    def look() -> None:
        with opened(file) as stream:
            unchanged.check(file, mark_of(stream))

    look()
    look()
    if how == "renamed over":
        write(tmp_path / "new", "two").rename(file)
    else:
        write(file, "two" if how == "written" else "three")
        os.utime(file, ns=(1, 1))
    assert "f: changed while it was in use" in refused(look).message
