"""From what the user named to a source of samples. A new kind is a row here and in tables/sources.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from qtool.data.decoder_inputs import unneeded_inputs
from qtool.data.files import names_in, shown, with_suffix
from qtool.data.iterables import open_iterable
from qtool.data.model_inputs import ModelInputs, with_shapes
from qtool.data.reading import Reading
from qtool.data.samples import Samples, SourceSpec
from qtool.data.transforms import check_names, transformed
from qtool.errors import DataError, EnvironmentFailure, UsageError, did_you_mean, printable
from qtool.tables.sources import KINDS, Kind

Data = str | Path | NDArray[Any] | Mapping[str, Any] | Iterable[Any] | Callable[..., Any]
"""What names samples: a path, a word (random:N), or an object that data/iterables.py takes."""

# Kinds that are no path.
_RANDOM = re.compile(r"random:(.*)", re.DOTALL)
_PYTHON = re.compile(r"(.+\.py):([^/\\]*)", re.DOTALL)
_SHOWN_KINDS = 6

# kind -> module and name of the function that opens it: SourceSpec -> Samples. Imported when it is needed.
_OPENERS: dict[str, tuple[str, str]] = {
    "npz": ("qtool.data.npz", "open_npz"),
    "npy": ("qtool.data.npz", "open_npy"),
    "onnx": ("qtool.data.backend", "open_backend"),
    "csv": ("qtool.data.tables", "open_csv"),
    "parquet": ("qtool.data.tables", "open_parquet"),
    "audio": ("qtool.data.audio", "open_audio"),
    "polygraphy": ("qtool.data.polygraphy", "open_polygraphy"),
    "python": ("qtool.data.python_function", "open_function"),
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
    """Return the samples that a path, a word (random:N) or a Python object names.

    Args:
        data: see tables/sources.py, and data/iterables.py for Python objects.
        inputs: of the model.
        reading: how the user wants the samples read.
        kind: forces a row of tables/sources.py.
        model: the folder of the model, for files that lie beside it.

    Raises:
        DataError: the samples are missing, empty, or of no known kind.
        UsageError: options contradict the model or each other.
        EnvironmentFailure: this kind needs a library that is missing.
    """
    reading = reading or Reading()
    inputs = with_shapes(inputs or {}, reading.shape)
    check_names(inputs, reading)
    unneeded = unneeded_inputs(inputs)
    if not isinstance(data, str | Path):
        source = SourceSpec("samples", Path(), [], inputs, reading, model, unneeded)
        return transformed(open_iterable(data, source), inputs, reading)
    if kind and kind not in KINDS:
        raise UsageError(f"no such kind of samples: '{printable(kind)}'", did_you_mean(kind, KINDS))
    row, folder, names = _located(str(data), kind)
    _check_libraries(row)
    module, function = _OPENERS[row.name]
    opener: Callable[[SourceSpec], Samples] = getattr(import_module(module), function)
    source = SourceSpec(str(data), folder, names, inputs, reading, model, unneeded)
    return transformed(opener(source), inputs, reading)


def _located(text: str, forced: str) -> tuple[Kind, Path, list[str]]:
    """Return the kind of a source, its folder and its files."""
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
    except (OSError, ValueError):  # names_in reports the problem
        return False


def _kind_of_file(path: Path, forced: str) -> Kind:
    if forced:
        return KINDS[forced]
    for kind in KINDS.values():
        if with_suffix([path.name], kind.suffixes):
            return kind
    if path.suffix == ".py":
        raise UsageError(f"'{shown(path)}': which function of it?", f"{path}:FUNCTION")
    suffixes = ", ".join(s for kind in KINDS.values() for s in kind.suffixes)
    raise DataError(
        f"'{shown(path)}' is no file of samples that qtool knows by its name",
        f"known: {suffixes}; or a directory of such files; or force one with --calib-format, --data-format",
    )


def _kind_of_folder(folder: Path, forced: str) -> tuple[Kind, Path, list[str]]:
    """Return the first kind that has files in the folder itself, or else below it."""
    listed: dict[bool, list[str]] = {}
    kinds = [KINDS[forced]] if forced else [k for k in KINDS.values() if k.folders]
    for nested in (False, True):
        for kind in kinds:
            if nested and not kind.nested:
                continue
            listed[nested] = listed[nested] if nested in listed else names_in(folder, nested)
            if names := with_suffix(listed[nested], kind.suffixes):
                return kind, folder, names
    files = listed[True] if True in listed else names_in(folder, nested=True)
    for kind in kinds:
        if below := sorted({str(Path(name).parent) for name in with_suffix(files, kind.suffixes)}):
            others = f" (and {len(below) - 1} more such folders)" if len(below) > 1 else ""
            what = f"its {kind.suffixes[0]} files lie in a folder below it"
            raise DataError(
                f"'{shown(folder)}' holds no samples itself: {what}",
                f"name that folder: {shown(folder / below[0])}{others}",
            )
    suffixes = sorted({Path(name).suffix or name for name in files})[:_SHOWN_KINDS]
    has = f"it has: {printable(', '.join(suffixes))}" if files else "it is empty"
    what = f"no {' or '.join(kinds[0].suffixes)} file" if forced else "no samples"
    raise DataError(
        f"'{shown(folder)}' holds {what} ({has})",
        "save one sample a file: np.savez(path, **{input_name: array})",
    )


def _check_libraries(kind: Kind) -> None:
    missing = [name for name in kind.imports if find_spec(name) is None]
    if missing:
        raise EnvironmentFailure(
            f"samples of the kind {kind.name} need what is not installed: {', '.join(missing)}",
            f"pip install {' '.join(repr(library) for library in kind.requires)}",
        )
