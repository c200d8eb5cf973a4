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
from qtool.evaluate.user_metrics import UserMetric
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.runtime.heartbeat import StepProgress, no_progress
from qtool.runtime.session import Model, running


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
        user_metrics: the user's own metrics: function -> mean over samples.
    """

    data: str
    samples: int
    outputs: tuple[OutputMetrics, ...]
    accuracy: Accuracy | None = None
    user_metrics: Mapping[str, float] = field(default_factory=dict)

    def worst(self, measure: str, pick: Callable[..., float]) -> float:
        """Return the worst of a measure over the outputs that have it; nan if one is nan or none has it.

        Outputs without rows have no top1.
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
        intervals = [o.sqnr_interval for o in self.outputs if not o.exact and o.count and o.sqnr == sqnr]
        return min(intervals, default=(math.nan, math.nan))


@dataclass(frozen=True)
class Measures:
    """The measures beside those of the outputs.

    Args:
        labels: for true accuracy.
        user_metrics: the user's own metrics.
        tolerance: the difference up to which elements match.
    """

    labels: Labels | None = None
    user_metrics: Sequence[UserMetric] = ()
    tolerance: Tolerance = TOLERANCE


PLAIN = Measures()


def match_outputs(reference: list[str], other: list[str]) -> dict[str, str]:
    """Return FP32 output -> quantized output: by name, or by position when all names differ.

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
    progress: StepProgress = no_progress,
) -> Comparison:
    """Compare all outputs over all samples; memory does not grow with their number.

    Args:
        fp32, quantized: the models.
        source: the samples.
        measures: beside those of the outputs.
        progress: called with the samples done and the samples in all.

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
    accumulators = [OutputAccumulator(name, fp32.output_shapes[name], measures.tolerance) for name in names]
    hits, judged = np.zeros(2, np.int64), 0
    for done, sample in enumerate(source.read(), start=1):
        inputs = fit(sample, fp32.inputs, fp32.input_dtypes, source.name)
        with running(fp32):
            expected = _expected(fp32, inputs, names, where(source.name, sample.name))
        inputs = fit(sample, quantized.inputs, quantized.input_dtypes, source.name)
        with running(quantized):
            actual = quantized.run(inputs, [pairs[n] for n in names])
        for accumulator, a, b in zip(accumulators, expected, actual, strict=True):
            accumulator.add(sample.name, a, b)
        for metric in measures.user_metrics:
            metric.add(
                sample.name, dict(zip(names, expected, strict=True)), dict(zip(names, actual, strict=True))
            )
        label = label_of(labels, sample.name) if labels else None
        if label is not None:
            predicted = [predict(outputs, label) for outputs in (expected, actual)]
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
    outputs = tuple(accumulator.metrics() for accumulator in accumulators)
    return Comparison(source.name, total, outputs, accuracy, {m.name: m.mean for m in measures.user_metrics})


def _expected(fp32: Model, inputs: Arrays, names: list[str], name: str) -> list[Any]:
    """The outputs of FP32; where a file of them lacks this sample, the error names it."""
    try:
        return fp32.run(inputs, names)
    except DataError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error
