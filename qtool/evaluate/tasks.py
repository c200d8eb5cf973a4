"""The user's own metrics: a function of FP32's outputs and the quantized ones, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qtool.data.usercode import UserFunction, load_function
from qtool.errors import DataError, UsageError, printable

Outputs = Mapping[str, np.ndarray]


class Task:
    """A metric, and what it has come to so far.

    The function gets {output: array} of FP32 and of the quantized model, under FP32's names, and gives a
    number (or bool); with a third argument, it gets the sample's file name as well. The metric is the mean.
    """

    def __init__(self, function: UserFunction) -> None:
        self.name = function.name
        self._function = function
        self._named = function.arguments == 3
        self._total = 0.0
        self._samples = 0

    def add(self, sample: str, fp32: Outputs, quantized: Outputs) -> None:
        """Take in a sample.

        Raises:
            DataError: the function fails, or gives no number.
        """
        value: Any = self._function(fp32, quantized, *([sample] if self._named else []))
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self._function.where} gives {printable(repr(value), 60)}, not a number, for "
                f"{printable(sample)}"
            ) from error
        self._total += number
        self._samples += 1

    @property
    def mean(self) -> float:
        """Over the samples so far; nan without any, or where one is nan."""
        return self._total / self._samples if self._samples else math.nan


def tasks_of(texts: Sequence[str]) -> list[Task]:
    """The metrics that 'file.py:function' names.

    Raises:
        DataError: no such file, or its code fails.
        UsageError: no such function, one of other arguments, or two of one name.
    """
    tasks: dict[str, Task] = {}
    for text in texts:
        function = load_function(text)
        if function.arguments not in (2, 3):
            plural = "" if function.arguments == 1 else "s"
            raise UsageError(
                f"{function.where} takes {function.arguments} argument{plural}",
                "two: the outputs of FP32 and of the quantized model; or three: the sample's name, too",
            )
        if function.name in tasks:
            raise UsageError(f"--metric {text}: two metrics of the name '{function.name}'")
        tasks[function.name] = Task(function)
    return list(tasks.values())
