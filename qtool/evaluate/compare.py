"""Run two models over the same samples and measure how far apart their outputs are, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, where
from qtool.errors import DataError, ModelError, printable
from qtool.evaluate.labels import Labels, label_of, predict
from qtool.evaluate.output_metrics import OutputAccumulator, OutputMetrics
from qtool.evaluate.tasks import Task
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.runtime.session import Model, running

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """True accuracy against labels, as shares; `labels` counts the labels judged."""

    fp32: float
    quantized: float
    labels: int

    @property
    def drop(self) -> float:
        return self.fp32 - self.quantized


@dataclass(frozen=True)
class Comparison:
    """Two models over the samples of a source.

    Args:
        tasks: the means of the user's own metrics.
    """

    data: str
    samples: int
    outputs: tuple[OutputMetrics, ...]
    accuracy: Accuracy | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)

    def worst(self, measure: str, pick: Callable[..., float]) -> float:
        """The worst of a measure over the outputs that have it; nan if any is nan or none is there.

        top1 is nan where an output has no rows, and left out there.
        """
        judged = [o for o in self.outputs if not o.exact and o.count]
        if measure == "top1":
            judged = [o for o in judged if o.rows]
        values = [float(getattr(o, measure)) for o in judged]
        if not values or any(math.isnan(v) for v in values):
            return math.nan
        return pick(values)

    @property
    def sqnr(self) -> float:
        """SQNR of the worst output in dB."""
        return self.worst("sqnr", min)

    @property
    def sqnr_interval(self) -> tuple[float, float]:
        """The 95% interval of `sqnr` over samples: low and high in dB; both nan where `sqnr` is."""
        sqnr = self.sqnr
        found = [o.sqnr_interval for o in self.outputs if not o.exact and o.count and o.sqnr == sqnr]
        return min(found, default=(math.nan, math.nan))


@dataclass(frozen=True)
class Measures:
    """What to measure.

    Args:
        labels: for true accuracy.
        tasks: the user's own metrics.
        tolerance: what counts as a match.
    """

    labels: Labels | None = None
    tasks: Sequence[Task] = ()
    tolerance: Tolerance = TOLERANCE


PLAIN = Measures()


def match_outputs(reference: list[str], other: list[str]) -> dict[str, str]:
    """FP32 output -> quantized output: by name, then by position when only the names differ.

    Raises:
        ModelError: there is no such match.
    """
    if set(reference) <= set(other):
        return {name: name for name in reference}
    if len(reference) == len(other) and not set(reference) & set(other):
        return dict(zip(reference, other, strict=True))
    missing = next(name for name in reference if name not in other)
    raise ModelError(
        f"the quantized model has no output '{printable(missing)}' (it has: {printable(', '.join(other))})"
    )


def compare(
    fp32: Model,
    quantized: Model,
    source: Samples,
    measures: Measures = PLAIN,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Compare all outputs over all samples; memory does not grow with their number.

    Args:
        fp32, quantized: the models.
        source: the samples.
        measures: what is measured beside the outputs themselves.
        progress: called with how many samples of how many are done.

    Raises:
        DataError: no samples, samples that do not fit, labels for none of them.
        ModelError: outputs that can't be matched, or differ in shape.
        RuntimeFailure: a model fails on a sample.
    """
    total = len(source)
    if not total:
        raise DataError(f"{source.name}: no samples to compare on")
    labels = measures.labels
    pairs = match_outputs(fp32.outputs, quantized.outputs)
    names = list(pairs)
    tallies = [OutputAccumulator(name, fp32.output_shapes[name], measures.tolerance) for name in names]
    hits, judged = np.zeros(2, np.int64), 0
    for done, sample in enumerate(source.read(), start=1):
        inputs = fit(sample, fp32.inputs, fp32.input_dtypes, source.name)
        with running(fp32):
            expected = _expected(fp32, inputs, names, where(source.name, sample.name))
        inputs = fit(sample, quantized.inputs, quantized.input_dtypes, source.name)
        with running(quantized):
            got = quantized.run(inputs, [pairs[n] for n in names])
        for tally, a, b in zip(tallies, expected, got, strict=True):
            tally.add(sample.name, a, b)
        for task in measures.tasks:
            task.add(sample.name, dict(zip(names, expected, strict=True)), dict(zip(names, got, strict=True)))
        label = label_of(labels, sample.name) if labels else None
        if label is not None:
            predicted = [predict(outputs, label) for outputs in (expected, got)]
            if predicted[0] is None or predicted[1] is None:
                raise DataError(
                    f"{where(source.name, sample.name)}: no output predicts {label.size} class(es)",
                    "labels are compared with integer outputs, or with the largest entry of the last axis",
                )
            hits += [int(np.count_nonzero(p == label)) for p in predicted]
            judged += label.size
        progress(done, total)
    if labels is not None and not judged:
        raise DataError(
            f"{source.name}: no sample has a label", "labels are keyed by the samples' file names"
        )
    accuracy = Accuracy(hits[0] / judged, hits[1] / judged, judged) if judged else None
    outputs = tuple(tally.metrics() for tally in tallies)
    return Comparison(source.name, total, outputs, accuracy, {t.name: t.mean for t in measures.tasks})


def _expected(fp32: Model, inputs: Arrays, names: list[str], name: str) -> list[Any]:
    """What FP32 gives; if it comes from a file that lacks it, the sample is named."""
    try:
        return fp32.run(inputs, names)
    except DataError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error
