"""The options that say what is measured of two models, and what fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from qtool.data.reading import ListFields
from qtool.errors import UsageError
from qtool.evaluate.alphabet import read_alphabet
from qtool.evaluate.compare import Measures
from qtool.evaluate.gates import Gate, parse
from qtool.evaluate.labels import alphabet_of, read_labels
from qtool.evaluate.rows import row_outputs
from qtool.evaluate.scored import scored_outputs
from qtool.evaluate.tasks.load import read_truths, task_of
from qtool.evaluate.user_metrics import load_metrics
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.tables.judging import CTC, TASK, TASKS, TOKENS, TaskName

GateName = Literal["none", "task", "usual", "auto"]


@dataclass(frozen=True, kw_only=True)
class Judging(ListFields):
    """Options: what to measure, and what to fail on.

    Args:
        labels: a JSON or .csv file of sample name -> class, for true accuracy; or labels of task
            metrics.
        alphabet: the symbols of the classes, where labels are texts: the characters, or a file with one a
            line.
        fail_if: gates, such as 'sqnr<20'.
        gate: the default gates, a word of tables/judging.py.
        task: what argmax decides of the outputs that are scored by it; '': found out from the model.
        class_axis: the axis of their classes; None: that of the Softmax at the end, else the last one.
        metrics: task metrics, rows of tables/task_metrics.py, or the user's own, 'file.py:function'.
        atol, rtol: an element matches where |a - b| <= atol + rtol * |a|.
    """

    labels: str | Path | None = None
    alphabet: str = ""
    fail_if: Sequence[str] = ()
    gate: GateName = TASK
    task: TaskName = ""
    class_axis: int | None = None
    metrics: Sequence[str] = ()
    atol: float = TOLERANCE.atol
    rtol: float = TOLERANCE.rtol

    @property
    def tolerance(self) -> Tolerance:
        """The difference up to which elements match."""
        return Tolerance(self.atol, self.rtol)


def measures_of(judging: Judging) -> Measures:
    """Return the measures that the options name, for any model.

    Raises:
        QtoolError: labels or code that can't be read, or an alphabet without labels.
    """
    path = None if judging.labels is None else Path(judging.labels)
    if judging.alphabet and path is None:
        raise UsageError("--alphabet is for texts in --labels", "--labels FILE")
    alphabet = read_alphabet(judging.alphabet) if judging.alphabet else None
    if any(task_of(text) for text in judging.metrics):  # the labels are theirs
        truths = None if path is None else read_truths(path, alphabet)
        return Measures(None, load_metrics(judging.metrics, truths), judging.tolerance)
    sequences = judging.task in (TOKENS, CTC)
    labels = None if path is None else read_labels(path, alphabet, sequences=sequences)
    return Measures(labels, load_metrics(judging.metrics), judging.tolerance)


def with_scores(measures: Measures, judging: Judging, model: ir.Model) -> Measures:
    """Return the measures with the outputs of a model that are scored by argmax, or made of rows.

    Raises:
        UsageError: no such task.
    """
    if judging.task and judging.task not in TASKS:
        raise UsageError(f"no task '{judging.task}'", f"tasks: {', '.join(TASKS)}")
    alphabet = alphabet_of(measures.labels)
    task: TaskName = judging.task or ("ctc" if alphabet else "")
    scored = scored_outputs(model, task, judging.class_axis)
    if alphabet and judging.class_axis is None:
        axes = {o.name: alphabet.axis_of([*(o.shape or ())]) for o in model.graph.outputs}
        scored = {
            n: row if row.axis is None else replace(row, axis=axes[n] or row.axis)
            for n, row in scored.items()
        }
    return replace(measures, scored=scored, rows=row_outputs(model))


def gates_of(judging: Judging) -> list[Gate]:
    """Return the gates of `fail_if`.

    Raises:
        UsageError: a text is not a gate, or its metric is unknown.
    """
    metrics: list[str] = []
    for text in judging.metrics:
        row = task_of(text)
        metrics += [text.rpartition(":")[2]] if row is None else row.names
    return [parse(text, metrics) for text in judging.fail_if]
