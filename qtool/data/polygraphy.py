"""The inputs that `polygraphy run --save-inputs` saves: JSON, each array the base64 of an .npy file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import WHOLE_BYTES, Unchanged, mark_of, opened, shown
from qtool.data.found import Found
from qtool.data.header import header_of
from qtool.data.samples import Arrays, Sample, Traits, by_file
from qtool.errors import DataError, printable

# What a dict of theirs is, beside plain ones; older versions wrote {"__polygraphy_encoded_X": _LEGACY}.
_MARK = "polygraphy_class"
_LEGACY_MARK, _LEGACY = "__polygraphy_encoded_", "polygraphy_serialized_json_type"
_ARRAY = "ndarray"
_LAZY = ("LazyArray", "LazyNumpyArray")


def open_polygraphy(found: Found) -> FeedDicts:
    """The samples of such files: one file of all, or a folder of one file each."""
    return FeedDicts(found)


class FeedDicts:
    """Samples of JSON files, each a list of them or a single one.

    A file is read as a whole, and forgotten when its samples are through.

    Raises:
        DataError: no such file, other JSON, an array that is none. Nothing is unpickled.
    """

    def __init__(self, found: Found) -> None:
        self.name = found.text
        self.traits = Traits("polygraphy", ("inputs by their names, as Polygraphy saved them",))
        self._files = found.files
        self._names = found.names
        self._unchanged = Unchanged()
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + len(self._feeds(file)))
        if not len(self):
            raise DataError(f"{printable(found.text)}: it holds no samples")

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, wanted in by_file(self._starts, positions):
            file, name = self._files[index], self._names[index]
            feeds = self._feeds(file)
            for number in wanted:
                called = name if len(feeds) == 1 else f"{name}[{number}]"
                yield Sample(called, _arrays(feeds[number], f"{shown(file)}[{number}]"))

    def _feeds(self, file: Path) -> list[dict[str, Any]]:
        """The samples of a file, their arrays still as text."""
        with opened(file, WHOLE_BYTES) as stream:
            self._unchanged.check(file, mark_of(stream))
            try:
                content = json.load(stream)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{shown(file)}: no JSON: {printable(str(error), 120)}") from error
        feeds = content if isinstance(content, list) else [content]
        for feed in feeds:
            if not isinstance(feed, dict) or _class_of(feed):
                what = f"a {_class_of(feed) or 'dict'}" if isinstance(feed, dict) else type(feed).__name__
                raise DataError(
                    f"{shown(file)}: no inputs that Polygraphy saved: {printable(what, 60)} where a dict of "
                    "arrays should be",
                    "polygraphy run MODEL --save-inputs FILE writes them; --save-outputs does not",
                )
        return feeds


def _class_of(value: Mapping[str, Any]) -> str:
    """What a dict stands for; '' when it is just that."""
    if isinstance(value.get(_MARK), str):
        return str(value[_MARK])
    legacy = [k for k, v in value.items() if k.startswith(_LEGACY_MARK) and v == _LEGACY]
    return legacy[0].removeprefix(_LEGACY_MARK) if legacy else ""


def _arrays(feed: Mapping[str, Any], where: str) -> Arrays:
    return {name: _array(value, f"{where}: '{printable(name, 80)}'") for name, value in feed.items()}


def _array(value: Any, where: str) -> NDArray[np.generic]:
    """The array that a value stands for.

    Raises:
        DataError: it stands for something else.
    """
    kind = _class_of(value) if isinstance(value, dict) else ""
    if kind in _LAZY:
        value = value.get("values")
        kind = _class_of(value) if isinstance(value, dict) else ""
    if kind == "Tensor":
        raise DataError(
            f"{where} is a tensor of PyTorch, which is a pickle", "save its inputs as NumPy arrays: x.numpy()"
        )
    text = value.get("array") if kind == _ARRAY else None
    if not isinstance(text, str):
        raise DataError(f"{where} is no array that Polygraphy saved")
    try:
        data = base64.b64decode(text, validate=True)
        header = header_of(data)
    except Exception as error:  # numpy, ast and base64 raise their own
        raise DataError(f"{where} is no array: {printable(str(error), 120)}") from error
    if problem := header.problem(len(data)):
        raise DataError(f"{where} {problem}")
    return header.array(io.BytesIO(data[header.start :]).read)
