"""Products: with constant weights, means and variances add up term by term; with activations, by counting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qtool.calibrate.analytic.call import Call, numbers
from qtool.calibrate.analytic.combine import ADD
from qtool.calibrate.analytic.curves import applied
from qtool.calibrate.analytic.many import averaged
from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.spread import Source, Spread, around, constant_spread, spread, unknown
from qtool.graph.view import constant

# Elements of a weight that are looked at in one go.
_BLOCK = 2**22


def product(x: Spread, w: NDArray[np.generic]) -> Spread:
    """x @ w for x of channels [.., K] or [.., 1] and w [.., K, N]: channels [.., N]."""
    x = x.aligned(max(len(x.channels), 2))
    if x.shares:
        return _mixed(x, constant_spread(w))
    step = max(1, _BLOCK // max(1, w.size // max(1, w.shape[-1])))
    parts = []
    for first in range(0, w.shape[-1], step):
        block = np.asarray(w[..., first : first + step], np.float64)
        parts.append(weighted(x, np.maximum(block, 0.0), np.minimum(block, 0.0), block, block**2))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[Spread]) -> Spread:
    """Blocks of channels put together along the last axis."""
    lo, hi = (np.concatenate([getattr(p, end) for p in parts], -1) for end in ("lo", "hi"))
    known = [p.values for p in parts if p.values is not None]
    values = np.concatenate(known, -1) if len(known) == len(parts) else None
    return spread(values, lo, hi, masked=any(p.masked for p in parts))


def weighted(x: Spread, plus: F64, minus: F64, sums: F64, squares: F64) -> Spread:
    """Rows x [.., 1 or M, K] times a matrix given by its parts, all [.., K, N].

    Args:
        plus, minus: its positive and its negative part, taps of a kernel added up.
        sums: what multiplies means.
        squares: what multiplies variances.
    """
    k = sums.shape[-2]
    lo, hi = (np.broadcast_to(b, (*b.shape[:-1], k)) for b in (x.lo, x.hi))
    low, high = _reach(lo, plus) + _reach(hi, minus), _reach(hi, plus) + _reach(lo, minus)
    if x.values is None:
        return unknown(low, high)
    mean, variance = (np.broadcast_to(m, (*m.shape[:-1], k)) for m in (x.mean, x.variance))
    return around(mean @ sums, variance @ squares, low, high, masked=x.masked)


def _reach(bound: F64, part: F64) -> F64:
    """bound @ part, where an infinite bound counts only for what is not multiplied by 0."""
    finite = np.isfinite(bound)
    made = np.asarray(np.where(finite, bound, 0.0) @ part)
    if finite.all():
        return made
    beyond = np.where(finite, 0.0, np.sign(bound)) @ part
    return np.where(beyond != 0, np.copysign(math.inf, beyond), made)


def _mixed(shares: Spread, rows: Spread) -> Spread:
    """Shares times rows [.., K, N]: one of the rows where a share is 0 or 1, else an average of many."""
    rows = rows.aligned(max(len(rows.channels), 2))
    rows = rows.pooled([len(rows.channels) - 2])
    rows = replace(rows, lo=np.minimum(rows.lo, 0.0), hi=np.maximum(rows.hi, 0.0), source=Source())
    picks = shares.values is not None and bool(np.isin(shares.values, (0.0, 1.0)).all())
    return rows if picks else averaged(rows, None)


def matmul(call: Call) -> Spread:
    """MatMul: a constant on either side, shares times anything, or two activations."""
    left, right = (constant(call.value(i)) for i in (0, 1))
    if right is not None and right.ndim >= 2:
        return product(call[0], right)
    if left is not None and left.ndim >= 2:
        return _turned(product(_turned(call[1]), np.swapaxes(left, -1, -2)))
    if min(call.rank(0) or 0, call.rank(1) or 0) < 2:
        return unknown()
    return _mixed(call[0], call[1]) if call[0].shares else _activations(call)


def _turned(x: Spread) -> Spread:
    """The last two axes exchanged."""
    x = x.aligned(max(len(x.channels), 2))
    values = None if x.values is None else np.swapaxes(x.values, -1, -2)
    lo, hi = np.swapaxes(x.lo, -1, -2), np.swapaxes(x.hi, -1, -2)
    return replace(x, lo=lo, hi=hi, values=values, shares=False)


def _activations(call: Call) -> Spread:
    """[.., M, K] @ [.., K, N] of independent elements; K must be known."""
    rank = max(len(call[0].channels), len(call[1].channels), 2)
    a, b = call[0].aligned(rank), call[1].aligned(rank)
    shapes = call.dims(0) or (None,), call.dims(1) or (None, None)
    k = shapes[0][-1] or shapes[1][-2] or max(a.channels[-1], b.channels[-2])
    if k == 1 and 1 not in (shapes[0][-1], shapes[1][-2]):
        return unknown()
    most = k * np.abs([a.lo, a.hi]).max() * np.abs([b.lo, b.hi]).max() if a.lo.size and b.lo.size else 0.0
    if a.values is None or b.values is None:
        return unknown(-most, most)
    wide, tall = (*a.channels[:-1], k), (*b.channels[:-2], k, b.channels[-1])
    mean_a, var_a = (np.broadcast_to(m, wide) for m in (a.mean, a.variance))
    mean_b, var_b = (np.broadcast_to(m, tall) for m in (b.mean, b.variance))
    mean = mean_a @ mean_b
    variance = (var_a + mean_a**2) @ (var_b + mean_b**2) - mean_a**2 @ mean_b**2
    return around(mean, variance, -most, most, masked=a.masked or b.masked)


def gemm(call: Call) -> Spread:
    """alpha A B + beta C, either transposed first."""
    a = _turned(call[0]) if call.whole("transA", 0) else call[0]
    w = constant(call.value(1))
    if w is None or w.ndim != 2:
        return unknown()
    made = product(a, w.T if call.whole("transB", 0) else w)
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    made = made if alpha == 1.0 else applied(lambda x: alpha * x, made)
    return ADD.of(made, applied(lambda x: beta * x, call[2])) if call.has(2) else made


def with_bias(call: Call, made: Spread, rank: int) -> Spread:
    """[O] channels of a convolution plus its bias, as channels [O, 1, ..] of an output of that rank."""
    bias = numbers(constant(call.value(2))) if call.has(2) else np.zeros(1)
    if bias is None:
        return unknown()
    made = applied(lambda x: x + bias.reshape(-1), made)
    return made.reshaped((-1, *(1,) * (rank - 2)))
