"""Samples that `polygraphy run --save-inputs` saves: JSON, in which an array is the base64 of a .npy file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Set
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import WHOLE_BYTES, UnchangedFiles, shown
from qtool.data.npz import read_array
from qtool.data.samples import Arrays, Sample, SourceSpec, Traits, by_file
from qtool.errors import DataError, printable

# The key that holds the class of an encoded dict; older versions wrote {"__polygraphy_encoded_X": _LEGACY}.
_MARK = "polygraphy_class"
_LEGACY_MARK, _LEGACY = "__polygraphy_encoded_", "polygraphy_serialized_json_type"
_ARRAY = "ndarray"
_LAZY = ("LazyArray", "LazyNumpyArray")


def open_polygraphy(source: SourceSpec) -> FeedDicts:
    """Return the samples of one file, or of a folder of such files."""
    return FeedDicts(source)


class FeedDicts:
    """Samples of JSON files, with a list of dicts or one dict in each. A file is read as a whole.

    Raises:
        DataError: a file is missing, is other JSON, or holds what is no array. Nothing is unpickled.
    """

    def __init__(self, source: SourceSpec) -> None:
        self.name = source.text
        self.traits = Traits("polygraphy", ("inputs by their names, as Polygraphy saved them",))
        self._files = list(source.files.items())
        self._unchanged = UnchangedFiles()
        self._starts = [0, *accumulate(len(self._feeds(file)) for _, file in self._files)]
        if not len(self):
            raise DataError(f"{printable(source.text)}: it holds no samples")

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, wanted in by_file(self._starts, positions):
            name, file = self._files[index]
            feeds = self._feeds(file)
            for number in wanted:
                sample = name if len(feeds) == 1 else f"{name}[{number}]"
                yield Sample(sample, _arrays(feeds[number], f"{shown(file)}[{number}]"))

    def _feeds(self, file: Path) -> list[dict[str, Any]]:
        """Return the samples of a file, their arrays still as text."""
        with self._unchanged.opened(file, WHOLE_BYTES) as stream:
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
    """Return the class that a dict encodes; '' for a plain dict."""
    if isinstance(value.get(_MARK), str):
        return str(value[_MARK])
    legacy = [k for k, v in value.items() if k.startswith(_LEGACY_MARK) and v == _LEGACY]
    return legacy[0].removeprefix(_LEGACY_MARK) if legacy else ""


def _arrays(feed: Mapping[str, Any], where: str) -> Arrays:
    return {name: _array(value, f"{where}: '{printable(name, 80)}'") for name, value in feed.items()}


def _array(value: Any, where: str) -> NDArray[np.generic]:
    """Return the array that a value encodes.

    Raises:
        DataError: it encodes something else.
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
    except ValueError as error:
        raise DataError(f"{where} is no array: {printable(str(error), 120)}") from error
    return read_array(io.BytesIO(data), where)
