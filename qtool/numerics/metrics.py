"""Distances between two tensors: sums that pool over samples, and the metrics made of them.

Everything is float64. With a = the FP32 output, b = the quantized one and d = a - b:
SQNR dB = 10 log10(sum a^2 / sum d^2). Identical is inf; a zero `a` with a nonzero d is -inf;
a non-finite value in b where a is finite makes every measure nan, so that no gate passes on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.bootstrap import log_ratio_half_width

# An error's bin is the upper half of its float32: 2**-7 = 0.8% wide.
_ERROR_SHIFT = 16
_TOP = 5
# Up to this length, rows are compared faster entry by entry.
_NARROW = 16
_Z95 = 1.959964
# The energies of a sample that can't be judged.
UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Tolerance:
    """An element matches where |a - b| <= atol + rtol * |a|, as in numpy.isclose."""

    atol: float = 1e-3
    rtol: float = 1e-2


TOLERANCE = Tolerance()


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums over one or more pairs of tensors; `+` pools.

    Args:
        count: of all elements.
        measured: elements in the sums: those where a is finite.
        a_mean, a_spread: the mean of a, and the sum of its squared deviations from that.
        mismatched: elements beyond the tolerance.
        rows, rows_agree, rows_top: vectors along the last axis; those whose largest entry is at the same
            place; those whose largest entry in FP32 is among the five largest.
        kl: sum over rows of KL(softmax(a) || softmax(b)), nats.
        errors: int64, the count of |a - b| in each bin; empty for none.
    """

    count: int = 0
    measured: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    d_abs: float = 0.0
    d_max: float = 0.0
    nonfinite: int = 0
    unequal: int = 0
    rows: int = 0
    rows_agree: int = 0
    rows_top: int = 0
    a_mean: float = 0.0
    a_spread: float = 0.0
    mismatched: int = 0
    kl: float = 0.0
    errors: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __add__(self, other: Sums) -> Sums:
        measured = max(self.measured + other.measured, 1)
        shift = other.a_mean - self.a_mean
        return Sums(
            self.count + other.count,
            self.measured + other.measured,
            self.aa + other.aa,
            self.bb + other.bb,
            self.ab + other.ab,
            self.dd + other.dd,
            self.d_abs + other.d_abs,
            max(self.d_max, other.d_max),
            self.nonfinite + other.nonfinite,
            self.unequal + other.unequal,
            self.rows + other.rows,
            self.rows_agree + other.rows_agree,
            self.rows_top + other.rows_top,
            # Chan, Golub and LeVeque 1983: sums of squares would cancel where the mean is large.
            self.a_mean + shift * other.measured / measured,
            self.a_spread + other.a_spread + shift**2 * self.measured * other.measured / measured,
            self.mismatched + other.mismatched,
            self.kl + other.kl,
            _added(self.errors, other.errors),
        )


