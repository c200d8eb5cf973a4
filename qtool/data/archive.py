"""The gate for .npz files: what a file holds is known, and is little enough, before any of it is unpacked.

The zip directory says how large each member is, a member's first bytes say what array it holds; the two must
agree, and nothing is read beyond them. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import Mark, mark_of
from qtool.data.header import BYTES, HEAD_BYTES, READ_BYTES, Header, header_of
from qtool.errors import DataError, printable
from qtool.runtime.heartbeat import step

# What a file may have. No sample comes near; what goes beyond is a bomb, or no sample. The zip directory is
# read at once.
ARRAYS = 4096
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of numpy's; others can't be unpacked bit by bit


@dataclass(frozen=True)
class Stored:
    """An array that lies in a file; `np.asarray` reads it."""

    archive: Archive
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        return np.asarray(self.archive.data[self.key], dtype)


@dataclass(frozen=True)
class _Member:
    """Where an array lies in its archive, and what it is."""

    info: zipfile.ZipInfo
    header: Header


class Archive:
    """An .npz file: its arrays are known at once, and read, all of them, when the first one is asked for.

    Args:
        arrays, total: how many it may have, and of how many bytes together.

    Raises:
        DataError: it can't be read, is no archive of plain arrays, has too much in it, or changes meanwhile.
    """

    def __init__(self, file: Path, arrays: int = ARRAYS, total: int = BYTES) -> None:
        self.file = file
        self._most = arrays, total
        with self._open() as (self.mark, archive):
            self._members = self._look(archive)

    @property
    def arrays(self) -> Mapping[str, Stored]:
        """What it holds. Made anew each time: a circle of references would keep sample after sample alive."""
        return {key: Stored(self, key, m.header.shape, m.header.dtype) for key, m in self._members.items()}

    @cached_property
    def data(self) -> dict[str, NDArray[np.generic]]:
        with self._open() as (mark, archive):
            if mark != self.mark:
                raise self.changed()
            return {key: _read(archive, member) for key, member in self._members.items()}

    def read(self, key: str) -> NDArray[np.generic]:
        """One array alone, which is not kept."""
        with self._open() as (mark, archive):
            if mark != self.mark:
                raise self.changed()
            return _read(archive, self._members[key])

    def changed(self) -> DataError:
        return self._error("changed while it was in use")

    def _error(self, what: str, hint: str = "") -> DataError:
        return DataError(f"{printable(str(self.file))}: {what}", hint)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Mark, zipfile.ZipFile]]:
        """The archive, open; whatever goes wrong with it is the file's fault."""
        try:
            # Looked at first: a device may do something when it is opened, and a pipe would wait.
            if not stat.S_ISREG(self.file.stat().st_mode):
                raise self._error("not a regular file")
            with step(str(self.file), "it is read", DataError), _Frugal(self.file) as stream:
                if stream.read(6) == np.lib.format.MAGIC_PREFIX:
                    raise self._error("a single array, not an .npz archive of named arrays")
                with zipfile.ZipFile(stream) as archive:
                    yield mark_of(stream), archive
        except (DataError, MemoryError):
            raise
        except OSError as error:
            raise self._error(f"can't be read: {error.strerror or error}") from error
        except Exception as error:  # zipfile, zlib, numpy and ast each raise their own
            raise self._error(f"not a readable .npz file: {printable(str(error), 120)}") from error

    def _look(self, archive: zipfile.ZipFile) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        infos = archive.infolist()
        most, most_bytes = self._most
        if len(infos) > most:
            raise self._error(f"{len(infos):,} arrays; no model has so many inputs")
        if (total := sum(info.file_size for info in infos)) > most_bytes:
            raise self._error(
                f"unpacks to {total:,} bytes; a sample may have {most_bytes:,}", "save one sample a file"
            )
        for info in infos:
            key = info.filename.removesuffix(".npy")
            name = f"'{printable(key, 80)}'"
            if key in members:
                raise self._error(f"two arrays {name}")
            if info.flag_bits & 1:
                raise self._error(f"{name} is encrypted")
            if info.compress_type not in METHODS:
                raise self._error(f"{name} is compressed as .npz files are not", "save it with numpy.savez")
            try:
                member = _member(archive, info)
            except zipfile.BadZipFile:
                raise
            except Exception as error:  # MemoryError too: that of a parser, for nesting without end
                raise self._error(f"{name} is no array: {printable(str(error), 120)}") from error
            if problem := member.header.problem(info.file_size):
                raise self._error(f"{name} {problem}")
            members[key] = member
        return members


class _Frugal(io.FileIO):
    """A file of which little is read at once, whatever it says of itself; opening it never waits."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))

    def read(self, size: int | None = -1) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        size = rest if size is None or size < 0 else min(size, rest)
        if size > READ_BYTES:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes")
        return super().read(size) or b""


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    """What array a member says that it is."""
    with archive.open(info) as stream:
        return _Member(info, header_of(stream.read(HEAD_BYTES)))


def _read(archive: zipfile.ZipFile, member: _Member) -> NDArray[np.generic]:
    """The array itself; zipfile checks the sum at its end."""
    with archive.open(member.info) as stream:
        stream.read(member.header.start)
        return member.header.array(stream.read)
