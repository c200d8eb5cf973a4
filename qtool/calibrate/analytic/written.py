"""Norms and shares that an exporter wrote out in small ops: recognized by what they divide by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.calibrate.analytic.call import dims, numbers
from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.norms import scaled, standard
from qtool.calibrate.analytic.spread import BOUNDED, Spread, uniform
from qtool.graph.view import constant, is_op

_STEPS = 12
_UNKNOWN_LENGTH = 64
_NEVER_NEGATIVE = ("Exp", "Relu", "Sigmoid", "Softplus", "Abs")
_MOVES = ("Reshape", "Expand", "Unsqueeze", "Squeeze", "Identity", "Cast")


def written_out(node: ir.Node) -> Spread | None:
    """What a Mul or Div makes if it is the last step of a norm, or of dividing by a sum; else None.

    x / sqrt(mean(x^2) + eps), also with mean(x) taken off x first, the root's inverse multiplied
    instead, and a constant scale multiplied to the inverse; sums in place of means; x / sum(x).
    """
    if len(node.inputs) != 2 or any(v is None for v in node.inputs):
        return None
    a, b = (v for v in node.inputs if v is not None)
    if is_op(node, "Div"):
        return _normalized(a, b, inverted=False) or _part(a, b)
    if is_op(node, "Mul"):
        return _normalized(a, b, inverted=True) or _normalized(b, a, inverted=True)
    return None


def _normalized(x: ir.Value, divisor: ir.Value, *, inverted: bool) -> Spread | None:
    """x / sqrt(mean(x^2)), times constants; x itself may be a difference with its mean."""
    found = _root(divisor)
    if found is None or found.inverted is not inverted or (not inverted and found.factor.size != 1):
        return None
    base, mean = _difference(x)
    centered = mean is not None and any(s.summed is base for s in _sums(mean, _STEPS))
    for total in _sums(found.below, _STEPS):
        square = _squared(total.summed)
        of_x = square is x and not total.less
        of_base = centered and square is not None and (square is base or _difference(square)[0] is base)
        count = 1 if total.is_mean else total.count
        if (of_x or of_base) and count and total.factor > 0:
            factor = found.factor if inverted else 1.0 / found.factor
            return scaled(standard(total.count, centered=False), factor / math.sqrt(count * total.factor))
    return None


@dataclass(frozen=True)
class _Root:
    """factor * sqrt(below), or factor / sqrt(below)."""

    below: ir.Value
    factor: F64
    inverted: bool


def _root(value: ir.Value) -> _Root | None:
    """The square root that a value is made of."""
    factor, inverted = np.ones(()), False
    for _ in range(_STEPS):
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if is_op(node, "Sqrt"):
            return _Root(node.inputs[0], factor, inverted)
        if is_op(node, "Pow"):
            exponent = _scalar(node.inputs[1])
            if exponent not in (0.5, -0.5):
                return None
            return _Root(node.inputs[0], factor, inverted != (exponent < 0))
        if is_op(node, "Reciprocal"):
            value, inverted = node.inputs[0], not inverted
        elif is_op(node, "Div") and (over := numbers(constant(node.inputs[0]))) is not None:
            if node.inputs[1] is None or inverted:
                return None
            value, factor, inverted = node.inputs[1], factor * over, True
        elif is_op(node, "Mul") and not inverted and (split := _by_constant(node)) is not None:
            value, factor = split[0], factor * split[1]
        elif is_op(node, *_MOVES) and (factor.size == 1 or is_op(node, "Expand", "Identity", "Cast")):
            value = node.inputs[0]
        else:
            return None
    return None


@dataclass(frozen=True)
class _Sum:
    """A sum or mean of `count` elements times a constant; `less` what else may have been taken off."""

    summed: ir.Value
    count: int | None
    is_mean: bool
    factor: float
    less: bool


def _sums(value: ir.Value, steps: int, factor: float = 1.0, less: bool = False) -> list[_Sum]:
    """The means and sums that a value is at least as large as, but for what was taken off."""
    node = value.producer()
    if node is None or not steps:
        return []
    first = node.inputs[0] if node.inputs else None
    if is_op(node, "ReduceMean", "ReduceSum") and first is not None:
        return [_Sum(first, _count(node), is_op(node, "ReduceMean"), factor, less)]
    if is_op(node, *_MOVES) and first is not None:
        return _sums(first, steps - 1, factor, less)
    if is_op(node, "Sub") and first is not None and constant(node.inputs[1]) is None:
        return _sums(first, steps - 1, factor, True)
    if is_op(node, "Div") and first is not None and (by := _scalar(node.inputs[1])):
        return _sums(first, steps - 1, factor / by, less)
    if is_op(node, "Mul") and (split := _by_constant(node)) is not None and split[1].size == 1:
        return _sums(split[0], steps - 1, factor * float(split[1].reshape(())), less)
    if is_op(node, "Add", "Max"):
        return [s for v in _kept_from_zero(node) for s in _sums(v, steps - 1, factor, less)]
    return []


def _kept_from_zero(node: ir.Node) -> list[ir.Value]:
    """What a node adds epsilon to, or does not let fall below it; nothing where it does something else."""
    computed = [v for v in node.inputs if v is not None and constant(v) is None]
    limits = [numbers(constant(v)) for v in node.inputs if v is not None and constant(v) is not None]
    if is_op(node, "Max"):
        return computed
    if is_op(node, "Clip"):
        return computed if len(node.inputs) < 3 or node.inputs[2] is None else []
    small = all(a is not None and bool((a >= 0).all()) for a in limits)
    return computed if is_op(node, "Add") and len(computed) == 1 and small else []


def _count(node: ir.Node) -> int | None:
    """How many elements a Reduce node reduces to one."""
    shape = dims(node.inputs[0])
    axes = node.attributes.get("axes")
    given = numbers(constant(node.inputs[1])) if len(node.inputs) > 1 else None
    if shape is None or (axes is None and given is None and len(node.inputs) > 1):
        return None
    chosen = (
        list(axes.as_ints()) if axes is not None else [] if given is None else [int(a) for a in given.flat]
    )
    sizes = [shape[a] for a in chosen] if chosen else list(shape)
    known = [n for n in sizes if n is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _squared(value: ir.Value) -> ir.Value | None:
    """The x of which a value is the square."""
    node = value.producer()
    if is_op(node, "Mul") and node is not None and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    if is_op(node, "Pow") and node is not None and _scalar(node.inputs[1]) == 2.0:
        return node.inputs[0]
    return None


def _difference(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """x and m, where a value is x - m; itself and None where it is no difference."""
    node = value.producer()
    if node is not None and is_op(node, "Sub") and node.inputs[0] is not None and node.inputs[1] is not None:
        return node.inputs[0], node.inputs[1]
    return value, None


def _part(x: ir.Value, divisor: ir.Value) -> Spread | None:
    """x / sum(x) of what is never negative, between 0 and 1; x / sqrt(sum(x^2)), between -1 and 1."""
    for _ in range(_STEPS):
        node = divisor.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if is_op(node, "ReduceSum", "ReduceL1", "ReduceL2"):
            if node.inputs[0] is not x:
                return None
            if is_op(node, "ReduceL2"):
                n = _count(node) or _UNKNOWN_LENGTH
                return scaled(standard(n, centered=False), np.asarray(1.0 / math.sqrt(n)))
            return uniform(0.0, 1.0, BOUNDED) if is_op(x.producer(), *_NEVER_NEGATIVE) else None
        behind = node.inputs[:1] if is_op(node, *_MOVES) else _kept_from_zero(node)
        if len(behind) != 1 or behind[0] is None:
            return None
        divisor = behind[0]
    return None


def _by_constant(node: ir.Node) -> tuple[ir.Value, F64] | None:
    """The computed and the constant factor of a Mul."""
    for index in (0, 1):
        array = numbers(constant(node.inputs[index]))
        other = node.inputs[1 - index]
        if array is not None and other is not None:
            return other, array
    return None


def _scalar(value: ir.Value | None) -> float | None:
    array = numbers(constant(value))
    return float(array.reshape(())) if array is not None and array.size == 1 else None
