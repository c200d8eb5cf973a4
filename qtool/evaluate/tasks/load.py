"""Load the task metrics of --metric, and their labels."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.files import opened
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.evaluate.alphabet import Alphabet
from qtool.evaluate.labels import LARGEST
from qtool.evaluate.tasks.score import Arrays, Prediction, Scorer, Truths
from qtool.tables.task_metrics import TASK_METRICS, TaskMetric


class TaskPair:
    """A task metric of FP32 and of the quantized model, over the same samples.

    Args:
        row: of the metric.
        scorers: of the two models.
        truths: the labels.
        stepped: the output whose steps it needs (evaluate/decoding.py), '' for the usual one; None: none.
    """

    def __init__(
        self,
        row: TaskMetric,
        scorers: tuple[Scorer, Scorer],
        truths: Truths,
        stepped: str | None = None,
    ) -> None:
        self.names = row.names
        self.stepped = stepped
        self._row, self._scorers, self._truths = row, scorers, truths
        self._samples = 0

    def add(self, sample: str, fp32: Arrays, quantized: Arrays, inputs: Arrays) -> None:
        """Add a sample, if it has a label or the metric needs none.

        Raises:
            DataError: the label has another form, or does not fit the output.
        """
        truths = self._truths.of
        truth = truths.get(sample, truths.get(Path(sample).stem))
        if truth is None and self._row.labels and "_pairs" not in self._truths.notes:
            return
        self._samples += 1
        for scorer, outputs in zip(self._scorers, (fp32, quantized), strict=True):
            scorer.add(Prediction(sample, outputs, inputs, truth))

    def values(self) -> dict[str, float]:
        """Return the metric of the quantized model, that of FP32, and what was lost.

        Raises:
            DataError: no sample had a label.
        """
        if not self._samples:
            raise DataError(
                f"--metric {self._row.name}: no sample has a label",
                "labels are keyed by the samples' file names",
            )
        fp32, quantized = (scorer.value() for scorer in self._scorers)
        lost = quantized - fp32 if self._row.lower else fp32 - quantized
        lost = 0.0 if fp32 == quantized else lost  # of two infinities
        return dict(zip(self.names, (quantized, fp32, lost), strict=True))


def task_of(text: str) -> TaskMetric | None:
    """Return the row that a --metric names; None for a function in a file, which has a suffix.

    Raises:
        UsageError: neither.
    """
    name = text.partition(":")[0]
    if name in TASK_METRICS or ":" in text:
        return TASK_METRICS.get(name)
    hint = did_you_mean(name, TASK_METRICS) or f"metrics: {', '.join(TASK_METRICS)}; or FILE.py:FUNCTION"
    raise UsageError(f"--metric {text}: no such metric", hint)


def load_task(text: str, row: TaskMetric, truths: Truths | None) -> TaskPair:
    """Return the metric of '--metric NAME[:OPTION=VALUE,..]'.

    Raises:
        UsageError: no such option, a value of another type, or no labels for a metric that needs them.
        EnvironmentFailure: a library is missing.
    """
    options: dict[str, Any] = {"output": "", **row.options}
    for part in filter(None, text.partition(":")[2].split(",")):
        name, _, value = part.partition("=")
        if name not in options:
            raise UsageError(f"--metric {text}: no option '{name}'", f"options: {', '.join(options)}")
        try:
            options[name] = type(options[name])(value)
        except ValueError as error:
            raise UsageError(f"--metric {text}: {name} is {value!r}, not a number") from error
    if truths is None and row.labels:
        raise UsageError(f"--metric {row.name} needs labels", f"--labels FILE; {row.summary}")
    module, _, cls = row.scorer.partition(":")
    scorer = getattr(import_module(module), cls)
    truths = truths or Truths()
    stepped = options["output"] if options.get("cache") else None
    return TaskPair(row, (scorer(options, truths), scorer(options, truths)), truths, stepped)


def read_truths(path: Path, alphabet: Alphabet | None = None) -> Truths:
    """Return the labels of task metrics: a JSON object of sample file name -> label, or a folder of .npy.

    Keys that begin with '_' hold for all samples: '_classes', '_pairs'. An alphabet takes the place of
    '_classes'.

    Raises:
        DataError: the file is missing or has another form.
    """
    if path.is_dir():
        arrays = {p.stem: np.load(p, allow_pickle=False) for p in sorted(path.glob("*.npy"))}
        if not arrays:
            raise DataError(f"labels '{path}': the folder has no .npy file")
        return Truths(str(path), arrays)
    if not path.exists():
        raise DataError(f"labels '{path}' do not exist")
    with opened(path, LARGEST) as stream:
        try:
            document = json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"labels '{path}': not JSON: {printable(str(error), 120)}") from error
    if not isinstance(document, dict):
        raise DataError(f"labels '{path}': not an object of file name -> label")
    notes = {key: value for key, value in document.items() if key.startswith("_")}
    if alphabet is not None:
        notes["_classes"] = list(alphabet.symbols)
    return Truths(str(path), {k: v for k, v in document.items() if k not in notes}, notes)
