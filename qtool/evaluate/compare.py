"""Run two models over the same samples and measure how far apart their outputs are, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, where
from qtool.errors import DataError, ModelError, printable
from qtool.evaluate.decoding import is_stepped, stepped
from qtool.evaluate.labels import Accuracy, Labels, Truth
from qtool.evaluate.output_metrics import OutputAccumulator, OutputMetrics
from qtool.evaluate.rows import Rows, matches
from qtool.evaluate.scored import Scored
from qtool.evaluate.tasks.load import TaskPair
from qtool.evaluate.user_metrics import UserMetric
from qtool.evaluate.worst_samples import WorstSample, WorstSamples
from qtool.numerics.metrics import TOLERANCE, Tolerance
from qtool.runtime.heartbeat import StepProgress, no_progress
from qtool.runtime.session import Model, running
from qtool.tables.judging import CLASSIFY

# The measures that are shares of units other than elements.
_UNITS = {"top1": "rows", "unchanged": "sequences", "agreement": "matchable"}


@dataclass(frozen=True)
class Comparison:
    """Two models over the samples of a source.

    Args:
        user_metrics: name -> value of task metrics, and mean over samples of the user's own functions.
        worst_samples: those on which the models differ most, the worst first.
    """

    data: str
    samples: int
    outputs: tuple[OutputMetrics, ...]
    accuracy: Accuracy | None = None
    user_metrics: Mapping[str, float] = field(default_factory=dict)
    worst_samples: tuple[WorstSample, ...] = ()

    def worst(self, measure: str, pick: Callable[..., float]) -> float:
        """Return the worst of a measure over the outputs that have it; nan if one is nan or none has it.

        Outputs without rows have no top1, those without sequences no share of unchanged ones. Where all rows
        were lost, nothing is left to judge: nan.
        """
        units = _UNITS.get(measure)
        if units is None:
            judged = [o for o in self.outputs if not o.exact and (o.count or o.lost or o.extra)]
        else:
            judged = [o for o in self.outputs if getattr(o, units)]
        values = [float(getattr(o, measure)) for o in judged]
        if not values or any(math.isnan(v) for v in values):
            return math.nan
        return pick(values)

    @property
    def caveats(self) -> tuple[str, ...]:
        """A line for each output that could not be judged."""
        lines = []
        for output in self.outputs:
            name = printable(output.name, 80)
            if not output.count:
                lost = (
                    f": {output.lost} of FP32, {output.extra} quantized" if output.lost + output.extra else ""
                )
                lines.append(f"output '{name}' is not judged: no sample has a row of it in both models{lost}")
            elif not output.exact and math.isnan(output.sqnr):
                lines.append(f"output '{name}' is not judged: values are finite in one of the models only")
        return tuple(lines)

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
        scored: output -> how argmax scores it.
        rows: output -> its rows, where their number depends on data.
        user_metrics: task metrics, and the user's own.
        tolerance: the difference up to which elements match.
    """

    labels: Labels | None = None
    user_metrics: Sequence[UserMetric | TaskPair] = ()
    tolerance: Tolerance = TOLERANCE
    scored: Mapping[str, Scored] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def stepwise(self) -> bool:
        """Whether a metric runs the models step by step."""
        return any(metric.stepped is not None for metric in self.user_metrics)

    def model(self, model: Model) -> Model:
        """Return the model with the outputs that the metrics need beside its own.

        Raises:
            QtoolError: it can't have them.
        """
        outputs = [metric.stepped for metric in self.user_metrics if metric.stepped is not None]
        return stepped(model, outputs[0]) if outputs else model


PLAIN = Measures()


def match_outputs(reference: list[str], other: list[str]) -> dict[str, str]:
    """Return FP32 output -> quantized output: by name, or by position when all names differ.

    Raises:
        ModelError: there is no such match.
    """
    if not any(map(is_stepped, other)):  # a file of outputs may hold those of single tokens, too
        reference = [name for name in reference if not is_stepped(name)]
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
        DataError: no samples, or samples that do not fit.
        ModelError: outputs that can't be matched, or differ in shape.
        RuntimeFailure: a model fails on a sample.
    """
    total = len(source)
    if not total:
        raise DataError(f"{source.name}: no samples to compare on")
    labels = measures.labels
    fp32, quantized = measures.model(fp32), measures.model(quantized)
    pairs = match_outputs(fp32.outputs, quantized.outputs)
    all_names = sorted(pairs, key=is_stepped)  # the scores of single steps come last: only metrics judge them
    names = [name for name in pairs if not is_stepped(name)]
    accumulators = [
        OutputAccumulator(name, fp32.output_shapes[name], measures.tolerance, measures.scored.get(name))
        for name in names
    ]
    truth = (
        None if labels is None else Truth(labels, [a.scored.axis if a.scored else -1 for a in accumulators])
    )
    worst = WorstSamples(names)
    for done, sample in enumerate(source.read(), start=1):
        inputs = fit(sample, fp32.inputs, fp32.input_dtypes, source.name)
        with running(fp32):
            expected = _expected(fp32, inputs, all_names, where(source.name, sample.name))
        inputs = fit(sample, quantized.inputs, quantized.input_dtypes, source.name)
        with running(quantized):
            actual = quantized.run(inputs, [pairs[n] for n in all_names])
        first, second = (dict(zip(all_names, arrays, strict=True)) for arrays in (expected, actual))
        expected, actual = expected[: len(names)], actual[: len(names)]
        matched = matches(measures.rows, names, expected, actual)
        for name, accumulator, a, b in zip(names, accumulators, expected, actual, strict=True):
            accumulator.add(sample.name, a, b, matched.get(name))
        worst.add(sample, inputs, expected, actual)
        for metric in measures.user_metrics:
            metric.add(sample.name, first, second, inputs)
        if truth is not None:
            truth.add(sample.name, expected, actual, where(source.name, sample.name))
        progress(done, total)
    accuracy = None
    if truth is not None and truth.output is not None:
        named = accumulators[truth.output]
        named.scored = named.scored or Scored(CLASSIFY)
        accuracy = truth.accuracy(names[truth.output])
    values = {name: value for metric in measures.user_metrics for name, value in metric.values().items()}
    metrics = tuple(accumulator.metrics() for accumulator in accumulators)
    return Comparison(source.name, total, metrics, accuracy, values, worst.samples)


def check_labelled(comparison: Comparison, measures: Measures) -> None:
    """Check that labels were given for some of the samples.

    Raises:
        DataError: there are labels, and no sample has one.
    """
    if measures.labels is not None and comparison.accuracy is None:
        raise DataError(
            f"{comparison.data}: no sample has a label", "labels are keyed by the samples' file names"
        )


def _expected(fp32: Model, inputs: Arrays, names: list[str], name: str) -> list[Any]:
    """The outputs of FP32; where a file of them lacks this sample, the error names it."""
    try:
        return fp32.run(inputs, names)
    except DataError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error
