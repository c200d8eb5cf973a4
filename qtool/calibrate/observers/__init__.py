"""Observers: from what was seen of a tensor to the range that its grid should span. A file an observer.

Each takes the statistics and the grid that they are for, and returns (lo, hi); the caller sees to it that
zero is representable.
"""

from __future__ import annotations

from qtool.calibrate.observers.auto import Observer, best_of
from qtool.calibrate.observers.entropy import entropy
from qtool.calibrate.observers.minmax import minmax, moving_average
from qtool.calibrate.observers.mse import mse
from qtool.calibrate.observers.percentile import percentile

__all__ = ["OBSERVERS", "Observer"]

# By the names of tables/methods.py.
OBSERVERS: dict[str, Observer] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
    "auto": best_of((minmax, moving_average, percentile, entropy, mse)),
}
