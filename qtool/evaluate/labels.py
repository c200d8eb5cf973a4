"""Class labels by file name, the classes that outputs predict, and the accuracy of two models."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import opened
from qtool.errors import DataError, printable
from qtool.evaluate.alphabet import Alphabet, Spelled
from qtool.numerics.metrics import wilson

Label = NDArray[np.int64] | Spelled
Labels = dict[str, Label]

LARGEST = 1 << 28  # bytes
# A model that gains less than this share of what guessing leaves is judged by the wrong labels, most likely.
_LEAST_SKILL = 0.1
_LEAST_LABELS = 4
# The first cell of a .csv's header, where the other cells may be texts as in all rows.
_HEADINGS = frozenset("name file filename file_name image path sample id".split())


@dataclass(frozen=True)
class Accuracy:
    """True accuracy against labels, as shares.

    Args:
        fp32, quantized: of the models.
        labels: number of labels judged.
        samples: number of samples that have labels.
        lost, won: labels that only FP32 predicts, and that only the quantized model predicts.
        output: that predicts them.
        classes: number of classes; 0: unknown.
    """

    fp32: float
    quantized: float
    labels: int
    samples: int = 0
    lost: int = 0
    won: int = 0
    output: str = ""
    classes: int = 0

    @property
    def drop(self) -> float:
        return self.fp32 - self.quantized

    @property
    def drop_interval(self) -> tuple[float, float]:
        """The 95% interval of the drop, by Wilson's of the share of changed predictions that were right."""
        changed = self.lost + self.won
        low, high = ((2 * end - 1) * changed / max(self.labels, 1) for end in wilson(self.lost, changed))
        return min(low, self.drop) + 0.0, max(high, self.drop) + 0.0  # no -0

    @property
    def near_chance(self) -> bool:
        """Whether FP32 is hardly better than guessing, by labels enough to say so."""
        chance = 1 / max(self.classes, 2)
        return self.labels >= _LEAST_LABELS and self.fp32 < chance + _LEAST_SKILL * (1 - chance)


def read_labels(path: Path, alphabet: Alphabet | None = None, *, sequences: bool = False) -> Labels:
    """Return sample file name (or its stem) -> class, or several classes, one for each position; or its text.

    A file is a JSON object, where keys that start with '_' hold for all samples; or a .csv of rows
    `name,class` (or `name,class,class,..`), with or without a header.

    Args:
        path: of the file.
        alphabet: the text of each class; None: the file's own, '_classes' or '_chars', if it has one.
        sequences: a text is that of a sequence, even where each text is the name of a class.

    Raises:
        DataError: the file is missing or has another form, or a label is no class number and no text of an
            alphabet.
    """
    if not path.exists():
        raise DataError(f"labels '{path}' do not exist")
    with opened(path, LARGEST) as stream:
        text = stream.read().decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(_of_csv(text, texts=alphabet is not None))
        else:
            rows, notes = _of_json(text, path)
            symbols = notes.get("_classes", notes.get("_chars"))
            if alphabet is None and isinstance(symbols, list):
                alphabet = Alphabet(tuple(map(str, symbols)))
    lists = [(key, value if isinstance(value, list) else [value]) for key, value in rows]
    words = {word for _, values in lists for word in values if isinstance(word, str)}
    names = {} if alphabet is None or sequences else {s: i for i, s in enumerate(alphabet.symbols)}
    if words <= names.keys():
        lists = [(key, [names[v] if isinstance(v, str) else v for v in values]) for key, values in lists]
    labels: Labels = {}
    for key, values in lists:
        if key in labels:
            raise DataError(f"labels '{path}': '{printable(key)}' is there twice")
        if values and all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            labels[key] = np.asarray(values, np.int64)
        elif values and alphabet is not None and all(isinstance(v, str) for v in values):
            labels[key] = Spelled(tuple(values), alphabet)
        else:
            shown = repr(values[0] if len(values) == 1 else values)
            raise DataError(
                f"labels '{path}': '{printable(key)}' has {printable(shown, 40)}, not a class number",
                "class numbers (or lists of them), or texts, which need the symbols of the classes: "
                "--alphabet, or '_classes' in the JSON",
            )
    return labels


def alphabet_of(labels: Labels | None) -> Alphabet | None:
    """Return the alphabet of labels that are texts; None of others."""
    return next((label.alphabet for label in (labels or {}).values() if isinstance(label, Spelled)), None)


def _of_json(text: str, path: Path) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """Return the labels, and what holds for all of them."""
    try:
        document: Any = json.loads(text, object_pairs_hook=list)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not text.lstrip().startswith("{"):
        raise DataError(f"labels '{path}': not an object of file name -> class")
    notes = {key: value for key, value in document if key.startswith("_")}
    return [(key, value) for key, value in document if key not in notes], notes


def _of_csv(text: str, *, texts: bool) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(csv.reader(io.StringIO(text), strict=True)):
        if not row:
            continue
        name, *cells = (cell.strip() for cell in row)
        classes = [int(c) if not texts and re.fullmatch(r"[-+]?[0-9]{1,18}", c) else c for c in cells]
        header = name.lower() in _HEADINGS if texts else not any(isinstance(c, int) for c in classes)
        if number == 0 and header:
            continue
        yield name, classes


