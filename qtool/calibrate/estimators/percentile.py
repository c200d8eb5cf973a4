"""Ranges that leave out a share of the elements."""

from __future__ import annotations

import numpy as np

from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

# The share that is kept, as TensorRT and onnxruntime have it; of two tails each loses half of the rest.
KEPT = 0.9999


def percentile(seen: Range, spec: TensorSpec) -> tuple[float, float]:
    """What is left when KEPT of the elements are, to the nearest bin outwards."""
    histogram = seen.histogram
    if histogram is None or not histogram.total:
        return seen.lo, seen.hi
    beyond = (1 - KEPT) / 2 * histogram.total
    edges, counts = histogram.edges(), histogram.counts
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    lo = edges[np.searchsorted(below, beyond, side="right")]
    hi = edges[counts.size - np.searchsorted(above, beyond, side="right")]
    return max(float(lo), seen.lo), min(float(hi), seen.hi)
