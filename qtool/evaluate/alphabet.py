"""Texts as labels: the symbols of a recognizer's classes, and the texts that its scores spell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import opened
from qtool.errors import DataError
from qtool.numerics.sequences import collapsed

_LARGEST = 1 << 24  # bytes


@dataclass(frozen=True)
class Alphabet:
    """The text of each class, with or without that of CTC's blank."""

    symbols: tuple[str, ...]

    def axis_of(self, shape: Sequence[Any]) -> int | None:
        """Return the axis of a shape that holds the classes, counted from the end; None if none fits."""
        axes = [i for i, n in enumerate(shape) if n in (len(self.symbols), len(self.symbols) + 1)]
        return axes[-1] - len(shape) if axes else None

    def spell(self, classes: NDArray[np.int64], blank: int | None, shift: int = 0) -> str:
        """Return the text of the classes [T] of a sequence.

        Args:
            classes: the class of each step.
            blank: repeats are collapsed and this class is dropped, as CTC does; None: each step is a symbol.
            shift: the class of the first symbol.
        """
        steps = (classes if blank is None else collapsed(classes, blank)) - shift
        return "".join(self.symbols[i] for i in steps if 0 <= i < len(self.symbols))

    def spellings(self, classes: NDArray[np.int64]) -> list[str]:
        """Return the text by each convention: the blank is the first or last symbol, or no symbol; no CTC."""
        count = len(self.symbols)
        ways = ((0, 0), (count - 1, 0), (0, 1), (count, 0), (None, 0))
        return [self.spell(classes, blank, shift) for blank, shift in ways]


@dataclass(frozen=True)
class Spelled:
    """The label of a sample: a text for each of its sequences."""

    texts: tuple[str, ...]
    alphabet: Alphabet

    def read(
        self, outputs: Sequence[Any], axes: Sequence[int | None]
    ) -> tuple[int, NDArray[np.bool_]] | None:
        """Return the index of the output that spells such texts, and which it gets right [convention, text].

        Scores of the symbols come before class numbers. None: there is no such output.
        """
        for index, steps in self._steps(outputs, axes):
            if steps.size and steps.size % len(self.texts) == 0:
                spelled = [self.alphabet.spellings(row) for row in steps.reshape(len(self.texts), -1)]
                return index, np.array(self.texts) == np.array(spelled).T
        return None

    def _steps(
        self, outputs: Sequence[Any], axes: Sequence[int | None]
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        arrays = [np.asarray(output) for output in outputs]
        for index, (array, axis) in enumerate(zip(arrays, axes, strict=True)):
            if array.dtype.kind == "f" and axis is not None and -array.ndim <= axis < array.ndim:
                scores = np.moveaxis(array, axis, -1)
                if self.alphabet.axis_of(scores.shape[-1:]) is not None:
                    yield index, scores.argmax(-1).astype(np.int64)
        for index, array in enumerate(arrays):
            if array.dtype.kind in "iu":
                yield index, array.astype(np.int64)


def read_alphabet(text: str) -> Alphabet:
    """Return the alphabet of --alphabet: a file of one symbol a line or a JSON list, else the characters.

    Raises:
        DataError: the file has another form.
    """
    path = Path(text)
    if len(text) > 255 or not path.is_file():
        return Alphabet(tuple(text))
    with opened(path, _LARGEST) as stream:
        content = stream.read().decode("utf-8-sig")
        symbols = json.loads(content) if path.suffix.lower() == ".json" else content.splitlines()
    if not isinstance(symbols, list) or not symbols or not all(isinstance(s, str) for s in symbols):
        raise DataError(f"--alphabet {path}: not a list of texts", "one symbol a line, or a JSON list")
    return Alphabet(tuple(symbols))
