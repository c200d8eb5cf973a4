"""A directory of .npy files: one sample a file, for models of one input."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import Unchanged, mark_of, opened, shown
from qtool.data.found import Found
from qtool.data.header import BYTES, HEAD_BYTES, Header, header_of
from qtool.data.samples import Sample, Traits
from qtool.errors import DataError, printable


def open_npy(found: Found) -> NpyFiles:
    """The samples of a directory of .npy, or of one such file.

    Raises:
        DataError: the model has more inputs than one.
    """
    name, _ = found.only("an .npy file holds one array, without a name")
    return NpyFiles(found, name)


@dataclass(frozen=True)
class NpyArray:
    """An array that lies in a file of its own; `np.asarray` reads it."""

    file: Path
    header: Header
    unchanged: Unchanged

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    @property
    def ndim(self) -> int:
        return len(self.header.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.header.dtype

    def __array__(
        self, dtype: np.dtype[np.generic] | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        with opened(self.file) as stream:
            self.unchanged.check(self.file, mark_of(stream))
            stream.seek(self.header.start)
            return np.asarray(self.header.array(stream.read), dtype)


class NpyFiles:
    """Samples of .npy files.

    Args:
        found: the files.
        input_name: what their arrays are for.

    Raises:
        DataError: when read: a file that is no plain array, or another one than the last time.
    """

    def __init__(self, found: Found, input_name: str) -> None:
        self.files = found.files
        self.name = found.text
        self.traits = Traits("npy", (f"each file is an array for the input '{input_name}'",))
        self._input = input_name
        self._unchanged = Unchanged()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, file in enumerate(self.files):
            if positions is None or index in positions:
                yield Sample(file.name, {self._input: self._look(file)})

    def _look(self, file: Path) -> NpyArray:
        """What a file says that it is, if it can be that."""
        with opened(file) as stream:
            first = stream.read(HEAD_BYTES)
            if first.startswith(b"PK"):
                raise DataError(
                    f"{shown(file)}: an archive of named arrays, not a single one", "call it .npz"
                )
            try:
                header = header_of(first)
            except Exception as error:  # MemoryError too: that of a parser, for nesting without end
                raise DataError(f"{shown(file)}: no array: {printable(str(error), 120)}") from error
            mark = mark_of(stream)
            if problem := header.problem(mark[1]):
                raise DataError(f"{shown(file)}: {problem}")
            if header.nbytes > BYTES:
                raise DataError(
                    f"{shown(file)}: {header.nbytes:,} bytes; a sample may have {BYTES:,}",
                    "save one sample a file",
                )
            self._unchanged.check(file, mark)
        return NpyArray(file, header, self._unchanged)
