"""Numbers of other kinds, on their way to floats: truth, indices, shapes, counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.nodes import Z
from qtool.calibrate.analytic.spread import BOUNDED, Spread, constant_spread, spread, uniform, unknown

_FLOAT16_MAX = 65504.0
_ROUNDED = 2.0**-8  # of bfloat16, the coarser one


def truth(call: Call) -> Spread:
    """Comparisons and logic: 0 or 1."""
    return _either()


def _either() -> Spread:
    return spread((Z > 0).astype(np.float64), 0.0, 1.0, BOUNDED)


def equal(call: Call) -> Spread:
    """Equal. Against distinct constants along the last axis it is a one-hot row: shares of 1."""
    for constant_index in (0, 1):
        choices = call.constant(constant_index)
        compared = call.dims(1 - constant_index)
        if choices is None or not choices.ndim or compared is None or compared[-1:] != (1,):
            continue
        rows = choices.reshape(-1, choices.shape[-1])
        if all(np.unique(row).size == row.size for row in rows):
            return replace(truth(call), shares=True)
    return truth(call)


def one_hot(call: Call) -> Spread:
    """OneHot: one of its two values, which are off and on."""
    values = call.constant(2)
    if values is None:
        return unknown()
    last = call.whole("axis", -1) == -1 and values.tolist() == [0.0, 1.0]
    either = np.where(Z > 0, values.max(), values.min())
    return replace(spread(either, values.min(), values.max(), BOUNDED), shares=last)


def shape(call: Call) -> Spread:
    """Shape: the numbers themselves, where they are static."""
    dims = call.dims()
    if dims is None or call.whole("start", 0) or "end" in call.node.attributes:
        return unknown(0.0)
    known = [d for d in dims if d is not None]
    return constant_spread(np.asarray(known, np.float64)) if len(known) == len(dims) else unknown(0.0)


def filled(call: Call) -> Spread:
    """ConstantOfShape: one number."""
    found = call.node.attributes.get("value")
    return constant_spread(np.zeros(()) if found is None else found.as_tensor().numpy().reshape(()))


def counted(call: Call) -> Spread:
    """Range: between its start and its limit."""
    start, limit = call[0], call[1]
    return uniform(np.minimum(start.lo, limit.lo), np.maximum(start.hi, limit.hi))


def cast(call: Call) -> Spread:
    """Cast: the same numbers, cut off to integers, or rounded to a short float."""
    x = call[0]
    to = ir.DataType(call.whole("to", int(ir.DataType.FLOAT)))
    if to == ir.DataType.BOOL:
        return _either()
    if to in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return x
    if to in (ir.DataType.INT32, ir.DataType.INT64):
        least, most = np.minimum(np.floor(x.lo), 0.0), np.maximum(np.ceil(x.hi), 0.0)
        return spread(x.values, least, most, x.basis, masked=x.masked)
    if to in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        holds = _FLOAT16_MAX if to == ir.DataType.FLOAT16 else math.inf
        lo, hi = (end + sign * np.abs(end) * _ROUNDED for end, sign in ((x.lo, -1.0), (x.hi, 1.0)))
        lo, hi = np.where(lo < -holds, -math.inf, lo), np.where(hi > holds, math.inf, hi)
        return spread(x.values, lo, hi, x.basis, x.source, masked=x.masked)
    return unknown()
