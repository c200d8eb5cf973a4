"""How two models are to be judged: what the user asks of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qtool.data.reading import ListFields
from qtool.evaluate.compare import Measures
from qtool.evaluate.gates import Gate, parse
from qtool.evaluate.labels import read_labels
from qtool.evaluate.tasks import tasks_of
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.tables.judging import NONE


@dataclass(frozen=True, kw_only=True)
class Judging(ListFields):
    """What to measure, and what to fail on.

    Args:
        labels: a JSON or .csv file of sample name -> class, for true accuracy.
        fail_if: gates, such as 'sqnr<20'.
        gate: a word of tables/judging.py: whether to fail below the SQNR that the precision usually holds.
        tasks: the user's own metrics, 'file.py:function' each.
        atol, rtol: an element matches where |a - b| <= atol + rtol * |a|.
    """

    labels: str | Path | None = None
    fail_if: Sequence[str] = ()
    gate: str = NONE
    tasks: Sequence[str] = ()
    atol: float = TOLERANCE.atol
    rtol: float = TOLERANCE.rtol

    @property
    def tolerance(self) -> Tolerance:
        """What counts as a match."""
        return Tolerance(self.atol, self.rtol)


def measures_of(judging: Judging) -> Measures:
    """What is to be measured.

    Raises:
        QtoolError: labels or code that can't be read.
    """
    labels = None if judging.labels is None else read_labels(Path(judging.labels))
    return Measures(labels, tasks_of(judging.tasks), judging.tolerance)


def gates_of(judging: Judging) -> list[Gate]:
    """What is to fail.

    Raises:
        UsageError: no gate, or no such metric.
    """
    tasks = [text.rpartition(":")[2] for text in judging.tasks]
    return [parse(text, tasks) for text in judging.fail_if]
