"""The quantization that a model came with: the grid of each activation and the scales of each weight.

The float model behind it keeps the names, so a plan finds the grid of a value by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import QParams, midpoint
from qtool.tables.ops import Bounds
from qtool.tables.qtypes import Granularity, PerChannel, PerTensor, QType, TensorSpec

# A weight lies on a grid where its elements are multiples of the scale, to float rounding.
_OFF_GRID = 0.01


@dataclass(frozen=True)
class Grid:
    """The representable values of an activation: multiples of `scale` from `lo` to `hi`, of `bits` bits."""

    scale: float
    lo: float
    hi: float
    bits: int = 8

    def within(self, bounds: Bounds) -> Grid:
        """Return the part of the grid within the bounds of an op's result."""
        return replace(self, lo=max(self.lo, bounds[0]), hi=min(self.hi, bounds[1]))

    @property
    def steps(self) -> int:
        """The number of intervals between its values."""
        return round((self.hi - self.lo) / self.scale)


@dataclass(frozen=True)
class Grids:
    """The grids of activations, and the scales [] or [C] of weights, by name of the value."""

    activations: Mapping[str, Grid] = field(default_factory=dict)
    weights: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.activations or self.weights)

    def weight_scale(
        self, name: str, weight: NDArray[np.floating], granularity: Granularity
    ) -> NDArray[np.float32] | None:
        """Return the scale of a weight, [] or [C] along the axis of `granularity`.

        None where it came with none, or no longer lies on its grid: preparation changed its values.
        """
        scale = self.weights.get(name)
        if scale is None or not isinstance(granularity, (PerTensor, PerChannel)):
            return None
        spread: NDArray[np.float32] = scale
        if scale.ndim:
            if not isinstance(granularity, PerChannel) or weight.shape[granularity.axis] != scale.size:
                return None
            spread = scale.reshape(
                [-1 if i == granularity.axis % weight.ndim else 1 for i in range(weight.ndim)]
            )
        steps = np.asarray(weight, np.float64) / spread
        integers = np.rint(steps)
        on_grid = np.abs(steps - integers).max(initial=0) < _OFF_GRID
        fits = integers.min(initial=0) >= -128 and integers.max(initial=0) <= 127
        return scale if on_grid and fits else None


NO_GRIDS = Grids()


def shared_grid(grids: list[Grid], spec: TensorSpec, bounds: Bounds) -> QParams | None:
    """Return the coarsest of several grids as the scale and zero point of a type.

    None where the type cannot hold the values of all of them at that scale, or holds values far beyond a
    clamp, which then would not fold into the quantizer.

    Args:
        grids: of the values that share a scale.
        spec: the type and symmetry to return.
        bounds: the limits of the values.
    """
    if not grids:
        return None
    scale = max(g.scale for g in grids)
    lo, hi = max(min(g.lo for g in grids), bounds[0]), min(max(g.hi for g in grids), bounds[1])
    least, greatest = _ends(spec.qtype)
    zero = midpoint(spec.qtype) if spec.symmetric else round(least - min(lo, 0.0) / scale)
    zero = min(max(zero, spec.qtype.qmin), spec.qtype.qmax)
    covers = lo / scale >= least - zero - 1.5 and hi / scale <= greatest - zero + 1.5
    beyond = math.isfinite(bounds[1]) and (greatest - zero) * scale > bounds[1] + 1.5 * scale
    if not covers or beyond:
        return None
    return QParams(np.asarray(scale, np.float32), np.asarray(zero, np.int64))


def _ends(qtype: QType) -> tuple[int, int]:
    """Return all integers that QuantizeLinear gives of a type, the lowest of a signed one included."""
    info = np.iinfo(qtype.dtype)
    return int(info.min), int(info.max)
