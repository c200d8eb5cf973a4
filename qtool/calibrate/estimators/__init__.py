"""Range estimators: from the statistics of a tensor to the range that its grid should span, a file each.

Each takes the statistics and the grid that they are for, and returns (lo, hi); the caller sees to it that
zero is representable.
"""

from __future__ import annotations

from qtool.calibrate.estimators.auto import Estimator, best_of
from qtool.calibrate.estimators.entropy import entropy
from qtool.calibrate.estimators.minmax import minmax, moving_average
from qtool.calibrate.estimators.mse import mse
from qtool.calibrate.estimators.percentile import percentile

__all__ = ["ESTIMATORS", "Estimator"]

# By the names of tables/methods.py.
ESTIMATORS: dict[str, Estimator] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
    "auto": best_of((minmax, moving_average, percentile, entropy, mse)),
}
