"""From what the user named to a source: the one place to add a kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sized
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qtool.data.files import names_in, shown, with_suffix
from qtool.data.found import Found
from qtool.data.memory import InMemory, Spooled, drained
from qtool.data.model_inputs import ModelInputs, with_shapes
from qtool.data.reading import Reading
from qtool.data.samples import Samples
from qtool.data.shaping import as_asked, check_names
from qtool.errors import DataError, EnvironmentFailure, UsageError, did_you_mean, printable
from qtool.tables.sources import KINDS, Kind

Data = str | Path | Iterable[Mapping[str, Any]]

# Kinds that are no path.
_RANDOM = re.compile(r"random:(.*)", re.DOTALL)
_PYTHON = re.compile(r"(.+\.py):([^/\\]*)", re.DOTALL)
_SHOWN_KINDS = 6


# kind -> module and name of the function that opens it: (Found) -> Samples. Imported when it is needed.
_OPENERS: dict[str, tuple[str, str]] = {
    "npz": ("qtool.data.npz", "open_npz"),
    "npy": ("qtool.data.npy", "open_npy"),
    "onnx": ("qtool.data.backend", "open_backend"),
    "csv": ("qtool.data.tables", "open_csv"),
    "parquet": ("qtool.data.tables", "open_parquet"),
    "audio": ("qtool.data.audio", "open_audio"),
    "polygraphy": ("qtool.data.polygraphy", "open_polygraphy"),
    "python": ("qtool.data.code", "open_code"),
    "random": ("qtool.data.synthetic", "open_random"),
    "images": ("qtool.data.images", "open_images"),
    "text": ("qtool.data.texts", "open_texts"),
}


def open_source(
    data: Data,
    inputs: ModelInputs | None = None,
    reading: Reading | None = None,
    *,
    kind: str = "",
    model: Path | None = None,
) -> Samples:
    """A source of samples from what names it: a path, a word (random:N), or an iterable of dicts.

    Args:
        data: see tables/sources.py; in Python also any iterable of dicts (input name -> array), or an
            onnxruntime CalibrationDataReader.
        inputs: what the model wants.
        reading: what the user said of the samples.
        kind: forces a row of tables/sources.py.
        model: the folder of the model, for what may lie beside it.

    Raises:
        DataError: missing, empty, or of no known kind.
        UsageError: options that contradict the model or each other.
        EnvironmentFailure: a library is missing that this kind needs.
    """
    reading = reading or Reading()
    inputs = with_shapes(inputs or {}, reading.shape)
    check_names(inputs, reading)
    source = (
        _open(str(data), inputs, reading, kind, model) if isinstance(data, str | Path) else _of_objects(data)
    )
    return as_asked(source, inputs, reading)


def _open(text: str, inputs: ModelInputs, reading: Reading, forced: str, model: Path | None) -> Samples:
    if forced and forced not in KINDS:
        raise UsageError(f"no such kind of samples: '{printable(forced)}'", did_you_mean(forced, KINDS))
    kind, folder, names = _located(text, forced)
    _present(kind)
    module, function = _OPENERS[kind.name]
    opener: Callable[[Found], Samples] = getattr(import_module(module), function)
    return opener(Found(text, folder, names, inputs, reading, model))


def _located(text: str, forced: str) -> tuple[Kind, Path, list[str]]:
    """The kind of a source, its folder and its files."""
    for name, pattern in (("random", _RANDOM), ("python", _PYTHON)):
        if pattern.fullmatch(text) and forced in ("", name):
            return KINDS[name], Path(), []
    path = Path(text)
    if _is_file(path):
        return _kind_of_file(path, forced), path.parent, [path.name]
    return _kind_of_folder(path, forced)


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # names_in says what is wrong with it
        return False


def _kind_of_file(path: Path, forced: str) -> Kind:
    if forced:
        return KINDS[forced]
    for kind in KINDS.values():
        if with_suffix([path.name], kind.suffixes):
            return kind
    if path.suffix == ".py":
        raise UsageError(f"'{shown(path)}': which function of it?", f"{path}:FUNCTION")
    known = ", ".join(s for kind in KINDS.values() for s in kind.suffixes)
    raise DataError(
        f"'{shown(path)}' is no file of samples that qtool knows by its name",
        f"known: {known}; or a directory of such files; or force one with --calib-format, --data-format",
    )


def _kind_of_folder(folder: Path, forced: str) -> tuple[Kind, Path, list[str]]:
    listed: dict[bool, list[str]] = {}
    kinds = [KINDS[forced]] if forced else [k for k in KINDS.values() if k.folders]
    for nested in (False, True):  # what lies in the folder itself comes first
        for kind in kinds:
            if nested and not kind.nested:
                continue
            listed[nested] = listed[nested] if nested in listed else names_in(folder, nested)
            if names := with_suffix(listed[nested], kind.suffixes):
                return kind, folder, names
    held = listed.get(True) or listed[False]
    found = sorted({Path(name).suffix or name for name in held})[:_SHOWN_KINDS]
    has = f"it has: {printable(', '.join(found))}" if held else "it is empty"
    what = f"no {' or '.join(kinds[0].suffixes)} file" if forced else "no samples"
    raise DataError(
        f"'{shown(folder)}' holds {what} ({has})",
        "save one sample a file: np.savez(path, **{input_name: array})",
    )


def _present(kind: Kind) -> None:
    missing = [name for name in kind.imports if find_spec(name) is None]
    if missing:
        raise EnvironmentFailure(
            f"samples of the kind {kind.name} need what is not installed: {', '.join(missing)}",
            f"pip install {' '.join(repr(library) for library in kind.requires)}",
        )


def _of_objects(data: Any) -> Samples:
    if callable(getattr(data, "get_next", None)):
        return Spooled(drained(data))
    if not isinstance(data, Iterable):
        raise DataError(f"samples of no known kind: {type(data).__name__}", "a path, or an iterable of dicts")
    samples: Iterable[Mapping[str, Any]] = data
    if not isinstance(data, Sized):
        return Spooled(samples)
    if not len(data):
        raise DataError("the list of samples is empty")
    return InMemory(samples, len(data))
