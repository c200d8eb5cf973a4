"""Conv and ConvTranspose: a product over input channels, and over taps that see neighbours."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.linear import weighted, with_bias
from qtool.calibrate.analytic.many import TOGETHER
from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.spread import Spread, any_of, unknown

_MOST_PHASES = 64


def convolution(call: Call) -> Spread:
    """Conv with a constant weight [O, I/g, *kernel]."""
    w, group = call.constant(1), call.whole("group", 1)
    if w is None or w.ndim < 3:
        return unknown()
    outputs, inputs = w.shape[:2]
    x = _grouped(call[0], w.ndim, group, inputs)
    if _pads(call):
        x = _or_zero(x)
    taps = w.reshape(group, outputs // group, inputs, -1).transpose(0, 2, 1, 3)
    return with_bias(call, _over_taps(x, taps), w.ndim)


def transposed(call: Call) -> Spread:
    """ConvTranspose, weight [I, O/g, *kernel] constant: each phase of the stride has taps of its own."""
    w, group = call.constant(1), call.whole("group", 1)
    if w is None or w.ndim < 3:
        return unknown()
    inputs, outputs = w.shape[0] // group, w.shape[1]
    x = _or_zero(_grouped(call[0], w.ndim, group, inputs))  # at the edges some taps see nothing
    taps = w.reshape(group, inputs, outputs, *w.shape[2:])
    spatial = w.ndim - 2
    strides = call.attribute_ints("strides") or [1] * spatial
    dilations = call.attribute_ints("dilations") or [1] * spatial
    if math.prod(strides) > _MOST_PHASES:
        return unknown()
    phases = []
    for residues in itertools.product(*(range(s) for s in strides)):
        chosen = taps
        for axis, (r, s, d) in enumerate(zip(residues, strides, dilations, strict=True)):
            seen = [k for k in range(w.shape[axis + 2]) if k * d % s == r]
            chosen = np.take(chosen, seen, axis + 3)
        phases.append(_over_taps(x, chosen.reshape(group, inputs, outputs, -1)))
    return with_bias(call, any_of(phases), w.ndim)


def _grouped(x: Spread, rank: int, group: int, inputs: int) -> Spread:
    """The channels [1, C, 1, ..] of an input as rows [group, 1, inputs]; all alike as [1, 1, 1]."""
    x = x.aligned(rank).pooled([a for a in range(rank) if a != 1])
    return (
        x.reshaped((group, 1, inputs)) if x.channels[1] == group * inputs else x.scalar().reshaped((1, 1, 1))
    )


def _over_taps(x: Spread, taps: F64) -> Spread:
    """Rows [group, 1, I] times taps [group, I, O, T]: channels [group * O]."""
    plus, minus, sums = np.maximum(taps, 0.0).sum(-1), np.minimum(taps, 0.0).sum(-1), taps.sum(-1)
    squares = TOGETHER * sums**2 + (1.0 - TOGETHER) * (taps**2).sum(-1)
    return weighted(x, plus, minus, sums, squares).reshaped((-1,))


def _or_zero(x: Spread) -> Spread:
    """Padding is 0 for the bounds; it is too rare to move the moments."""
    return replace(x, lo=np.minimum(x.lo, 0.0), hi=np.maximum(x.hi, 0.0))


def _pads(call: Call) -> bool:
    pads = call.attribute_ints("pads")
    return call.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(pads or [])
