"""The files of a folder of models: which are quantized, which are carried over, and which are left out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qtool.data.files import names_in, with_suffix
from qtool.errors import DataError, ModelError, printable
from qtool.graph.foreign import refuse_foreign_folder
from qtool.graph.share import side_files
from qtool.runtime.heartbeat import beat, step
from qtool.tables.folders import FILE_KEYS, LEFT_OUT, SIDE_FILE, TWIN, role_of

SUFFIX = ".onnx"
# Where the hub's cache keeps the files that snapshots/REVISION/ links to.
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


@dataclass(frozen=True)
class FolderModel:
    """A model in a folder.

    Args:
        name: its path in the folder, with '/'.
    """

    name: str

    @property
    def role(self) -> str:
        """A name in tables/folders.py."""
        path = PurePosixPath(self.name)
        return role_of(path.stem, path.parent.name)

    @property
    def stem(self) -> str:
        """Its path without the suffix."""
        return self.name.removesuffix(PurePosixPath(self.name).suffix)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that a folder with its samples may have."""
        return tuple(dict.fromkeys((self.stem, PurePosixPath(self.stem).name, self.role)))


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder of models.

    Args:
        root: the folder.
        models: that are quantized.
        twins: a model that was made of another one -> that one.
        sidecars: files that are carried over.
        left_out: other files -> why they are not.
    """

    root: Path
    models: tuple[FolderModel, ...]
    twins: Mapping[str, str]
    sidecars: tuple[str, ...]
    left_out: Mapping[str, str]

    def copy(self, target: Path) -> None:
        """Copy the sidecars; configurations that name a twin then name its model.

        Raises:
            ModelError: a file is no regular file of the folder.
        """
        for name in self.sidecars:
            source, copy = _regular(self.root, name), target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            key = FILE_KEYS.get(copy.name)  # that of the source is a digest in the hub's cache
            text = None if key is None else _renamed(source, key, self.twins)
            if text is None:
                shutil.copyfile(source, copy)
            else:
                copy.write_text(text, encoding="utf-8")
            beat()


def files_of(root: Path) -> FolderFiles:
    """Sort the files of a folder.

    Raises:
        ModelError: it can't be read, or holds no ONNX model.
    """
    try:
        names = names_in(root, nested=True)
    except DataError as error:
        raise ModelError(error.message, error.hint) from error
    models = with_suffix(names, [SUFFIX])
    if not models:
        refuse_foreign_folder(root)
        hint = "optimum-cli export onnx --model ORG/NAME FOLDER makes such a folder"
        raise ModelError(f"folder '{root}' holds no {SUFFIX} file", hint)
    twins = {name: base for name in models if (base := _base(name, models))}
    weights = {file for name in models for file in _side_names(root, name)}
    left_out = {name: f"made of {base}, which is quantized here" for name, base in twins.items()}
    sidecars = []
    for name in names:
        if name in models or name in weights:
            continue
        if why := _why_left_out(name, models):
            left_out[name] = why
        else:
            sidecars.append(name)
    own = [FolderModel(name) for name in models if name not in twins]
    return FolderFiles(root, tuple(own), twins, tuple(sidecars), left_out)


def unneeded(names: Sequence[str]) -> set[str]:
    """Return the files of a folder that are left out by their names alone: their content is never read.

    Args:
        names: relative, with '/'.
    """
    models = with_suffix(names, [SUFFIX])
    twins = {name for name in models if _base(name, models)}

    def is_unneeded(name: str) -> bool:
        side = SIDE_FILE.fullmatch(name)
        return side[1] in twins if side else name in twins or bool(_why_left_out(name, models))

    return {name for name in names if models and is_unneeded(name)}


def _why_left_out(name: str, models: Sequence[str]) -> str:
    """Return why a file is not carried over; '' where it is."""
    path = PurePosixPath(name)
    rows = (row for row in LEFT_OUT if re.fullmatch(row.pattern, path.name))
    beside = any(PurePosixPath(model).is_relative_to(path.parent) for model in models)
    return next((row.why for row in rows if beside or not row.of_a_model), "")


def _side_names(root: Path, name: str) -> set[str]:
    """Return the files with a model's weights; none where it can't be read, which quantizing it reports."""
    with contextlib.suppress(ModelError), step(str(root / name), "it is read", ModelError):
        return {os.path.relpath(file, root) for file in side_files(root / name)}
    return set()


def _base(name: str, models: Sequence[str]) -> str:
    """Return the model that a model was made of: its name without one or more ends; '' for none."""
    stem = name[: -len(SUFFIX)]
    while match := TWIN.search(stem):
        stem = stem[: match.start()]
        if (base := stem + SUFFIX) in models:
            return base
    return ""


def _regular(root: Path, name: str) -> Path:
    """Return a file of the folder; of a link, the file in the folder, or in the hub's cache around it."""
    file = root / name
    try:
        real, top = file.resolve(strict=True), root.resolve()
    except OSError as error:
        raise ModelError(f"'{printable(str(file))}' can't be read: {error.strerror}") from error
    places = [top]
    if top.parent.name == _SNAPSHOTS:
        places.append(top.parent.parent / _BLOBS)
    if not real.is_file() or not any(real.is_relative_to(place) for place in places):
        what = "a link out of the folder" if file.is_symlink() else "no regular file"
        raise ModelError(f"'{printable(str(file))}' is {what}", "copy the real file there, or remove it")
    return real


def _renamed(file: Path, key: str, twins: Mapping[str, str]) -> str | None:
    """Return a configuration with models in place of their twins; None where it names none of them."""
    names = {PurePosixPath(twin).name: PurePosixPath(base).name for twin, base in twins.items()}
    changed = False

    def rename(table: dict[str, Any]) -> dict[str, Any]:
        nonlocal changed
        if isinstance(name := table.get(key), str) and name in names:
            table[key], changed = names[name], True
        return table

    try:
        document = json.loads(file.read_text(encoding="utf-8"), object_hook=rename)
    except (OSError, ValueError, RecursionError):  # its library will say so
        return None
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n" if changed else None