def label_of(labels: Labels, sample: str) -> Label | None:
    """Return the label of a sample, by its file name or its name without the suffix; None without one."""
    return labels.get(sample, labels.get(Path(sample).stem))


def predict(
    outputs: list[Any], size: int, axes: Sequence[int | None]
) -> tuple[int, NDArray[np.int64]] | None:
    """Return the index of the output that predicts `size` classes, and these; None if there is none.

    The first output counts that holds that number of integers, or that number of rows of scores.

    Args:
        outputs: of a model, for one sample.
        size: number of labels of a sample.
        axes: of the classes of each output, counted from the end; None: it holds class numbers.
    """
    for index, (output, axis) in enumerate(zip(outputs, axes, strict=True)):
        array = np.asarray(output)
        if (array.dtype.kind in "iu" or axis is None) and array.size == size:
            return index, np.asarray(array.reshape(-1), np.int64)
        if array.dtype.kind == "f" and axis is not None and -array.ndim <= axis < array.ndim and array.size:
            scores = np.moveaxis(array, axis, -1)
            if scores.shape[-1] > 1 and scores[..., 0].size == size:
                return index, np.asarray(scores.argmax(-1).reshape(-1), np.int64)
    return None


def label_warnings(accuracy: Accuracy | None, samples: int) -> tuple[str, ...]:
    """Return doubts about labels: few samples have one, or FP32 gets them wrong.

    Args:
        accuracy: by the labels; None: there are none.
        samples: number of samples.
    """
    if accuracy is None:
        return ()
    doubts = []
    if 2 * accuracy.samples < samples:
        doubts.append(f"{accuracy.samples} of {samples} samples have a label; labels are keyed by file names")
    if accuracy.near_chance:
        guess = f" (chance is {1 / accuracy.classes:.1%})" if accuracy.classes > 1 else ""
        doubts.append(
            f"FP32 predicts {accuracy.fp32:.1%} of {accuracy.labels} labels{guess}: "
            "do these labels belong to these samples?"
        )
    return tuple(doubts)


class Truth:
    """Predictions held against labels, sample by sample.

    Args:
        labels: by file name.
        axes: of the classes of each output, counted from the end; None: it holds class numbers.
    """

    def __init__(self, labels: Labels, axes: list[int | None]) -> None:
        self._labels = labels
        self._axes = axes
        self.output: int | None = None
        # [convention of texts, FP32 is right, the other is right]
        self._hits: NDArray[np.int64] | None = None
        self._samples = self._classes = 0

    def add(self, name: str, expected: list[Any], actual: list[Any], place: str) -> None:
        """Add a sample, if it has a label; the first one shows the output that the labels are of.

        Raises:
            DataError: no output predicts as many classes as the label has, or spells its texts.
        """
        label = label_of(self._labels, name)
        if label is None:
            if self.output is None and self._labels:
                reading = self._right(expected, next(iter(self._labels.values())))
                self.output = None if reading is None else reading[0]
            return
        fp32, other = (self._right(outputs, label) for outputs in (expected, actual))
        if fp32 is None or other is None:
            raise _unpredicted(place, label)
        self.output, right = fp32
        if self._hits is None:
            self._hits = np.zeros((len(right), 2, 2), np.int64)
        for way, pair in enumerate(zip(right.astype(np.int64), other[1].astype(np.int64), strict=True)):
            np.add.at(self._hits[way], pair, 1)
        scores, axis = np.asarray(expected[self.output]), self._axes[self.output]
        if axis is not None and scores.dtype.kind == "f":
            self._classes = int(scores.shape[axis])
        self._samples += 1

    def _right(self, outputs: list[Any], label: Label) -> tuple[int, NDArray[np.bool_]] | None:
        """The output that the label is of, and which of its entries are right [convention, entry]."""
        if isinstance(label, Spelled):
            return label.read(outputs, self._axes)
        reading = predict(outputs, label.size, self._axes)
        return None if reading is None else (reading[0], (reading[1] == label)[None])

    def accuracy(self, output: str) -> Accuracy | None:
        """Return the accuracy of both models; None where no sample had a label.

        The convention of texts is that by which FP32 is right most often.
        """
        if self._hits is None:
            return None
        hits = self._hits[int(self._hits[:, 1].sum(-1).argmax())]
        total = int(hits.sum())
        (_, won), (lost, both) = hits.tolist()
        entries = (e.texts if isinstance(e, Spelled) else e.tolist() for e in self._labels.values())
        classes = self._classes or len({each for entry in entries for each in entry})
        return Accuracy(
            (lost + both) / total, (won + both) / total, total, self._samples, lost, won, output, classes
        )


def _unpredicted(place: str, label: Label) -> DataError:
    """The error of a label that is of no output."""
    if isinstance(label, Spelled):
        return DataError(
            f"{place}: no output has scores of {len(label.alphabet.symbols)} symbols for each step of a text",
            "an alphabet has the text of each class, with or without the blank; --class-axis names the axis",
        )
    return DataError(
        f"{place}: no output predicts {label.size} class(es)",
        "labels are compared with integer outputs, or with the largest entry of the last axis",
    )
