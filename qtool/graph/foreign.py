"""Paths that are no ONNX model: files of other tools, folders, ids of a hub."""

from __future__ import annotations

import contextlib
import re
import zipfile
from pathlib import Path

from qtool.errors import ModelError, printable
from qtool.tables.foreign import FILES, FOLDERS, HUB, Foreign

_HEAD_BYTES = 4 << 20
_MOST_NAMES = 10_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def refuse_foreign_file(path: Path) -> None:
    """Refuse a file that another tool made, by its first bytes.

    Raises:
        ModelError: it is one of tables/foreign.py; the hint is the way to ONNX.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    names = _names(path) if head.startswith(b"PK") else []
    for row in FILES:
        if row.head:
            fits = bool(re.match(row.head, head, re.DOTALL)) and row.contains in head
        else:
            fits = any(re.match(row.member, name) for name in names)
        if fits:
            raise _refusal(path, row)


def refuse_folder(path: Path) -> None:
    """Refuse a folder as a model, with what it holds.

    Raises:
        ModelError: always.
    """
    models = []
    with contextlib.suppress(OSError):
        models = sorted(path.glob("*.onnx")) or sorted(path.glob("*/*.onnx"))
    if not models:
        refuse_foreign_folder(path)
    hint = f"name the file: {models[0]}" if models else "name a .onnx file"
    raise ModelError(f"model '{path}' is a folder and not a regular file", hint)


def refuse_foreign_folder(path: Path) -> None:
    """Refuse a folder without ONNX models that another tool made.

    Raises:
        ModelError: it is one of tables/foreign.py.
    """
    for name, row in FOLDERS.items():
        if (path / name).exists():
            raise _refusal(path, row)


def hub_hint(path: Path) -> str:
    """Return the hint for a path that does not exist and looks like an id of a hub; '' for others."""
    looks = _HUB_ID.fullmatch(str(path)) and not path.parent.exists() and path.suffix.lower() != ".onnx"
    return f"{HUB.name}? {HUB.hint.format(path=path)}" if looks else ""


def _refusal(path: Path, row: Foreign) -> ModelError:
    return ModelError(f"{path}: {row.name}, and no ONNX model", row.hint.format(path=printable(str(path))))


def _names(path: Path) -> list[str]:
    # A damaged archive is no row of the table: it ends as a file that does not parse.
    broken = OSError, zipfile.BadZipFile, ValueError, NotImplementedError
    with contextlib.suppress(*broken), zipfile.ZipFile(path) as archive:
        return archive.namelist()[:_MOST_NAMES] or [""]
    return [""]
