""".npz and .npy files: the order, what is read, and hostile files, which end in one error with the file's name."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.errors import DataError
from tests.data.helpers import arrays, assert_positions, model_inputs, names, refused, source, write
from tests.tiers import examples

ONE = model_inputs(x=("N", 3))


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version, allow_pickle=True)
    return stream.getvalue()


def head(text: str, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """The first bytes of a .npy file, with any text and any length of it."""
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + text.encode("latin1")  # fmt: skip


def claims(shape: str = "(2,)", descr: str = "'<f4'", data: bytes = bytes(8)) -> bytes:
    """A .npy file whose header claims anything."""
    return head(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n") + data


@dataclass(frozen=True)
class Member:
    """A member of a zip file, and what the directory claims of it where that is not so."""

    name: str
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None
    packed: bytes | None = None
    crc: int | None = None
    flags: int = 0


def zipped(*members: Member) -> bytes:
    """A zip file of members that may be other than the directory claims."""
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
    """Many zeros, deflated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(bytes(1 << 20))
    packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * (size >> 20) + packer.flush()


@contextmanager
def bounded(most: int = 16 << 20) -> Iterator[None]:
    """Check that no more bytes are allocated at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def save(folder: Path, *stems: str) -> Path:
    for stem in stems:
        np.savez(folder / f"{stem}.npz", x=np.zeros(2, np.float32))
    return folder


@pytest.mark.parametrize(
    "ordered", [["2", "10", "100"], ["a1b2", "a1b10", "a2b1"], ["007", "8", "09"], ["1", "²"], ["٢", "3"]]
)
def test_files_come_in_natural_order(tmp_path: Path, ordered: list[str]) -> None:
    result = source(save(tmp_path, *reversed(ordered)))
    assert names(result) == [f"{stem}.npz" for stem in ordered]


def test_any_positions_give_the_samples_of_a_full_pass(tmp_path: Path) -> None:
    for k in range(5):
        np.savez(
            tmp_path / f"{k}.npz", x=np.full((2, 3), k, np.float32), flag=np.array(True), ids=np.arange(k)
        )
        np.save(tmp_path / f"{k}.npy", np.full((1, 3), k, np.float32))
    assert_positions(source(tmp_path))
    assert_positions(source(tmp_path, ONE, "npy"))
    assert arrays(source(tmp_path / "1.npy", ONE))[0]["x"].tolist() == [[1, 1, 1]]


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    write(save(tmp_path, "0", "2") / "1.npz", b"broken")
    assert names(source(tmp_path), {0, 2}) == ["0.npz", "2.npz"]


def test_npy_is_for_the_only_input_that_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.zeros((1, 3)))
    two = model_inputs(x=(1, 3), s=(1,))
    assert arrays(source(tmp_path, two, fill={"s": 0}, rename={"data": "x"}))[0].keys() == {"x", "s"}
    error = refused(lambda: source(tmp_path, two))
    assert "the model has 2 inputs" in error.message
    assert ".npz" in error.hint


ANY = hnp.arrays(
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "<i8", ">i2", "u1", "u8", "?", "U3", "c8"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=examples(40),
    derandomize=True,
    database=None,
)
@given(array=ANY, fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0)]), packed=st.booleans())
def test_the_output_of_numpy_is_read(
    tmp_path: Path, array: np.ndarray, fortran: bool, version: tuple[int, int], packed: bool
) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    write(tmp_path / "0.npy", npy(array, version))
    (np.savez_compressed if packed else np.savez)(tmp_path / "0.npz", x=array)
    for kind in ("npy", "npz"):
        (got,) = arrays(source(tmp_path, ONE, kind))
        assert (got["x"].shape, got["x"].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(got["x"], array)


GOOD = npy(np.arange(6, dtype=np.float32))
# Contents that are no array, alone and in an archive.
NO_ARRAYS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no array"),
    "text": (b"just text", "no array"),
    "pickle": (pickle.dumps([1]), "no array"),
    "truncated in the header": (GOOD[:40], "no array"),
    "truncated in the array": (GOOD[:-3], "no array"),
    "longer than its shape": (GOOD + b"x", "more data than its shape"),
    "a larger shape": (claims("(3,)"), "no array"),
    "objects": (npy(np.array([{}], object)), "no array: Object arrays cannot be loaded"),
    "records": (npy(np.zeros(2, [("a", "<f4"), ("b", "<i4")])), "holds"),
    "dates": (npy(np.zeros(2, "M8[s]")), "holds datetime64"),
    "bytes of no type": (npy(np.zeros(2, "V4")), "holds"),
    "letters of no width": (claims(f"({10**3},)", "'<U0'", b""), "holds"),
    "negative shapes": (claims("(-1, -2)"), "no array"),
    "a shape beyond all memory": (claims(f"({2**62}, {2**62})"), "no array|claims more memory"),
    "a shape beyond this machine": (claims(f"({2**48},)"), "no array|claims more memory"),
    "a shape that overflows to fit": (claims(f"({2**61}, 8, 2)", data=b""), "no array"),
    "nothing, of a shape beyond all": (claims(f"(0, {10**30})", data=b""), "no array"),
    "a rank beyond all": (claims(str((1,) * 99), data=bytes(4)), "no array"),
    "code for a header": (head("__import__('os').abort()"), "no array"),
    "nested without end": (head("(" * 9000), "no array|claims more memory"),
    "a header of 4 GB": (head("{'descr': ", (2, 0), 0xFFFFFFFF), "no array"),
    "a version of the future": (head("{}", (9, 0)), "no array"),
}


@pytest.mark.parametrize("what", NO_ARRAYS)
def test_other_contents_than_arrays_are_refused_by_file_and_input(tmp_path: Path, what: str) -> None:
    content, message = NO_ARRAYS[what]
    write(tmp_path / "0.npy", content)
    write(tmp_path / "0.npz", zipped(Member("x.npy", content)))
    alone = refused(lambda: arrays(source(tmp_path, ONE, "npy")))
    packed = refused(lambda: arrays(source(tmp_path)))
    assert re.search(message, alone.message), alone.message
    assert re.search(message, packed.message), packed.message
    assert alone.message.startswith(str(tmp_path / "0.npy"))
    assert packed.message.startswith(f"{tmp_path / '0.npz'}: 'x'")


# Archives that are bombs or damaged.
BAD_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "10 GB of zeros": (lambda: zipped(Member("x.npy", b"", 8, 10 << 30, zeros(10 << 30))), "unpacks to"),
    "many small ones": (lambda: zipped(*[Member(f"{i}.npy", b"", 8, 1 << 30, b"") for i in range(9)]), "unpacks to"),
    "zeros that are not declared": (lambda: zipped(Member("x.npy", claims(), 8, None, deflated(claims()[:-8]) + zeros(1 << 30))), "'x'|readable"),
    "bzip2": (lambda: zipped(Member("x.npy", b"", zipfile.ZIP_BZIP2, 100, b"")), "'x' is compressed"),
    "a header of zeros": (lambda: zipped(Member("x.npy", b"", 8, 1 << 30, deflated(head("", (2, 0), 1 << 30) + bytes(1 << 20)))), "'x' is no array|readable"),
    "too many arrays": (lambda: zipped(*[Member(f"{i}", b"") for i in range(5000)]), "5,000 arrays"),
    "two of one name": (lambda: zipped(Member("x.npy", GOOD), Member("x", GOOD)), "'x' is there twice"),
    "encrypted": (lambda: zipped(Member("x.npy", GOOD, flags=1)), "encrypted"),
    "a folder": (lambda: zipped(Member("x/", b"")), "'x/' is no array"),
    "a wrong sum": (lambda: zipped(Member("x.npy", npy(np.zeros(9999)), crc=1)), "readable"),
    "no deflate": (lambda: zipped(Member("x.npy", GOOD, 8, None, b"\xff" * 99)), "'x'|readable"),
    "an end that is cut": (lambda: zipped(Member("x.npy", GOOD))[:-30], "readable"),
    "a single array": (lambda: GOOD, "readable"),
    "a control character": (lambda: zipped(Member("e\x1b[31m\nvil.npy", b"text")), r"'e\?\[31m vil' is no array"),
    "a directory elsewhere": (lambda: zipped(Member("x.npy", GOOD))[:-22] + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, 60, 1 << 31, 0), "readable"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_a_bad_archive_is_refused_in_little_memory(tmp_path: Path, what: str) -> None:
    make, message = BAD_ARCHIVES[what]
    write(tmp_path / "0.npz", make())
    with bounded():
        error = refused(lambda: arrays(source(tmp_path)))
    assert re.search(message, error.message), error.message
    assert error.message.startswith(str(tmp_path / "0.npz"))


def test_pickles_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (trap,)

    folder = tmp_path / "d"
    folder.mkdir()
    np.savez(folder / "0.npz", x=np.array([Trap()], object))
    refused(lambda: arrays(source(folder)))
    assert not trap.exists()
    write(folder / "0.npz", zipped(Member("../../x.npy", GOOD)))
    assert arrays(source(folder))[0].keys() == {"../../x"}


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling", "folder", "gone"])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_other_than_regular_files_are_refused_without_waiting(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"0{suffix}"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "gone":
            path.touch()
        case _:
            path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nowhere"}[kind])
    result = source(tmp_path, ONE)
    if kind == "gone":
        path.unlink()
    with pytest.raises(DataError, match=rf"0\{suffix}: (not a regular file|can't be read)"):
        arrays(result)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_file_that_changes_between_two_passes_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"0{suffix}"
    make = (lambda p, a: np.savez(p, x=a)) if suffix == ".npz" else np.save
    make(path, np.zeros(2))
    result = source(tmp_path, ONE)
    assert arrays(result)
    make(path, np.ones(2))
    os.utime(path, ns=(1, 1))
    assert "changed while it was in use" in refused(lambda: arrays(result)).message


@pytest.mark.parametrize("name", [b"a\nb.npz", b"\x1b[31m.npz", b"\xff\xfe.npz"], ids=repr)
def test_file_names_are_escaped_in_messages(name: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    with path.open("wb") as stream:
        np.savez(stream, x=np.ones(1))
    assert arrays(source(tmp_path))[0]["x"].tolist() == [1]
    path.write_bytes(b"broken")
    refused(lambda: arrays(source(tmp_path)))
