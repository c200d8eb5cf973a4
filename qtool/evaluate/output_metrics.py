"""The metrics of one output of two models, accumulated sample by sample."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.errors import ModelError, UsageError, printable
from qtool.evaluate.rows import Match
from qtool.evaluate.scored import Scored
from qtool.numerics import metrics
from qtool.numerics.metrics import Sums, Tolerance
from qtool.numerics.rows import match_rows
from qtool.numerics.sequences import SequenceCounts
from qtool.tables.judging import CLASSIFY, CTC

# Small outputs are measured in batches: numpy calls for each sample would cost as much as a small model.
_TOGETHER = 64
_ELEMENTS = 1 << 17
MAGNIFIED = 4
"""The factor of the errors by which `magnified` is counted."""


@dataclass(frozen=True)
class OutputMetrics:
    """One output over all samples. dB for SQNR; errors in the output's own unit; nan: can't be judged.

    Args:
        name: of the FP32 output.
        exact: the output holds no floats; only `unequal` and `count` mean something.
        sqnr: 10 log10(sum a^2 / sum d^2), pooled over all samples.
        sqnr_worst, worst_sample: that of the worst sample, and the sample's name.
        sqnr_mean: its mean over samples, without exact ones.
        top1: share of rows (last axis, or that of the Softmax at the end) with the same largest entry; of an
            output that ends in ArgMax, share of equal entries; nan where there are no rows.
        nonfinite: elements that are finite in FP32 and not in the quantized model.
        unequal: elements that differ, of integers, bools and strings.
        centred_sqnr: SQNR after the mean of a is subtracted from the signal.
        p99_error: the 99th percentile of |a - b|.
        mismatch: share of elements beyond the tolerance.
        top5: share of rows whose largest entry in FP32 is among the five largest.
        kl: mean over rows of KL(softmax(a) || softmax(b)), nats.
        sqnr_interval: the 95% interval of sqnr over samples; of a single sample, sqnr itself twice.
        task: a row of TASKS where the output is scored by argmax, else ''.
        sequences, unchanged: number of sequences if the task decides on them; the share that is unchanged.
        magnified: number of decisions (rows, or sequences) that change if all errors are MAGNIFIED times as
            large. Few samples show few changes, whose number grows with the error.
        matched, lost, extra: where the number of rows depends on data, the rows of both models, those of FP32
            alone and those of the quantized model alone. Other measures are of matched rows, but that lost
            and extra rows of integers count as unequal.
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
    sqnr_mean: float = math.nan
    sqnr_interval: tuple[float, float] = (math.nan, math.nan)
    task: str = ""
    sequences: int = 0
    unchanged: float = math.nan
    magnified: int = 0
    matched: int = 0
    lost: int = 0
    extra: int = 0

    @property
    def matchable(self) -> int:
        """Number of rows of both models together, where it depends on data."""
        return 2 * self.matched + self.lost + self.extra

    @property
    def agreement(self) -> float:
        """Share of rows that the other model has as well (F1); nan where there are none."""
        return 2 * self.matched / self.matchable if self.matchable else math.nan

    @property
    def agreement_interval(self) -> tuple[float, float]:
        """The 95% interval of agreement."""
        return _interval(self.agreement, self.matchable)

    @property
    def decisions(self) -> int:
        """Number of decisions where argmax scores the output: sequences, or rows."""
        return self.sequences or self.rows if self.task else 0

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95% interval of top1."""
        return _interval(self.top1, self.rows)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """The 95% interval of top5."""
        return _interval(self.top5, self.rows)

    @property
    def unchanged_interval(self) -> tuple[float, float]:
        """The 95% interval of unchanged."""
        return _interval(self.unchanged, self.sequences)


def _interval(share: float, total: int) -> tuple[float, float]:
    return metrics.wilson(round(share * total), total) if share == share else (0.0, 1.0)


class OutputAccumulator:
    """Accumulates the metrics of one output over samples.

    Args:
        name: of the FP32 output.
        declared: its shape in the FP32 model.
        tolerance: the difference up to which elements match.
        scored: how argmax scores it; None: it does not.
    """

    def __init__(
        self, name: str, declared: Sequence[Any], tolerance: Tolerance, scored: Scored | None = None
    ) -> None:
        self._name = name
        self._declared = declared
        self._tolerance = tolerance
        self.scored = scored
        self._sequences, self._magnified = SequenceCounts(), SequenceCounts()
        self._sums = Sums()
        self._exact = False
        self._worst, self._worst_sample = math.inf, ""
        self._db, self._judged = 0.0, 0
        self._energies = array("d")  # two numbers a sample
        self._waiting: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
        self._matched, self._lost, self._extra = 0, 0, 0

    def add(self, sample: str, a: Any, b: Any, match: Match | None = None) -> None:
        """Add a sample: the outputs of FP32 and of the quantized model, arrays or sequences of them.

        Where values decide the length of an axis (NonZero, NonMaxSuppression), the shapes may differ: then
        the rows that match are compared. Without a match, they are matched by their own values.

        Raises:
            ModelError: the outputs differ in shape, or length.
            UsageError: there is no such axis of classes.
        """
        if isinstance(a, list) or isinstance(b, list):
            self._add_sequence(sample, a, b)
            return
        x, y = np.asarray(a), np.asarray(b)
        if match is None and x.shape != y.shape:
            match = self._matched_by_itself(sample, x, y)
        if match is not None:
            x, y = self._take(match, x, y)
            if not x.size:
                return
        axis = -1 if self.scored is None else self.scored.axis
        if axis is not None and axis != -1:
            if not -x.ndim <= axis < x.ndim:
                raise UsageError(
                    f"--class-axis {axis}: output '{printable(self._name)}' has shape {x.shape}",
                    "it is the axis of the classes, counted from 0",
                )
            x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
        alike = all(
            (u.shape, u.dtype, v.dtype) == (x.shape, x.dtype, y.dtype) for _, u, v in self._waiting[:1]
        )
        if not alike or len(self._waiting) * x.size > _ELEMENTS or len(self._waiting) == _TOGETHER:
            self._measure()
        self._waiting.append((sample, x, y))

    def metrics(self) -> OutputMetrics:
        """Return all metrics over the samples added."""
        self._measure()
        s, counts = self._sums, self._sequences
        pooled = metrics.sqnr(s)
        task = "" if self.scored is None else self.scored.task or (CTC if counts.looks_like_ctc else CLASSIFY)
        total = counts.sequences if task not in ("", CLASSIFY) else 0
        same, stressed = (
            each.equal_collapsed if task == CTC else each.equal for each in (counts, self._magnified)
        )
        if not total:
            stressed = self._magnified.steps_equal
        return OutputMetrics(
            name=self._name,
            exact=self._exact,
            count=s.count,
            sqnr=pooled,
            sqnr_worst=self._worst if self._worst_sample else math.nan,
            worst_sample=self._worst_sample,
            sqnr_mean=self._mean_db(),
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
            sqnr_interval=metrics.sqnr_interval(pooled, np.array(self._energies).reshape(-1, 2)),
            task=task,
            sequences=total,
            unchanged=same / total if total and not s.nonfinite else math.nan,
            magnified=(total or s.rows) - stressed if task else 0,
            matched=self._matched,
            lost=self._lost,
            extra=self._extra,
        )

    def _mean_db(self) -> float:
        if not self._worst_sample:
            return math.nan
        return self._db / self._judged if self._judged else math.inf

    def _measure(self) -> None:
        """Measure the waiting batch."""
        if not self._waiting:
            return
        names, xs, ys = zip(*self._waiting, strict=True)
        self._waiting = []
        self._exact |= xs[0].dtype.kind != "f"
        x, y = np.stack(xs), np.stack(ys)
        sums, each = metrics.compare_stacks(x, y, self._tolerance)
        self._sums += sums if self.scored is None else self._decided(self.scored, x, y, sums)
        if xs[0].size:
            for name, energies in zip(names, each, strict=False):  # integers have none
                self._note(name, energies)

    def _decided(self, scored: Scored, x: NDArray[Any], y: NDArray[Any], sums: Sums) -> Sums:
        """Count the decisions of a batch [K, ..]; return its sums. Entries that are classes count as rows."""
        classes = scored.classes
        if scored.axis is None:
            agree = int(np.count_nonzero(x == y))
            sums = replace(sums, rows=x.size, rows_agree=agree, rows_top=agree, kl=0.0)
            stressed = y  # there are no errors to magnify
        elif x.ndim > 2 and x.shape[-1] > 1:
            classes = x.shape[-1]
            with np.errstate(invalid="ignore", over="ignore"):
                stressed = (x + MAGNIFIED * (y - x)).argmax(-1)
            x, y = x.argmax(-1), y.argmax(-1)
        if sums.rows:
            # Axes of length 1 do not count: [T, N, C] with N = 1 is one sequence. Classes are one, for speed.
            steps = next((n for n in reversed(x.shape[1:]) if n > 1), 1)
            steps = x.size if scored.task == CLASSIFY else steps
            a, b, c = (v.astype(np.int64).reshape(-1, steps) for v in (x, y, stressed))
            self._sequences.add(a, b, classes)
            self._magnified.add(a, c, classes)
        return sums

    def _note(self, sample: str, energies: tuple[float, float]) -> None:
        """Keep the energies of a sample, and its SQNR where it is the worst: NaN is worse than any number."""
        self._energies.extend(energies)
        db = metrics.sqnr_db(*energies)
        if math.isnan(db) or db < self._worst or not self._worst_sample:
            self._worst = db if not math.isnan(self._worst) else math.nan
            self._worst_sample = sample
        if db != math.inf:
            self._db += db
            self._judged += 1

    def _add_sequence(self, sample: str, a: Any, b: Any) -> None:
        self._measure()
        if not isinstance(a, list) or not isinstance(b, list) or len(a) != len(b):
            raise ModelError(
                f"output '{printable(self._name)}' is a sequence of another length on sample {sample}"
            )
        part = OutputAccumulator(self._name, self._declared, self._tolerance)
        for x, y in zip(a, b, strict=True):
            part.add(sample, x, y)
            part._measure()
        self._sums += part._sums
        self._exact |= part._exact
        if part._sums.count and not part._exact:
            self._note(sample, metrics.energies(part._sums))

    def _matched_by_itself(self, sample: str, x: NDArray[Any], y: NDArray[Any]) -> Match:
        """Match the rows of two arrays that differ in the length of one axis, which the model leaves open."""
        axes = [i for i, (m, n) in enumerate(zip(x.shape, y.shape, strict=False)) if m != n]
        if len(axes) != 1 or not _is_free(x.shape, y.shape, self._declared):
            raise ModelError(
                f"output '{printable(self._name)}' has shape {x.shape} in FP32, {y.shape} quantized, on "
                f"sample {sample}"
            )
        return Match(axes[0], *match_rows(*(np.moveaxis(v, axes[0], 0) for v in (x, y))))

    def _take(self, match: Match, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the matching rows; count them and the others."""
        lost, extra = (n - len(match.first) for n in (x.shape[match.axis], y.shape[match.axis]))
        self._matched, self._lost = self._matched + len(match.first), self._lost + lost
        self._extra += extra
        if x.dtype.kind != "f":
            self._exact = True
            row = math.prod(n for i, n in enumerate(x.shape) if i != match.axis)
            self._sums += Sums(count=(lost + extra) * row, unequal=(lost + extra) * row)
        return match.take(x, y)


def _is_free(a: Sequence[int], b: Sequence[int], declared: Sequence[Any]) -> bool:
    """Whether two shapes differ only in axes whose length the model leaves open."""
    return len(a) == len(b) == len(declared) and not any(
        x != y and isinstance(axis, int) for x, y, axis in zip(a, b, declared, strict=True)
    )
