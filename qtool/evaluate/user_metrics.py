"""The metrics of --metric: those of tasks (evaluate/tasks/), and functions of the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qtool.data.user_code import UserFunction, load_function
from qtool.errors import DataError, UsageError, printable
from qtool.evaluate.decoding import is_stepped
from qtool.evaluate.tasks.load import TaskPair, load_task, task_of
from qtool.evaluate.tasks.score import Truths

Outputs = Mapping[str, np.ndarray]


class UserMetric:
    """The mean of a function over samples.

    The function takes {output: array} of FP32 and of the quantized model, both under FP32's names, and
    returns a number (or bool). With a third argument it takes the sample's file name as well.
    """

    stepped: str | None = None

    def __init__(self, function: UserFunction) -> None:
        self.names = (function.name,)
        self._function = function
        self._takes_name = function.arguments == 3
        self._total = 0.0
        self._samples = 0

    def add(self, sample: str, fp32: Outputs, quantized: Outputs, inputs: Outputs) -> None:
        """Add a sample.

        Raises:
            DataError: the function fails, or returns no number.
        """
        own = ({n: a for n, a in arrays.items() if not is_stepped(n)} for arrays in (fp32, quantized))
        value: Any = self._function(*own, *([sample] if self._takes_name else []))
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self._function.where} returns {printable(repr(value), 60)}, not a number, for "
                f"{printable(sample)}"
            ) from error
        self._total += number
        self._samples += 1

    def values(self) -> dict[str, float]:
        """Return the mean over the samples added; nan without any, or where one is nan."""
        return {self.names[0]: self._total / self._samples if self._samples else math.nan}


def load_metrics(texts: Sequence[str], truths: Truths | None = None) -> list[UserMetric | TaskPair]:
    """Return the metrics that 'file.py:function', or rows of tables/task_metrics.py, name.

    Args:
        texts: of --metric.
        truths: the labels of task metrics; None: there are none.

    Raises:
        DataError: there is no such file, or its code fails.
        EnvironmentFailure: a task metric needs a library that is missing.
        UsageError: there is no such function, it has other arguments, or two have the same name.
    """
    metrics: dict[str, UserMetric | TaskPair] = {}
    for text in texts:
        if (row := task_of(text)) is not None:
            if row.name in metrics:
                raise UsageError(f"--metric {text}: {row.name} is there twice")
            metrics[row.name] = load_task(text, row, truths)
            continue
        function = load_function(text)
        if function.arguments not in (2, 3):
            plural = "" if function.arguments == 1 else "s"
            raise UsageError(
                f"{function.where} takes {function.arguments} argument{plural}",
                "two: the outputs of FP32 and of the quantized model; or three: also the sample's name",
            )
        if function.name in metrics:
            raise UsageError(f"--metric {text}: there are two metrics named '{function.name}'")
        metrics[function.name] = UserMetric(function)
    return list(metrics.values())
