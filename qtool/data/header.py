"""The gate for arrays in numpy's own format, alone (.npy) or in an archive (.npz): what one is is known from
its first bytes, and holds, before any of it is read. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.errors import printable

BYTES = 1 << 31  # of all arrays of a sample, unpacked: as much as one ONNX tensor can have
READ_BYTES = 1 << 20  # at once
HEAD_BYTES = 1 << 14  # of an array's own header; numpy stops at 10,000
KINDS = "biufcSU"  # of numpy's types: numbers and text. No objects, records, dates


@dataclass(frozen=True)
class Header:
    """What the bytes that follow are: `start` is where they do."""

    start: int
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def problem(self, size: int) -> str:
        """Why `size` bytes in all, header included, can't be such an array; '' when they can."""
        if self.dtype.kind not in KINDS or not self.dtype.itemsize:
            what = "Python objects" if self.dtype.hasobject else printable(str(self.dtype), 80)
            return f"holds {what}, not numbers or text"
        if min(self.shape, default=0) < 0 or self.start + self.nbytes != size:
            says = printable("[" + ", ".join(map(str, self.shape)) + "]", 80)
            return f"says that it is {self.dtype}{says}, and has {size - self.start:,} bytes"
        return ""

    def array(self, read: Callable[[int], bytes]) -> NDArray[np.generic]:
        """The array itself, piece by piece.

        Args:
            read: from its first byte on; at most so many bytes, none at the end.

        Raises:
            EOFError: it ends early.
        """
        data, done = bytearray(self.nbytes), 0
        while done < len(data):
            piece = read(min(READ_BYTES, len(data) - done))
            if not piece:
                raise EOFError("an array ends early")
            data[done : done + len(piece)] = piece
            done += len(piece)
        return np.ndarray(self.shape, self.dtype, data, order="F" if self.fortran else "C")


def header_of(first: bytes) -> Header:
    """What an array's first HEAD_BYTES bytes say that it is.

    Raises:
        Exception: they say nothing of the kind; MemoryError too, that of a parser, for nesting without end.
    """
    head = io.BytesIO(first)
    version = np.lib.format.read_magic(head)
    with warnings.catch_warnings(action="ignore"):  # Python's, on what it finds in the header
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        elif version in ((2, 0), (3, 0)):  # 3.0 differs in the names of records only, which are refused
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
    return Header(head.tell(), shape, fortran, dtype)
