"""Integers that stand for reals: the scale and zero point of a QuantizeLinear or DequantizeLinear."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import attribute_int, constant, float_constant, rank
from qtool.plan.model import Site
from qtool.tables.qoperators import EIGHT_BITS
from qtool.tables.qtypes import PerChannel

_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Grid:
    """Integers as reals: (integer - zero_point) * scale.

    Args:
        type: of the integers, by numpy's name: one of EIGHT_BITS.
        axis: the axis that [C] runs along, from the front; None: one scale for all.
        scale, zero_point: [] or [C].
    """

    type: str
    axis: int | None
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]

    def same_as(self, other: Grid) -> bool:
        """Return whether equal integers stand for equal reals."""
        return (
            (self.type, self.axis) == (other.type, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def clamp_limits(node: ir.Node) -> tuple[float, float] | None:
    """Return what a Relu or Clip holds values between; None when that is no constant."""
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


def quantized(real: float, grid: Grid) -> int:
    """Return what QuantizeLinear makes of a number.

    Rounding and saturation keep order, so a clamp's limits are as exact in integers as in floats.
    """
    ends = np.iinfo(grid.type)
    with np.errstate(over="ignore"):  # beyond float32 is beyond the type's ends, too
        steps = np.rint(np.float32(real) / np.float32(grid.scale))
    return int(np.clip(steps + np.float32(grid.zero_point), ends.min, ends.max))


def integer_bounds(limits: tuple[float, float], grid: Grid) -> tuple[int, int] | None:
    """Return a clamp's limits in integers; None when saturation at the ends of the type does the same."""
    ends = np.iinfo(grid.type)
    bounds = quantized(limits[0], grid), quantized(limits[1], grid)
    return None if bounds == (ends.min, ends.max) else bounds


def grid_of(node: ir.Node) -> Grid | None:
    """Return the grid of a Q or DQ node; None unless it is constant and of 8 bits."""
    if len(node.inputs) < 3 or attribute_int(node, "block_size", 0):
        return None
    scale, zero = float_constant(node.inputs[1]), constant(node.inputs[2])
    if scale is None or zero is None or scale.shape != zero.shape or scale.ndim > 1:
        return None
    if str(zero.dtype) not in EIGHT_BITS:
        return None
    if scale.ndim == 0:
        return Grid(str(zero.dtype), None, scale, zero)
    axis, axes = attribute_int(node, "axis", 1), rank(node.inputs[0])
    if axis < 0 and axes is None:
        return None
    return Grid(str(zero.dtype), axis if axis >= 0 else axis + (axes or 0), scale, zero)


def product_scale(a: Grid, b: Grid) -> NDArray[np.float32]:
    """Return what one step of an int32 sum of products stands for: float32 [] or [N]."""
    return np.asarray(a.scale * b.scale, np.float32)


def grid_of_site(site: Site) -> Grid | None:
    """Return the grid that the Q and DQ of a site have; None where it is not of 8 bits.

    Raises:
        KeyError: the site is not resolved.
    """
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    dtype = np.dtype(site.spec.qtype.dtype)
    if dtype.name not in EIGHT_BITS:
        return None
    granularity = site.spec.granularity
    axis = granularity.axis if isinstance(granularity, PerChannel) else 1
    scale = np.asarray(site.qparams.scale, np.float32)
    return Grid(dtype.name, axis if scale.ndim else None, scale, site.qparams.zero_point.astype(dtype))
