"""The best of the other observers, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtool.calibrate.observers.mse import expected_error
from qtool.calibrate.ranges import Range
from qtool.tables.qtypes import TensorSpec

Observer = Callable[[Range, TensorSpec], tuple[float, float]]


def best_of(observers: Sequence[Observer]) -> Observer:
    """An observer that takes, of what the others would choose, what is expected to be least wrong.

    Wrong in the mean square, by the histogram (`expected_error`); of equals the first, and the first too
    where there is no histogram.
    """

    def auto(seen: Range, spec: TensorSpec) -> tuple[float, float]:
        histogram = seen.histogram
        if histogram is None or not histogram.total:
            return observers[0](seen, spec)
        steps = spec.qtype.qmax - spec.qtype.qmin
        found = dict.fromkeys(observer(seen, spec) for observer in observers)
        ends = {(lo, hi): _ends(lo, hi, spec) for lo, hi in found}
        return min(found, key=lambda pair: expected_error(histogram, *ends[pair], steps))

    return auto


def _ends(lo: float, hi: float, spec: TensorSpec) -> tuple[float, float]:
    """What the grid will span: zero is in it, and a symmetric one is."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    reach = max(-lo, hi)
    return (-reach, reach) if spec.symmetric else (lo, hi)
