"""Labels of a classification: file name -> class, and what a model's outputs predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.errors import DataError, printable

Labels = dict[str, NDArray[np.int64]]


def read_labels(path: Path) -> Labels:
    """A JSON object: sample file name (or its stem) -> class, or a list of classes, one a position.

    Keys that start with '_' are metadata and left out.

    Raises:
        DataError: missing, not such an object, or labels that are no class numbers.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"labels '{path}' do not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"labels '{path}' can't be read: {printable(str(error), 120)}") from error
    if not isinstance(document, dict):
        raise DataError(f"labels '{path}': not an object of file name -> class")
    labels: Labels = {}
    for key, value in document.items():
        if key.startswith("_"):
            continue
        classes = value if isinstance(value, list) else [value]
        if not classes or not all(isinstance(c, int) and not isinstance(c, bool) for c in classes):
            raise DataError(
                f"labels '{path}': '{printable(key)}' has {printable(repr(value), 40)}, not a class number",
                "only class numbers (or lists of them) can be judged",
            )
        labels[key] = np.asarray(classes, np.int64)
    return labels


def label_of(labels: Labels, sample: str) -> NDArray[np.int64] | None:
    """The label of a sample by its file name, or its name without the suffix."""
    return labels.get(sample, labels.get(Path(sample).stem))


def predict(outputs: list[Any], label: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The classes that a model's outputs predict, as many as the label has; None if none has that shape.

    The first output that is integers of that number, or scores with that many rows (argmax over
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
