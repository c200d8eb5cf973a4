"""Match the DequantizeLinear before a node and the QuantizeLinear behind it, with their scales and types."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import attribute_int, constant, float_constant, is_op, rank, sole_consumer
from qtool.tables.qoperators import EIGHT_BITS

_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Grid:
    """The reals that 8-bit integers stand for: (integer - zero_point) * scale.

    Args:
        scale, zero_point: initializers, [] or [C]; float32 and the integers' type.
        type: of the integers, by numpy's name: one of EIGHT_BITS.
        axis: the axis that [C] runs along, from the front; None: one scale for the tensor.
        scales, zero_points: what the initializers hold.
    """

    scale: ir.Value
    zero_point: ir.Value
    type: str
    axis: int | None
    scales: NDArray[np.float32]
    zero_points: NDArray[np.generic]

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is 0."""
        return not self.zero_points.any()

    def same_as(self, other: Grid) -> bool:
        """Return whether equal integers stand for equal reals."""
        return (
            (self.type, self.axis) == (other.type, other.axis)
            and np.array_equal(self.scales, other.scales)
            and np.array_equal(self.zero_points, other.zero_points)
        )

    def quantize(self, real: float) -> int:
        """Return the integer that QuantizeLinear makes of a number, which may be infinite."""
        ends = np.iinfo(self.type)
        with np.errstate(over="ignore"):  # beyond float32 is beyond the type's ends, too
            steps = np.rint(np.float32(real) / np.float32(self.scales))
        return int(np.clip(steps + np.float32(self.zero_points), ends.min, ends.max))


@dataclass(frozen=True)
class Operand:
    """A float value that DequantizeLinear makes of 8-bit integers."""

    integers: ir.Value
    grid: Grid

    @property
    def parts(self) -> list[ir.Value]:
        """Integers, scale, zero point: in the order in which the QLinear operators take them."""
        return [self.integers, self.grid.scale, self.grid.zero_point]


@dataclass(frozen=True)
class Result:
    """A float value whose only consumer is a QuantizeLinear with one scale, perhaps behind a Relu or Clip.

    Args:
        q: the QuantizeLinear.
        clamp: the Relu or Clip.
        bounds: limits of the clamp in integers; None where saturation at the ends of the type does the same.
    """

    q: ir.Node
    grid: Grid
    clamp: ir.Node | None = None
    bounds: tuple[int, int] | None = None

    @property
    def parts(self) -> list[ir.Value]:
        """Scale and zero point."""
        return [self.grid.scale, self.grid.zero_point]


def grid_of(node: ir.Node) -> Grid | None:
    """Return the grid of a Q or DQ node; None unless it is constant, of 8 bits, and not in blocks."""
    if len(node.inputs) < 3 or attribute_int(node, "block_size", 0):
        return None
    scale, zero = node.inputs[1], node.inputs[2]
    scales, zeros = float_constant(scale), constant(zero)
    if scale is None or zero is None or scales is None or zeros is None:
        return None
    if scales.shape != zeros.shape or scales.ndim > 1 or str(zeros.dtype) not in EIGHT_BITS:
        return None
    axis, axes = attribute_int(node, "axis", 1), rank(node.inputs[0])
    if scales.ndim == 0:
        return Grid(scale, zero, str(zeros.dtype), None, scales, zeros)
    if axis < 0 and axes is None:
        return None
    return Grid(scale, zero, str(zeros.dtype), axis if axis >= 0 else axis + (axes or 0), scales, zeros)


def operand(node: ir.Node, index: int) -> Operand | None:
    """Return the integers behind an input of a node; None unless a DequantizeLinear with a grid makes it."""
    dq = _dequantizer(node, index)
    integers, grid = (dq.inputs[0], grid_of(dq)) if dq is not None else (None, None)
    return Operand(integers, grid) if integers is not None and grid is not None else None


def activation(node: ir.Node, index: int) -> Operand | None:
    """Return an operand that has one scale for the tensor."""
    each = operand(node, index)
    return each if each is not None and each.grid.axis is None else None


def int32_bias(node: ir.Node, index: int, a: Grid, b: Grid) -> ir.Value | None:
    """Return the int32 [N] behind an input; None unless its scale is the product of the scales of a and b."""
    dq = _dequantizer(node, index)
    if dq is None:
        return None
    array, scale = constant(dq.inputs[0]), float_constant(dq.inputs[1])
    if array is None or array.dtype != np.int32 or array.ndim != 1 or scale is None:
        return None
    if len(dq.inputs) > 2 and (zero := constant(dq.inputs[2])) is not None and zero.any():
        return None
    wanted = product_scale(a, b)
    fits = scale.size in (1, wanted.size) or wanted.size == 1
    return dq.inputs[0] if fits and np.allclose(scale, wanted, rtol=1e-6, atol=0) else None


def product_scale(a: Grid, b: Grid) -> NDArray[np.float32]:
    """Return the step of an int32 sum of products: float32 [] or [N]."""
    return np.asarray(a.scales * b.scales, np.float32)


def result(value: ir.Value) -> Result | None:
    """Return the Q that a value goes into, where the value has no other consumer."""
    consumer = sole_consumer(value)
    if is_op(consumer, "Relu", "Clip") and consumer is not None and consumer.inputs[0] is value:
        limits, behind = clamp_limits(consumer), result_of_q(consumer.outputs[0])
        if limits is None or behind is None:
            return None
        return Result(behind.q, behind.grid, consumer, integer_bounds(limits, behind.grid))
    return result_of_q(value)


def result_of_q(value: ir.Value) -> Result | None:
    """Return the Q that alone reads a value, with nothing between."""
    q = sole_consumer(value)
    if q is None or not is_op(q, "QuantizeLinear") or q.inputs[0] is not value:
        return None
    grid = grid_of(q)
    return Result(q, grid) if grid is not None and grid.axis is None else None


def clamp_limits(node: ir.Node) -> tuple[float, float] | None:
    """Return the limits of a Relu or Clip; None where they are not constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    limits = list(_UNBOUNDED)
    for index in (1, 2):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        array = float_constant(value)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        limits[index - 1] = float(array.reshape(-1)[0])
    return limits[0], limits[1]


def integer_bounds(limits: tuple[float, float], grid: Grid) -> tuple[int, int] | None:
    """Return a clamp's limits in integers; None when saturation at the ends of the type does the same.

    Rounding and saturation keep order, so the limits are as exact in integers as in floats.
    """
    ends = np.iinfo(grid.type)
    bounds = grid.quantize(limits[0]), grid.quantize(limits[1])
    return None if bounds == (ends.min, ends.max) else bounds


def axes(node: ir.Node, index: int) -> int | None:
    """Return the rank of an input, or of the integers behind it where its own is not known."""
    dq = _dequantizer(node, index)
    own = rank(node.inputs[index])
    return rank(dq.inputs[0]) if own is None and dq is not None else own


def _dequantizer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    producer = value.producer() if value is not None else None
    return producer if is_op(producer, "DequantizeLinear") else None
