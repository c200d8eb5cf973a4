"""Samples in numpy's own formats, a file a sample: .npz, whose keys are input names, and .npy for one input.

numpy and zipfile read them, and nothing is unpickled. The size of the contents is checked before they are
unpacked.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import UnchangedFiles, opened, shown
from qtool.data.samples import Arrays, LoadedSamples, SourceSpec, Traits
from qtool.errors import DataError, printable

# The arrays of a sample, unpacked: as many bytes as one ONNX tensor can have.
MAX_BYTES = 1 << 31
MAX_ARRAYS = 4096
# numpy's kinds of numbers and text. Objects, records and dates are refused.
_KINDS = "biufcSU"
# numpy writes these; zipfile can unpack them in small pieces, and no others.
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_npz(source: SourceSpec) -> LoadedSamples[Path]:
    """Return the samples of a directory of .npz, or of one such file."""
    files = UnchangedFiles()
    return LoadedSamples(source.text, Traits("npz"), source.files, lambda file: read_npz(file, files))


def open_npy(source: SourceSpec) -> LoadedSamples[Path]:
    """Return the samples of a directory of .npy, or of one such file.

    Raises:
        DataError: the model has another number of inputs than one.
    """
    name, _ = source.only_input("a .npy file holds one array, without a name")
    files = UnchangedFiles()

    def load(file: Path) -> Arrays:
        with files.opened(file, MAX_BYTES) as stream:
            return {name: read_array(stream, shown(file))}

    notes = (f"each file is an array for the input '{name}'",)
    return LoadedSamples(source.text, Traits("npy", notes), source.files, load)


def read_array(stream: IO[bytes], name: str) -> NDArray[np.generic]:
    """Read an array in numpy's format (.npy) up to the end of a stream.

    Args:
        name: of the array, for messages.

    Raises:
        DataError: it is not such an array, holds other than numbers or text, or is shorter or longer than its
            shape says.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"more data than its shape {array.shape} takes")
    except MemoryError as error:  # most often a header that claims more than there is
        raise DataError(
            f"{name} claims more memory than there is", "if that is right, raise --memory-limit"
        ) from error
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # numpy, ast and zlib raise their own
        raise DataError(f"{name} is no array: {printable(str(error), 120)}") from error
    if array.dtype.kind not in _KINDS or not array.dtype.itemsize:
        raise DataError(f"{name} holds {printable(str(array.dtype), 80)}, not numbers or text")
    return array


def read_npz(
    file: Path,
    files: UnchangedFiles | None = None,
    keys: Collection[str] | None = None,
    max_arrays: int = MAX_ARRAYS,
    max_bytes: int = MAX_BYTES,
) -> Arrays:
    """Read the arrays of a .npz file.

    Args:
        files: refuses a file that has changed since the last time.
        keys: which arrays to read; None: all.
        max_arrays, max_bytes: how many arrays the file may have, and of how many bytes together, unpacked.

    Raises:
        DataError: it can't be read, is no archive of plain arrays, or exceeds a maximum.
    """
    with files.opened(file) if files else opened(file) as stream, zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if len(members) > max_arrays:
            raise DataError(f"{shown(file)}: {len(members):,} arrays; at most {max_arrays:,} are possible")
        if (total := sum(member.file_size for member in members)) > max_bytes:
            raise DataError(
                f"{shown(file)}: unpacks to {total:,} bytes; a sample may have {max_bytes:,}",
                "save one sample a file",
            )
        arrays: Arrays = {}
        names: set[str] = set()
        for member in members:
            key = member.filename.removesuffix(".npy")
            name = f"{shown(file)}: '{printable(key, 80)}'"
            if key in names:
                raise DataError(f"{name} is there twice")
            names.add(key)
            if member.compress_type not in _COMPRESSION:
                raise DataError(f"{name} is compressed as .npz files are not", "save it with numpy.savez")
            if keys is None or key in keys:
                with archive.open(member) as data:
                    arrays[key] = read_array(data, name)
        return arrays
