"""Ranges without samples, from what the model itself says.

A value's channels are taken for Gaussian, and their means and variances carried through the graph as
Nagel et al. 2019 do (arXiv 1906.04721, section 4.2): a BatchNormalization or a norm says what comes
out of it, bounded ops say what can't be exceeded, constants are known, and between them moments are
propagated as if elements were independent. Hard bounds go along by interval arithmetic.
"""

from qtool.calibrate.analytic.flow import Estimate, bounds, propagate

__all__ = ["Estimate", "bounds", "propagate"]
