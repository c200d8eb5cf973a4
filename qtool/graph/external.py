"""Files that a model keeps its tensors in: real ones below its own folder, and nothing else.

Such a file is opened by the runtime, by name, with the user's rights: a model that could name any file
could read any file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from qtool.errors import ModelError, printable
from qtool.graph.tensors import tensor_bytes

# A location by which onnxruntime means an address in its own memory.
_IN_MEMORY = "_ORT_MEM_ADDR_"
_COPY = "copy the real file beside the model"
_KEYS = ("location", "offset", "length")
# A file of this size that has a block on disk for less than a sixteenth is nothing but a way to be large.
_HOLES_FROM, _LEAST_SHARE = 1 << 30, 1 / 16
_BLOCK = 512


def external_files(tensors: Iterable[onnx.TensorProto], model: Path | None) -> list[Path]:
    """The external data files of a model, sorted.

    Args:
        tensors: all of the model's.
        model: its file; None for a model in memory, which has no folder that could hold others.

    Raises:
        ModelError: one that is missing, too short, or anywhere but a regular file below the model's folder.
    """
    found: dict[Path, int] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{model or 'model'}: external data of '{printable(tensor.name, 80)}'"
        if model is None:
            raise ModelError(f"{where} is not loaded", "onnx.load(path) does that; or hand over the path")
        entries = _entries(tensor, where)
        file = _file(model.parent, entries.get("location", ""), where)
        if file not in found:
            found[file] = _regular_size(file, entries["location"], where)
        _check_extent(tensor, entries, found[file], where)
    return sorted(found)


def _entries(tensor: onnx.TensorProto, where: str) -> dict[str, str]:
    keys = [e.key for e in tensor.external_data]
    if any(keys.count(key) > 1 for key in _KEYS):  # who reads it takes the first, or the last
        raise ModelError(f"{where} says its place twice")
    return {e.key: e.value for e in tensor.external_data}


def _file(folder: Path, location: str, where: str) -> Path:
    """The path of a location, none of whose parts leads elsewhere."""
    if not isinstance(location, str) or not location.isprintable():
        raise ModelError(f"{where} has an unreadable name: {printable(repr(location), 80)}")
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    away = ".." in parts or PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if away or not parts or _IN_MEMORY in location:
        raise ModelError(f"{where} lies outside the model's folder: '{printable(location, 80)}'", _COPY)
    file = folder / location
    try:
        for step in (file, *file.parents[: len(PurePosixPath(location).parts) - 1]):
            if step.is_symlink():
                raise ModelError(f"{where}: '{printable(location, 80)}' is, or is in, a symbolic link", _COPY)
    except OSError as error:  # a name that is too long; a folder that may not be looked into
        raise ModelError(f"{where}: '{printable(location, 80)}': {error.strerror or error}") from error
    return file


def _regular_size(file: Path, location: str, where: str) -> int:
    """The size of a file that is one."""
    what = f"{where}: '{printable(location, 80)}'"
    try:
        info = file.lstat()
    except OSError as error:
        raise ModelError(f"{what} is missing, or can't be reached") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{what} is no regular file")
    if info.st_nlink > 1:  # onnx refuses what the runtime would read
        raise ModelError(f"{what} has another name elsewhere (a hard link)", _COPY)
    if not os.access(file, os.R_OK):
        raise ModelError(f"{what} can't be read: permission denied")
    if info.st_size >= _HOLES_FROM and _is_hollow(file, info):
        raise ModelError(f"{what} is nearly nothing but holes ({info.st_size:,} bytes)")
    return info.st_size


def _is_hollow(file: Path, info: os.stat_result) -> bool:
    """Whether a file takes next to nothing of the disk, by what the file system says in two ways."""
    blocks: int | None = getattr(info, "st_blocks", None)
    if blocks is None or not hasattr(os, "SEEK_HOLE") or blocks * _BLOCK >= info.st_size * _LEAST_SHARE:
        return False
    with file.open("rb") as stream:
        return os.lseek(stream.fileno(), 0, os.SEEK_HOLE) < info.st_size


def _check_extent(tensor: onnx.TensorProto, entries: dict[str, str], size: int, where: str) -> None:
    offset, length = (entries.get(key, "") or "0" for key in ("offset", "length"))
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in (offset, length)):
        raise ModelError(f"{where} has an offset or length that is no number")
    wanted = tensor_bytes(tensor) or 0
    if "length" in entries and int(length) != wanted:
        raise ModelError(f"{where} has a length of {int(length):,} bytes; the tensor takes {wanted:,}")
    if int(offset) + wanted > size:
        raise ModelError(
            f"{where}: '{printable(entries['location'], 80)}' is too short", "a truncated download?"
        )
