"""Run two models over the same samples and measure how far apart their outputs are, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Source, where
from qtool.errors import DataError, ModelError, printable
from qtool.numerics import metrics
from qtool.numerics.metrics import TOLERANCE, Sums, Tolerance
from qtool.session import Model, running
from qtool.validate.labels import Labels, label_of, predict
from qtool.validate.tasks import Task

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OutputMetrics:
    """One output over all samples. dB for SQNR; errors in the output's own unit; nan: can't be judged.

    Args:
        name: of the FP32 output.
        exact: the output holds no floats; only `unequal` and `count` mean something.
        sqnr: 10 log10(sum a^2 / sum d^2), pooled over all samples.
        sqnr_worst, worst_sample: the same of the worst sample, and which it was.
        top1: share of rows (last axis) with the same largest entry; nan where there are no rows.
        nonfinite: elements that are finite in FP32 and not in the quantized model.
        unequal: elements that differ, where only equality can be asked.
        centred_sqnr: SQNR where an offset common to all of a is no signal.
        p99_error: what 99% of |a - b| do not exceed.
        mismatch: share of elements beyond the tolerance.
        top5: share of rows whose largest entry in FP32 is among the five largest.
        kl: mean over rows of KL(softmax(a) || softmax(b)), nats.
    """

    name: str
    exact: bool
    count: int
    sqnr: float
    sqnr_worst: float
    worst_sample: str
    cosine: float
    relative_l2: float
    max_error: float
    mean_error: float
    top1: float
    rows: int
    nonfinite: int
    unequal: int
    centred_sqnr: float = math.nan
    p99_error: float = math.nan
    mismatch: float = math.nan
    top5: float = math.nan
    kl: float = math.nan

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95% interval of top1."""
        return self._interval(self.top1)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """The 95% interval of top5."""
        return self._interval(self.top5)

    def _interval(self, share: float) -> tuple[float, float]:
        return metrics.wilson(round(share * self.rows), self.rows) if share == share else (0.0, 1.0)


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
    source: Source,
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
    pooled = {name: Sums() for name in names}
    worst: dict[str, tuple[float, str]] = dict.fromkeys(names, (math.inf, ""))
    exact = dict.fromkeys(names, False)
    hits, judged = np.zeros(2, np.int64), 0
    for done, sample in enumerate(source.read(), start=1):
        inputs = fit(sample, fp32.inputs, fp32.input_dtypes, source.name)
        with running(fp32):
            expected = _expected(fp32, inputs, names, where(source.name, sample.name))
        inputs = fit(sample, quantized.inputs, quantized.input_dtypes, source.name)
        with running(quantized):
            got = quantized.run(inputs, [pairs[n] for n in names])
        for name, a, b in zip(names, expected, got, strict=True):
            place = _Where(name, sample.name, fp32.output_shapes[name], measures.tolerance)
            sums, kind_exact = _sums(place, a, b)
            exact[name] |= kind_exact
            pooled[name] += sums
            db = metrics.sqnr(sums)
            if (
                sums.count
                and not kind_exact
                and (math.isnan(db) or db < worst[name][0] or not worst[name][1])
            ):
                worst[name] = (db if not math.isnan(worst[name][0]) else math.nan, sample.name)
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
    outputs = tuple(_output(name, pooled[name], worst[name], exact[name]) for name in names)
    return Comparison(source.name, total, outputs, accuracy, {t.name: t.mean for t in measures.tasks})


def _expected(fp32: Model, inputs: Arrays, names: list[str], name: str) -> list[Any]:
    """What FP32 gives; if it comes from a file that lacks it, the sample is named."""
    try:
        return fp32.run(inputs, names)
    except DataError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error


def _output(name: str, s: Sums, worst: tuple[float, str], exact: bool) -> OutputMetrics:
    return OutputMetrics(
        name=name,
        exact=exact,
        count=s.count,
        sqnr=metrics.sqnr(s),
        sqnr_worst=worst[0] if worst[1] else math.nan,
        worst_sample=worst[1],
        cosine=metrics.cosine(s),
        relative_l2=metrics.relative_l2(s),
        max_error=metrics.max_error(s),
        mean_error=metrics.mean_error(s),
        top1=metrics.top1_agreement(s),
        rows=s.rows,
        nonfinite=s.nonfinite,
        unequal=s.unequal,
        centred_sqnr=metrics.centred_sqnr(s),
        p99_error=metrics.p99_error(s),
        mismatch=metrics.mismatch(s),
        top5=metrics.top5_agreement(s),
        kl=metrics.softmax_divergence(s),
    )


@dataclass(frozen=True)
class _Where:
    """Which output of which sample, and its declared shape; and what counts as a match there."""

    name: str
    sample: str
    declared: Sequence[Any]
    tolerance: Tolerance


def _sums(where: _Where, a: Any, b: Any) -> tuple[Sums, bool]:
    """The sums of one output of one sample, and whether it holds no floats.

    Where values decide how long an axis is (NonZero, NonMaxSuppression), two models may differ in that:
    all elements are then unequal, and nothing else can be said of them.
    """
    if isinstance(a, list) or isinstance(b, list):  # a sequence of tensors
        if not isinstance(a, list) or not isinstance(b, list) or len(a) != len(b):
            raise ModelError(
                f"output '{printable(where.name)}' is a sequence of another length on sample {where.sample}"
            )
        total, exact = Sums(), False
        for x, y in zip(a, b, strict=True):
            sums, one_exact = _sums(where, x, y)
            total, exact = total + sums, exact or one_exact
        return total, exact
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape and _is_free(x.shape, y.shape, where.declared):
        larger = max(x.size, y.size)
        return Sums(count=larger, unequal=larger), x.dtype.kind != "f"
    if x.shape != y.shape:
        raise ModelError(
            f"output '{printable(where.name)}' has shape {x.shape} in FP32, {y.shape} quantized, on sample "
            f"{where.sample}"
        )
    return metrics.compare_arrays(x, y, where.tolerance), x.dtype.kind != "f"


def _is_free(a: Sequence[int], b: Sequence[int], declared: Sequence[Any]) -> bool:
    """Whether two shapes differ in nothing but axes whose length the model leaves open."""
    return len(a) == len(b) == len(declared) and not any(
        x != y and isinstance(known, int) for x, y, known in zip(a, b, declared, strict=True)
    )
