"""Ranges from extremes."""

from __future__ import annotations

from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec


def minmax(seen: Range, spec: TensorSpec) -> tuple[float, float]:
    """All that was seen."""
    return seen.lo, seen.hi


def moving_average(seen: Range, spec: TensorSpec) -> tuple[float, float]:
    """The mean over samples of each one's least and greatest value; their order does not matter."""
    return seen.mean_lo, seen.mean_hi
