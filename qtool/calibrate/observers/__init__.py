"""Observers: from what was seen of a tensor to the range that its grid should span. A row an observer.

Each takes the statistics and the grid that they are for, and returns (lo, hi); the caller sees to it that
zero is representable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qtool.calibrate.observers.entropy import entropy
from qtool.calibrate.observers.minmax import minmax, moving_average
from qtool.calibrate.observers.mse import mse
from qtool.calibrate.observers.percentile import percentile
from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

Observer = Callable[[Range, TensorSpec], tuple[float, float]]


@dataclass(frozen=True)
class Method:
    """One way to choose a range.

    Args:
        needs_histogram: whether counts must be kept, rather than extremes only.
    """

    name: str
    summary: str
    observer: Observer
    needs_histogram: bool


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("minmax", "all that was seen", minmax, False),
        Method("moving-average", "the mean of each sample's least and greatest value", moving_average, False),
        Method("percentile", "all but the outermost 0.01%", percentile, True),
        Method("entropy", "least information lost (Kullback-Leibler)", entropy, True),
        Method("mse", "least expected squared error", mse, True),
    )
}
