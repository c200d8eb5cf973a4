"""How far one tensor is from another: sums that add up over samples, and what they mean.

Everything is float64. With a = the FP32 output, b = the quantized one and d = a - b:
SQNR dB = 10 log10(sum a^2 / sum d^2). Identical is inf; a zero `a` with a nonzero d is -inf;
a non-finite value in b where a is finite makes every measure nan, so that no gate passes on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sums:
    """What one or more pairs of tensors add up to; `+` pools.

    count is of all elements, measured of those that the sums are over.
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

    def __add__(self, other: Sums) -> Sums:
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
        )


def compare_arrays(a: NDArray[np.generic], b: NDArray[np.generic]) -> Sums:
    """The sums of one pair of equally shaped arrays.

    Floating arrays are measured over the elements where `a` is finite (a mask of -inf tells nothing
    about precision, but b must agree with it). Others count unequal elements only.
    `rows` are the vectors along the last axis, where it has more than one entry: top-1 agreement.
    """
    if a.dtype.kind != "f":
        return Sums(count=a.size, unequal=int(np.count_nonzero(a != b)))
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    nonfinite = int(np.count_nonzero(finite & ~np.isfinite(y)))
    with np.errstate(invalid="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
    unequal = int(np.count_nonzero(~same & ~finite))
    rows = agree = 0
    if a.ndim >= 2 and a.shape[-1] > 1 and a.size:
        rows = math.prod(a.shape[:-1])
        agree = int(np.count_nonzero(x.argmax(-1) == y.argmax(-1)))
    fx, fy = x[finite], y[finite]
    with np.errstate(over="ignore", invalid="ignore"):
        d = fx - fy
        return Sums(
            count=a.size,
            measured=fx.size,
            aa=float(fx @ fx),
            bb=float(fy @ fy),
            ab=float(fx @ fy),
            dd=float(d @ d),
            d_abs=float(np.abs(d).sum()),
            d_max=float(np.abs(d).max(initial=0.0)),
            nonfinite=nonfinite,
            unequal=unequal,
            rows=rows,
            rows_agree=agree,
        )


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; inf for no noise, -inf for no signal, else nan."""
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
    """Whether measures mean anything: something was compared, and b is finite where a is and only there."""
    return bool(s.count) and not s.nonfinite and not s.unequal


def sqnr(s: Sums) -> float:
    """SQNR of pooled sums in dB."""
    return sqnr_db(s.aa, s.dd) if judgeable(s) else math.nan


def cosine(s: Sums) -> float:
    """a.b / (|a| |b|); 1 for two zero tensors, nan when only one is zero."""
    if not judgeable(s):
        return math.nan
    if s.aa == 0 and s.bb == 0:
        return 1.0
    if s.aa == 0 or s.bb == 0:
        return math.nan
    return s.ab / math.sqrt(s.aa) / math.sqrt(s.bb)


def relative_l2(s: Sums) -> float:
    """|a - b| / |a|."""
    if not judgeable(s):
        return math.nan
    if s.aa == 0:
        return 0.0 if s.dd == 0 else math.inf
    return math.sqrt(s.dd) / math.sqrt(s.aa)


def max_error(s: Sums) -> float:
    """The largest |a - b|."""
    return s.d_max if judgeable(s) else math.nan


def mean_error(s: Sums) -> float:
    """The mean |a - b| over the elements where a is finite; 0 where there are none."""
    return s.d_abs / max(s.measured, 1) if judgeable(s) else math.nan


def top1_agreement(s: Sums) -> float:
    """The share of rows (last axis) whose largest entry is the same; nan where there are none."""
    return s.rows_agree / s.rows if s.rows and not s.nonfinite else math.nan


def weight_sqnr(w: NDArray[np.floating], restored: NDArray[np.floating]) -> float:
    """SQNR in dB of a weight against what its integers restore."""
    d = w.astype(np.float64) - restored.astype(np.float64)
    return sqnr_db(float(np.square(w, dtype=np.float64).sum()), float(np.square(d).sum()))