def _added(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of two rows of counts of any lengths."""
    longer, shorter = (a, b) if a.size >= b.size else (b, a)
    total = longer.copy()
    total[: shorter.size] += shorter
    return total


def compare_stacks(
    a: NDArray[np.generic], b: NDArray[np.generic], tolerance: Tolerance = TOLERANCE
) -> tuple[Sums, list[tuple[float, float]]]:
    """Return the sums of two arrays of one shape, and the energies of each sample: an index of axis 0.

    The energies are (sum a^2, sum d^2); nan and nan where the sample can't be judged. Integers have none.

    Floating arrays are measured over the elements where `a` is finite (a mask of -inf tells nothing
    about precision, but b must agree with it). Others count unequal elements only.
    `rows` are the vectors along the last axis of a sample that has two axes or more, and more than one entry
    along that: top-1 agreement.
    """
    if a.dtype.kind != "f":
        return Sums(count=a.size, unequal=int(np.count_nonzero(a != b))), []
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    all_finite = bool(finite.all())
    nonfinite = _each(finite & ~np.isfinite(y))
    unequal = np.zeros_like(nonfinite)
    if not all_finite:
        with np.errstate(invalid="ignore"):
            unequal = _each(~((x == y) | (np.isnan(x) & np.isnan(y)) | finite))
    rows = agree = top = 0
    kl = 0.0
    if a.ndim > 2 and a.shape[-1] > 1 and a.size:
        rows = math.prod(a.shape[:-1])
        agree, top, kl = _of_rows(x.reshape(rows, -1), y.reshape(rows, -1))
    if not all_finite:  # elements that are not measured add 0
        x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    measured = int(np.count_nonzero(finite))
    with np.errstate(over="ignore", invalid="ignore"):
        d = x - y
        size = np.abs(d)
        # Not by BLAS: a product of two vectors is not worth its threads, and waits for them.
        aa, dd = _each(np.square(x)), _each(np.square(d))
        mean = float(x.sum()) / max(measured, 1)
        spread = np.square(x - mean) if all_finite else np.where(finite, np.square(x - mean), 0.0)
        close = size <= tolerance.atol + tolerance.rtol * np.abs(x)
        errors = np.bincount(size.astype(np.float32).view(np.uint32).reshape(-1) >> _ERROR_SHIFT)
        if errors.size:
            errors[0] -= x.size - measured
        sums = Sums(
            count=a.size,
            measured=measured,
            aa=float(aa.sum()),
            bb=float(np.square(y).sum()),
            ab=float((x * y).sum()),
            dd=float(dd.sum()),
            d_abs=float(size.sum()),
            d_max=float(size.max(initial=0.0)),
            nonfinite=int(nonfinite.sum()),
            unequal=int(unequal.sum()),
            rows=rows,
            rows_agree=agree,
            rows_top=top,
            a_mean=mean,
            a_spread=float(spread.sum()),
            mismatched=int(np.count_nonzero(~close)),  # NaN counts as beyond
            kl=kl,
            errors=errors.astype(np.int64),
        )
    judged = (nonfinite == 0) & (unequal == 0) & (a[0].size > 0 if len(a) else False)
    each = zip(aa.tolist(), dd.tolist(), np.broadcast_to(judged, aa.shape).tolist(), strict=True)
    return sums, [(signal, noise) if fine else UNKNOWN for signal, noise, fine in each]


def _each(x: NDArray[Any]) -> NDArray[Any]:
    """Return the sum over each sample, [K, ..] -> [K]."""
    return np.asarray(x.reshape(len(x), -1).sum(axis=1))


def _of_rows(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int, float]:
    """Compare rows [R, C].

    Returns:
        the count of rows with the same largest entry; the count with the largest entry of x among the five
        largest of y, ties included; the sum of KL(softmax(x) || softmax(y)) in nats, nan where a row has no
        softmax.
    """
    # The first entries of all rows, then the second ones ..: along a short axis, numpy is slow.
    x, y = (np.ascontiguousarray(v.T) for v in (x, y))
    best = _largest(x)
    agree = int(np.count_nonzero(best == _largest(y)))
    above = (y > np.take_along_axis(y, best[None], 0)).sum(0)
    with np.errstate(all="ignore"):
        p, q = (v - v.max(0) for v in (x, y))
        p, q = (v - np.log(np.exp(v).sum(0)) for v in (p, q))
        share = np.exp(p)
        # An entry of probability 0 adds nothing, whatever its probability in the other.
        kl = float(np.where(share == 0, 0.0, share * (p - q)).sum())
    return agree, int(np.count_nonzero(above < _TOP)), kl


def _largest(x: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the largest entry along the first axis, the first of ties; NaN is the largest."""
    if len(x) > _NARROW:
        return np.asarray(x.argmax(0))
    best, top = np.zeros(x.shape[1:], np.intp), x[0].copy()
    for index in range(1, len(x)):
        larger = ~(x[index] <= top) & ~np.isnan(top)
        best[larger] = index
        np.copyto(top, x[index], where=larger)
    return best


def sqnr_db(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise) of sums of squares; inf for no noise, -inf for no signal, else nan."""
    if math.isnan(signal) or math.isnan(noise):
        return math.nan
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    if math.isinf(noise):
        return math.nan
    return 10 * (math.log10(signal) - math.log10(noise))  # their ratio may overflow


def judgeable(s: Sums) -> bool:
    """Return whether metrics are defined: there are elements, and b is finite exactly where a is."""
    return bool(s.count) and not s.nonfinite and not s.unequal


def sqnr(s: Sums) -> float:
    """Return the SQNR of pooled sums in dB."""
    return sqnr_db(s.aa, s.dd) if judgeable(s) else math.nan


def energies(s: Sums) -> tuple[float, float]:
    """Return (sum a^2, sum d^2); nan and nan where the sums can't be judged."""
    return (s.aa, s.dd) if judgeable(s) else UNKNOWN


def sqnr_interval(db: float, energies: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of a pooled SQNR over samples like these, in dB.

    Args:
        db: the pooled SQNR.
        energies: [n, 2], (sum a^2, sum d^2) of each sample.

    Returns:
        low and high. Both are `db` where that is not finite (every sample is exact, or one can't be judged),
        and for a single sample.
    """
    if not math.isfinite(db) or len(energies) < 2:
        return db, db
    half = 10 / math.log(10) * log_ratio_half_width(energies[:, 0], energies[:, 1])
    return db - half, db + half


def centred_sqnr(s: Sums) -> float:
    """Return 10 log10(sum (a - mean a)^2 / sum d^2) in dB: an offset common to all of a is no signal."""
    return sqnr_db(s.a_spread, s.dd) if judgeable(s) else math.nan


def cosine(s: Sums) -> float:
    """Return a.b / (|a| |b|); 1 for two zero tensors, nan when only one is zero."""
    if not judgeable(s):
        return math.nan
    if s.aa == 0 and s.bb == 0:
        return 1.0
    if s.aa == 0 or s.bb == 0:
        return math.nan
    return s.ab / math.sqrt(s.aa) / math.sqrt(s.bb)


def relative_l2(s: Sums) -> float:
    """Return |a - b| / |a|."""
    if not judgeable(s):
        return math.nan
    if s.aa == 0:
        return 0.0 if s.dd == 0 else math.inf
    return math.sqrt(s.dd) / math.sqrt(s.aa)


def max_error(s: Sums) -> float:
    """Return the largest |a - b|."""
    return s.d_max if judgeable(s) else math.nan


def mean_error(s: Sums) -> float:
    """Return the mean |a - b| over the elements where a is finite; 0 where there are none."""
    return s.d_abs / max(s.measured, 1) if judgeable(s) else math.nan


def p99_error(s: Sums) -> float:
    """Return the 99% quantile of |a - b|, to 1%; 0 where nothing was measured."""
    if not judgeable(s):
        return math.nan
    if not s.measured:
        return 0.0
    bin_ = int(np.searchsorted(np.cumsum(s.errors), 0.99 * s.measured))
    ends = (np.array([bin_, bin_ + 1], np.uint32) << _ERROR_SHIFT).view(np.float32)
    return min(float(ends.astype(np.float64).mean()), s.d_max) if bin_ else 0.0


def mismatch(s: Sums) -> float:
    """Return the share of elements beyond the tolerance; 0 where nothing was measured."""
    return s.mismatched / max(s.measured, 1) if judgeable(s) else math.nan


def softmax_divergence(s: Sums) -> float:
    """Return the mean over rows of KL(softmax(a) || softmax(b)), nats; nan where there are no rows."""
    return s.kl / s.rows if s.rows and judgeable(s) else math.nan


def top5_agreement(s: Sums) -> float:
    """Return the share of rows whose largest entry in FP32 is among the five largest; nan without rows."""
    return s.rows_top / s.rows if s.rows and not s.nonfinite else math.nan


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return the 95% score interval of a share (Wilson 1927); 0..1 for a share of nothing."""
    if not of:
        return 0.0, 1.0
    share, z2 = hits / of, _Z95**2
    middle = share + z2 / (2 * of)
    spread = _Z95 * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max(0.0, (middle - spread) / (1 + z2 / of)), min(1.0, (middle + spread) / (1 + z2 / of))


def top1_agreement(s: Sums) -> float:
    """Return the share of rows (last axis) whose largest entry is the same; nan where there are none."""
    return s.rows_agree / s.rows if s.rows and not s.nonfinite else math.nan
