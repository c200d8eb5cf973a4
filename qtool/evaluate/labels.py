"""Class labels by file name, and the classes that a model's outputs predict."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import opened
from qtool.errors import DataError, printable

Labels = dict[str, NDArray[np.int64]]

LARGEST = 1 << 28  # bytes


def read_labels(path: Path) -> Labels:
    """Return sample file name (or its stem) -> class, or several classes, one for each position.

    A file is a JSON object, where keys that start with '_' are skipped as metadata; or a .csv of rows
    `name,class` (or `name,class,class,..`), with or without a header.

    Raises:
        DataError: the file is missing or has another form, or a label is not a class number.
    """
    if not path.exists():
        raise DataError(f"labels '{path}' do not exist")
    with opened(path, LARGEST) as stream:
        text = stream.read().decode("utf-8-sig")
        rows = list(_of_csv(text) if path.suffix.lower() == ".csv" else _of_json(text, path))
    labels: Labels = {}
    for key, value in rows:
        classes = value if isinstance(value, list) else [value]
        if not classes or not all(isinstance(c, int) and not isinstance(c, bool) for c in classes):
            raise DataError(
                f"labels '{path}': '{printable(key)}' has {printable(repr(value), 40)}, not a class number",
                "only class numbers (or lists of them) can be judged",
            )
        if key in labels:
            raise DataError(f"labels '{path}': '{printable(key)}' is there twice")
        labels[key] = np.asarray(classes, np.int64)
    return labels


def _of_json(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        document: Any = json.loads(text, object_pairs_hook=list)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not text.lstrip().startswith("{"):
        raise DataError(f"labels '{path}': not an object of file name -> class")
    yield from ((key, value) for key, value in document if not key.startswith("_"))


def _of_csv(text: str) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(csv.reader(io.StringIO(text), strict=True)):
        if not row:
            continue
        name, *cells = (cell.strip() for cell in row)
        classes = [int(c) if re.fullmatch(r"[-+]?[0-9]{1,18}", c) else c for c in cells]
        if number == 0 and not any(isinstance(c, int) for c in classes):
            continue  # a header
        yield name, classes


def label_of(labels: Labels, sample: str) -> NDArray[np.int64] | None:
    """Return the label of a sample, by its file name or its name without the suffix; None without one."""
    return labels.get(sample, labels.get(Path(sample).stem))


def predict(outputs: list[Any], label: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the classes that a model's outputs predict; None if no output has as many as the label.

    The first output counts that holds that number of integers, or that number of rows of scores (argmax over
    the last axis).
    """
    for output in outputs:
        array = np.asarray(output)
        if array.dtype.kind in "iu" and array.size == label.size:
            return np.asarray(array.reshape(-1), np.int64)
        if array.dtype.kind == "f" and array.ndim >= 1 and array.size and array.shape[-1] > 1:
            rows = array.reshape(-1, array.shape[-1])
            if len(rows) == label.size:
                return np.asarray(rows.argmax(-1), np.int64)
    return None
