"""The metrics of one output of two models, accumulated sample by sample."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.errors import ModelError, printable
from qtool.numerics import metrics
from qtool.numerics.metrics import Sums, Tolerance

# Small outputs are measured in batches: numpy calls for each sample would cost as much as a small model.
_TOGETHER = 64
_ELEMENTS = 1 << 17


@dataclass(frozen=True)
class OutputMetrics:
    """One output over all samples. dB for SQNR; errors in the output's own unit; nan: can't be judged.

    Args:
        name: of the FP32 output.
        exact: the output holds no floats; only `unequal` and `count` mean something.
        sqnr: 10 log10(sum a^2 / sum d^2), pooled over all samples.
        sqnr_worst, worst_sample: that of the worst sample, and the sample's name.
        sqnr_mean: its mean over samples, without exact ones.
        top1: share of rows (last axis) with the same largest entry; nan where there are no rows.
        nonfinite: elements that are finite in FP32 and not in the quantized model.
        unequal: elements that differ, of integers, bools and strings.
        centred_sqnr: SQNR after the mean of a is subtracted from the signal.
        p99_error: the 99th percentile of |a - b|.
        mismatch: share of elements beyond the tolerance.
        top5: share of rows whose largest entry in FP32 is among the five largest.
        kl: mean over rows of KL(softmax(a) || softmax(b)), nats.
        sqnr_interval: the 95% interval of sqnr over samples; of a single sample, sqnr itself twice.
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


class OutputAccumulator:
    """Accumulates the metrics of one output over samples.

    Args:
        name: of the FP32 output.
        declared: its shape in the FP32 model.
        tolerance: the difference up to which elements match.
    """

    def __init__(self, name: str, declared: Sequence[Any], tolerance: Tolerance) -> None:
        self._name = name
        self._declared = declared
        self._tolerance = tolerance
        self._sums = Sums()
        self._exact = False
        self._worst, self._worst_sample = math.inf, ""
        self._db, self._judged = 0.0, 0
        self._energies = array("d")  # two numbers a sample
        self._waiting: list[tuple[str, NDArray[Any], NDArray[Any]]] = []

    def add(self, sample: str, a: Any, b: Any) -> None:
        """Add a sample: the outputs of FP32 and of the quantized model, arrays or sequences of them.

        Where values decide the length of an axis (NonZero, NonMaxSuppression), the shapes may differ: then
        all elements count as unequal, and the sample has no SQNR.

        Raises:
            ModelError: the outputs differ in shape, or length.
        """
        if isinstance(a, list) or isinstance(b, list):
            self._add_sequence(sample, a, b)
            return
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape:
            self._add_other_shape(sample, x, y)
            return
        alike = all(
            (u.shape, u.dtype, v.dtype) == (x.shape, x.dtype, y.dtype) for _, u, v in self._waiting[:1]
        )
        if not alike or len(self._waiting) * x.size > _ELEMENTS or len(self._waiting) == _TOGETHER:
            self._measure()
        self._waiting.append((sample, x, y))

    def metrics(self) -> OutputMetrics:
        """Return all metrics over the samples added."""
        self._measure()
        s = self._sums
        pooled = metrics.sqnr(s)
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
        sums, each = metrics.compare_stacks(np.stack(xs), np.stack(ys), self._tolerance)
        self._sums += sums
        if xs[0].size:
            for name, energies in zip(names, each, strict=False):  # integers have none
                self._note(name, energies)

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

    def _add_other_shape(self, sample: str, x: NDArray[Any], y: NDArray[Any]) -> None:
        if not _is_free(x.shape, y.shape, self._declared):
            raise ModelError(
                f"output '{printable(self._name)}' has shape {x.shape} in FP32, {y.shape} quantized, on "
                f"sample {sample}"
            )
        larger = max(x.size, y.size)
        self._sums += Sums(count=larger, unequal=larger)
        self._exact |= x.dtype.kind != "f"
        if x.dtype.kind == "f":
            self._note(sample, metrics.UNKNOWN)


def _is_free(a: Sequence[int], b: Sequence[int], declared: Sequence[Any]) -> bool:
    """Whether two shapes differ only in axes whose length the model leaves open."""
    return len(a) == len(b) == len(declared) and not any(
        x != y and isinstance(axis, int) for x, y, axis in zip(a, b, declared, strict=True)
    )
