"""The options that say what is measured of two models, and what fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qtool.data.reading import ListFields
from qtool.evaluate.compare import Measures
from qtool.evaluate.gates import Gate, parse
from qtool.evaluate.labels import read_labels
from qtool.evaluate.user_metrics import load_metrics
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.tables.judging import NONE


@dataclass(frozen=True, kw_only=True)
class Judging(ListFields):
    """Options: what to measure, and what to fail on.

    Args:
        labels: a JSON or .csv file of sample name -> class, for true accuracy.
        fail_if: gates, such as 'sqnr<20'.
        gate: a word of tables/judging.py: whether to fail below the SQNR that the precision usually reaches.
        metrics: the user's own metrics, 'file.py:function' each.
        atol, rtol: an element matches where |a - b| <= atol + rtol * |a|.
    """

    labels: str | Path | None = None
    fail_if: Sequence[str] = ()
    gate: Literal["none", "usual", "auto"] = NONE
    metrics: Sequence[str] = ()
    atol: float = TOLERANCE.atol
    rtol: float = TOLERANCE.rtol

    @property
    def tolerance(self) -> Tolerance:
        """The difference up to which elements match."""
        return Tolerance(self.atol, self.rtol)


def measures_of(judging: Judging) -> Measures:
    """Return the measures that the options name.

    Raises:
        QtoolError: labels or code that can't be read.
    """
    labels = None if judging.labels is None else read_labels(Path(judging.labels))
    return Measures(labels, load_metrics(judging.metrics), judging.tolerance)


def gates_of(judging: Judging) -> list[Gate]:
    """Return the gates of `fail_if`.

    Raises:
        UsageError: a text is not a gate, or its metric is unknown.
    """
    metrics = [text.rpartition(":")[2] for text in judging.metrics]
    return [parse(text, metrics) for text in judging.fail_if]
