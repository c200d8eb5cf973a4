"""Ranges without samples, from what the model itself says.

A BatchNormalization or a norm says what comes out of it, bounded ops say what can't be exceeded, constants
are known, inputs are declared; in between, the means and variances of channels are propagated as if elements
were independent (Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix), and hard bounds go along by
interval arithmetic.

What is assumed was measured, once for all models: channels have Laplace's tails and reach 10 sigma
(nodes.py), and half of what varies in a channel is common to neighbours (many.py); docs/calibration.md has
the figures.

Width of the 820 ranges here over what samples show, as quantiles of 5, 50 and 95%, and at most: declared and
constant 1.0, 1.0, 1.0, 1.0; bounded 1.0, 1.0, 1.0, 1.1; statistics 0.75, 1.2, 2.7, 4.1; estimated 0.4, 1.8,
4.2, 7.1. Twice as wide costs one bit, 6 dB at most; too narrow cuts values off.
"""

from qtool.calibrate.analytic.flow import Estimate, bounds, propagate, roughness

__all__ = ["Estimate", "bounds", "propagate", "roughness"]
