"""The best of the other estimators, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtool.calibrate.estimators.mse import expected_error
from qtool.calibrate.histogram import Histogram
from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

Estimator = Callable[[Range, TensorSpec], tuple[float, float]]

# What the others must bring the expected error down to before the first is left. What is clipped here is
# rare, and may be what later layers go by: at 1 (`mse`) three of ten models lose by clipping, at 0.6
# two do, one of them less (docs/calibration.md), and those that gain gain as much.
WORTH = 0.6


def best_of(estimators: Sequence[Estimator]) -> Estimator:
    """An estimator that takes, of what the others would choose, what is expected to be least wrong.

    Wrong in the mean square, by the histogram (`expected_error`). The first stands for no clipping: it stays
    unless another is expected to be WORTH as wrong, and where there is no histogram.
    """
    first, *others = estimators

    def auto(seen: Range, spec: TensorSpec) -> tuple[float, float]:
        plain = first(seen, spec)
        histogram = seen.histogram
        if histogram is None or not histogram.total:
            return plain
        found = [estimator(seen, spec) for estimator in others]
        best = min(found, key=lambda ends: _error(histogram, ends, spec))
        gain = _error(histogram, best, spec) < WORTH * _error(histogram, plain, spec)
        return best if gain else plain

    return auto


def _error(histogram: Histogram, ends: tuple[float, float], spec: TensorSpec) -> float:
    """What is expected of the grid that spans these ends: zero is in it, and a symmetric one is."""
    lo, hi = min(ends[0], 0.0), max(ends[1], 0.0)
    reach = max(-lo, hi)
    if spec.symmetric:
        lo, hi = -reach, reach
    return expected_error(histogram, lo, hi, spec.qtype.qmax - spec.qtype.qmin)
