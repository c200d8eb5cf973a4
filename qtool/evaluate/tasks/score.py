"""The input of the scorers of task metrics: outputs, inputs and the truth of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from qtool.errors import DataError, printable

Arrays = Mapping[str, np.ndarray]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Truths:
    """The labels of a task metric.

    Args:
        file: for messages.
        of: sample file name (or its stem) -> the truth, in the form that the metric takes.
        notes: what holds for all samples: '_classes', '_pairs', ..
    """

    file: str = ""
    of: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """The outputs of one model on one sample, with the sample's inputs and truth (None: it has none)."""

    sample: str
    outputs: Arrays
    inputs: Arrays
    truth: Any

    def output(self, name: str = "") -> np.ndarray:
        """Return the output of that name; without one, the first float output, else the first.

        Raises:
            DataError: there is no such output.
        """
        if name and name not in self.outputs:
            raise DataError(
                f"no output '{printable(name)}' (there are: {printable(', '.join(self.outputs))})"
            )
        floats = [n for n, array in self.outputs.items() if np.asarray(array).dtype.kind == "f"]
        return np.asarray(self.outputs[name or next(iter([*floats, *self.outputs]))])

    def wrong(self, wanted: str) -> DataError:
        """Return the error of a truth in another form."""
        shown = printable(repr(self.truth), 60)
        return DataError(f"label of {printable(self.sample)}: {shown}: the metric takes {wanted}")


class Scorer(Protocol):
    """Accumulates a metric of one model."""

    def __init__(self, options: Options, truths: Truths) -> None: ...

    def add(self, prediction: Prediction) -> None:
        """Add a sample."""

    def value(self) -> float:
        """Return the metric over the samples added; nan where none counted."""


def classes_of(prediction: Prediction, output: str) -> np.ndarray:
    """Return the true classes of a sample, int64 [n], n as many as the output decides.

    Raises:
        DataError: they are no class numbers.
    """
    truth = np.asarray(prediction.truth).reshape(-1)
    if truth.dtype.kind not in "iu" or not truth.size:
        raise prediction.wrong("class numbers")
    return truth.astype(np.int64)


def scores_of(prediction: Prediction, rows: int, output: str) -> np.ndarray:
    """Return scores [rows, classes] of an output whose last axis is the classes.

    Raises:
        DataError: it has another number of rows.
    """
    scores = prediction.output(output)
    if scores.ndim < 1 or scores.dtype.kind != "f" or scores.size != rows * scores.shape[-1]:
        raise DataError(
            f"{printable(prediction.sample)}: {rows} labels, and an output of shape {scores.shape}"
        )
    return scores.reshape(rows, -1).astype(np.float64)
