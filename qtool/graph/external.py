"""The external data files of a model: only regular files below its own folder.

The runtime opens such a file by name with the user's rights: a model that could name any file could read
any file.
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

# A location that onnxruntime takes for an address in its own memory.
_IN_MEMORY = "_ORT_MEM_ADDR_"
_COPY = "copy the real file beside the model"
_KEYS = ("location", "offset", "length")
# A file of this size or more with less than a sixteenth of it on disk is refused: it is nearly all holes.
_HOLES_FROM, _LEAST_SHARE = 1 << 30, 1 / 16
_BLOCK = 512


def external_files(tensors: Iterable[onnx.TensorProto], model: Path | None) -> list[Path]:
    """Return the external data files of a model, sorted.

    Args:
        tensors: all tensors of the model.
        model: its file; None for a model in memory, which has no folder for other files.

    Raises:
        ModelError: a file is missing, too short, no regular file, or outside the model's folder.
    """
    sizes: dict[Path, int] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{model or 'model'}: external data of '{printable(tensor.name, 80)}'"
        if model is None:
            raise ModelError(f"{where} is not loaded", "onnx.load(path) does that; or pass the path")
        entries = _entries(tensor, where)
        file = _file(model.parent, entries.get("location", ""), where)
        if file not in sizes:
            sizes[file] = _regular_size(file, entries["location"], where)
        _check_extent(tensor, entries, sizes[file], where)
    return sorted(sizes)


def _entries(tensor: onnx.TensorProto, where: str) -> dict[str, str]:
    keys = [e.key for e in tensor.external_data]
    if any(keys.count(key) > 1 for key in _KEYS):  # some readers take the first, others the last
        raise ModelError(f"{where} gives its place twice")
    return {e.key: e.value for e in tensor.external_data}


def _file(folder: Path, location: str, where: str) -> Path:
    """Return the path of a location, which has no symbolic link in it."""
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
    """Return the size of a regular file."""
    what = f"{where}: '{printable(location, 80)}'"
    try:
        info = file.lstat()
    except OSError as error:
        raise ModelError(f"{what} is missing, or can't be reached") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{what} is not a regular file")
    if info.st_nlink > 1:  # onnx refuses what the runtime would read
        raise ModelError(f"{what} has another name elsewhere (a hard link)", _COPY)
    if not os.access(file, os.R_OK):
        raise ModelError(f"{what} can't be read: permission denied")
    if info.st_size >= _HOLES_FROM and _is_hollow(file, info):
        raise ModelError(f"{what} is nearly all holes ({info.st_size:,} bytes)")
    return info.st_size


def _is_hollow(file: Path, info: os.stat_result) -> bool:
    """Return whether a file takes little of the disk: by its blocks, and by its first hole."""
    blocks: int | None = getattr(info, "st_blocks", None)
    if blocks is None or not hasattr(os, "SEEK_HOLE") or blocks * _BLOCK >= info.st_size * _LEAST_SHARE:
        return False
    with file.open("rb") as stream:
        return os.lseek(stream.fileno(), 0, os.SEEK_HOLE) < info.st_size


def _check_extent(tensor: onnx.TensorProto, entries: dict[str, str], size: int, where: str) -> None:
    offset, length = (entries.get(key, "") or "0" for key in ("offset", "length"))
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in (offset, length)):
        raise ModelError(f"{where} has an offset or length that is not a number")
    needed = tensor_bytes(tensor) or 0
    if "length" in entries and int(length) != needed:
        raise ModelError(f"{where} has a length of {int(length):,} bytes; the tensor needs {needed:,}")
    if int(offset) + needed > size:
        raise ModelError(
            f"{where}: '{printable(entries['location'], 80)}' is too short", "a truncated download?"
        )
