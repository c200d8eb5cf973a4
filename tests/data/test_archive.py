"""The gate for .npz files: nothing is unpacked before it is known to be little enough, and what it says it is."""

from __future__ import annotations

import io
import os
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qtool.data import archive
from qtool.data.archive import Archive
from qtool.data.fit import fit
from qtool.data.open import open_source
from qtool.errors import DataError


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version, allow_pickle=True)
    return stream.getvalue()


def head(text: str, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """The first bytes of an .npy file, with any text and any length of it."""
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + text.encode("latin1")  # fmt: skip


def says(shape: str = "(2,)", descr: str = "'<f4'", data: bytes = bytes(8)) -> bytes:
    """An .npy file whose header says anything."""
    return head(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n") + data


@dataclass(frozen=True)
class Member:
    """A member of a zip file, and what the directory says of it where that is not so."""

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None
    packed: bytes | None = None
    crc: int | None = None
    flags: int = 0


def zipped(*members: Member) -> bytes:
    """A zip file of members that may lie."""
    body, directory = b"", b""
    for m in members:
        packed = m.data if m.packed is None else m.packed
        name, crc = m.name.encode(), zlib.crc32(m.data) if m.crc is None else m.crc
        size = len(m.data) if m.size is None else m.size
        fields = struct.pack("<HHHHHIIIHH", 20, m.flags | 0x800, m.method, 0, 0x21, crc, len(packed), min(size, 0xFFFFFFFF), len(name), 20 if size >= 1 << 32 else 0)  # fmt: skip
        extra = struct.pack("<HHQQ", 1, 16, size, len(packed)) if size >= 1 << 32 else b""
        directory += b"PK\1\2" + b"\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name + extra  # fmt: skip
        body += b"PK\3\4" + fields + name + extra + packed
    count = min(len(members), 0xFFFF)
    return body + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)  # fmt: skip


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zeros(size: int) -> bytes:
    """Many zeros, deflated; made of one piece over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(bytes(1 << 20))
    packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * (size >> 20) + packer.flush()


GOOD = npy(np.arange(6, dtype=np.float32))


@contextmanager
def frugal(most: int = 16 << 20) -> Iterator[None]:
    """Not more than so many bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def refused(folder: Path, content: bytes) -> str:
    """The message of the error that a file is met with, unread."""
    (folder / "0.npz").write_bytes(content)
    with pytest.raises(DataError) as caught, frugal():
        for sample in open_source(folder).read():
            for array in sample.inputs.values():
                np.asarray(array)
    message = caught.value.message
    assert message.startswith(str(folder / "0.npz"))
    assert message.isprintable()
    return message


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    (folder / "0.npz").write_bytes(content)
    (sample,) = open_source(folder).read()
    return {key: np.asarray(array) for key, array in sample.inputs.items()}


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "10 GB of zeros": (lambda: zipped(Member("x.npy", b"", 8, 10 << 30, zeros(10 << 30))), "unpacks to"),
    "many small ones": (lambda: zipped(*[Member(f"{i}.npy", b"", 8, 1 << 30, b"") for i in range(9)]), "unpacks to"),
    "zeros that are not declared": (lambda: zipped(Member("x.npy", says(), 8, None, deflated(says()[:-8]) + zeros(1 << 30))), "'x'|readable"),
    "bzip2": (lambda: zipped(Member("x.npy", b"", zipfile.ZIP_BZIP2, 100, b"")), "'x' is compressed"),
    "lzma": (lambda: zipped(Member("x.npy", b"", zipfile.ZIP_LZMA, 100, b"")), "'x' is compressed"),
    "a header of 4 GB": (lambda: zipped(Member("x.npy", head("{'descr': ", (2, 0), 0xFFFFFFFF))), "'x' is no array"),
    "a header of zeros": (lambda: zipped(Member("x.npy", b"", 8, 1 << 30, deflated(head("", (2, 0), 1 << 30) + bytes(1 << 20)))), "'x' is no array"),
    "nested without end": (lambda: zipped(Member("x.npy", head("(" * 9000))), "'x' is no array"),
    "signs without end": (lambda: zipped(Member("x.npy", head("-" * 9000 + "1"))), "'x' is no array"),
    "too many arrays": (lambda: zipped(*[Member(f"{i}", b"") for i in range(5000)]), "5,000 arrays"),
    "a directory of 2 MB": (lambda: zipped(*[Member(f"{i}" + "x" * 60_000, b"") for i in range(40)]), "directory of"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(bomb: str, tmp_path: Path) -> None:
    made, message = BOMBS[bomb]
    content = made()
    (tmp_path / "0.npz").write_bytes(content)
    with pytest.raises(DataError, match=message), frugal():
        _ = Archive(tmp_path / "0.npz").data


def records() -> bytes:
    return npy(np.zeros(2, [("a", "<f4"), ("b", "<i4")]))


LIES: dict[str, tuple[bytes, str]] = {
    "two of one name": (zipped(Member("x.npy", GOOD), Member("x.npy", GOOD)), "two arrays 'x'"),
    "two that come to one name": (zipped(Member("x.npy", GOOD), Member("x", GOOD)), "two arrays 'x'"),
    "encrypted": (zipped(Member("x.npy", GOOD, flags=1)), "'x' is encrypted"),
    "no array": (zipped(Member("x.npy", b"just text")), "'x' is no array"),
    "a folder": (zipped(Member("x/", b"")), "'x/' is no array"),
    "a wrong sum": (zipped(Member("x.npy", GOOD, crc=1)), "readable"),
    "a wrong sum, further on": (zipped(Member("x.npy", npy(np.zeros(9999)), crc=1)), "readable"),
    "no deflate": (zipped(Member("x.npy", GOOD, 8, None, b"\xff" * 99)), "'x'|readable"),
    "a larger shape": (zipped(Member("x.npy", says("(3,)"))), r"'x' says that it is float32\[3\], and has 8 bytes"),
    "a smaller shape": (zipped(Member("x.npy", says("(1,)"))), "'x' says"),
    "a shape beyond all memory": (zipped(Member("x.npy", says(f"({2**62}, {2**62})"))), "'x' says"),
    "a shape that overflows to fit": (zipped(Member("x.npy", says(f"({2**61}, 8, 2)", data=b""))), "'x' says"),
    "a negative shape": (zipped(Member("x.npy", says("(-2,)"))), "'x' says"),
    "two negative ones": (zipped(Member("x.npy", says("(-1, -2)"))), "'x' says"),
    "nothing, of a shape beyond all": (zipped(Member("x.npy", says(f"(0, {10**30})", data=b""))), "readable"),
    "a rank beyond all": (zipped(Member("x.npy", says(str((1,) * 99), data=bytes(4)))), "readable"),
    "a shape that is no tuple": (zipped(Member("x.npy", says("2"))), "'x' is no array"),
    "a shape of floats": (zipped(Member("x.npy", says("(2.0,)"))), "'x' is no array"),
    "code for a header": (zipped(Member("x.npy", head("__import__('os').abort()"))), "'x' is no array"),
    "objects": (zipped(Member("x.npy", npy(np.array([{}], object)))), "'x' holds Python objects"),
    "records": (zipped(Member("x.npy", records())), "'x' holds"),
    "arrays of arrays": (zipped(Member("x.npy", says("(1,)", "('<f4', (2,))"))), "'x' "),
    "dates": (zipped(Member("x.npy", npy(np.zeros(2, "M8[s]")))), "'x' holds"),
    "bytes of no type": (zipped(Member("x.npy", npy(np.zeros(2, "V4")))), "'x' holds"),
    "letters of no width": (zipped(Member("x.npy", says(f"({10**12},)", "'<U0'", b""))), "'x' holds"),
    "a version of the future": (zipped(Member("x.npy", head("{}", (9, 0)))), "'x' is no array"),
    "an end that is cut": (zipped(Member("x.npy", GOOD))[:-30], "readable"),
    "a control character": (zipped(Member("e\x1b[31m\nvil.npy", b"text")), r"'e\?\[31m vil' is no array"),
    "a directory elsewhere": (zipped(Member("x.npy", GOOD))[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, 60, 1 << 31, 0), "readable"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_what_it_says_is_refused_by_file_and_input(lie: str, tmp_path: Path) -> None:
    content, message = LIES[lie]
    assert re.search(message, refused(tmp_path, content))


PLAIN: dict[str, np.ndarray] = {
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "bool": np.array([True, False]),
    "scalar": np.array(1.5),
    "empty": np.zeros((2, 0, 3), np.float16),
    "text": np.array(["a", "bcé"]),
    "more than a piece": np.arange(600_000, dtype=np.float32).reshape(3, -1),
}


@pytest.mark.parametrize("method", archive.METHODS, ids=["stored", "deflated"])
@pytest.mark.parametrize("kind", PLAIN)
def test_whatever_numpy_saves_is_read(kind: str, method: int, tmp_path: Path) -> None:
    array = PLAIN[kind]
    made = io.BytesIO()
    (np.savez if method == zipfile.ZIP_STORED else np.savez_compressed)(made, x=array)
    got = read(tmp_path, made.getvalue())["x"]
    np.testing.assert_array_equal(got, array)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)


def test_the_second_version_of_the_format_is_read(tmp_path: Path) -> None:
    got = read(tmp_path, zipped(Member("x.npy", npy(np.arange(3), (2, 0)))))
    assert got["x"].tolist() == [0, 1, 2]


def test_a_name_that_climbs_is_a_name(tmp_path: Path) -> None:
    """Nothing is ever unpacked to a file; whether the model has such an input is seen later."""
    assert read(tmp_path, zipped(Member("../../x.npy", GOOD))).keys() == {"../../x"}


def test_an_empty_archive_has_no_inputs(tmp_path: Path) -> None:
    assert read(tmp_path, zipped()) == {}


def test_shapes_and_types_are_known_before_anything_is_read(tmp_path: Path) -> None:
    """A sample that can't be the model's is refused without unpacking it."""
    spec = SimpleNamespace(shape=[1, 3], type="tensor(float)")
    np.savez_compressed(tmp_path / "0.npz", x=np.zeros((64, 1 << 20), np.uint8))
    (sample,) = open_source(tmp_path).read()
    with pytest.raises(DataError, match="'x' has shape"), frugal(1 << 20):
        fit(sample, {"x": spec}, {"x": "float32"}, "calib")


# What is no file


def what_is_no_file(kind: str, path: Path) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere")
        case "folder":
            path.mkdir()


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling", "folder"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    what_is_no_file(kind, tmp_path / "0.npz")
    with pytest.raises(DataError, match=r"0\.npz: (not a regular file|can't be read)"):
        list(open_source(tmp_path).read())


def test_a_folder_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").symlink_to("d")
    with pytest.raises(DataError, match="can't be read"):
        open_source(tmp_path / "d")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "null"])
def test_a_name_that_no_folder_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", [b"a\nb.npz", b"\x1b[31m.npz", b"\xff\xfe.npz"], ids=repr)
def test_a_file_may_have_any_name_and_no_message_shows_it_raw(name: bytes, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as stream:  # noqa: PTH123  # a Path has no bytes
        np.savez(stream, x=np.ones(1))
    (sample,) = open_source(tmp_path).read()
    assert np.asarray(sample.inputs["x"]).tolist() == [1]
    with open(path, "wb") as stream:  # noqa: PTH123
        stream.write(b"broken")
    with pytest.raises(DataError) as caught:
        list(open_source(tmp_path).read())
    assert caught.value.message.isprintable()


def test_a_folder_of_many_files_is_listed_in_little_time(tmp_path: Path) -> None:
    """Without opening any; 10,000 here, and time grows with their number only."""
    for index in range(10_000):
        (tmp_path / f"{index}.npz").touch()
    source = open_source(tmp_path)
    assert len(source) == 10_000
    assert [f.name for f in source.files[:3]] == ["0.npz", "1.npz", "2.npz"]


# What changes


def rewrite(path: Path, how: str) -> None:
    made = path.with_suffix(".new")
    with made.open("wb") as stream:
        np.savez(stream, x=np.full(2, 7.0))
    if how == "renamed over":
        made.rename(path)
    else:
        path.write_bytes(made.read_bytes())
        made.unlink()
        os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
def test_a_file_that_changes_between_two_passes_is_refused(how: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=np.zeros(2))
    source = open_source(tmp_path)
    list(source.read())
    list(source.read())
    rewrite(tmp_path / "0.npz", how)
    with pytest.raises(DataError, match=r"0\.npz: changed while it was in use"):
        list(source.read())


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
def test_a_file_that_changes_after_it_was_looked_at_is_refused(how: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=np.zeros(2))
    (sample,) = open_source(tmp_path).read()
    rewrite(tmp_path / "0.npz", how)
    with pytest.raises(DataError, match=r"0\.npz: changed while it was in use"):
        np.asarray(sample.inputs["x"])
