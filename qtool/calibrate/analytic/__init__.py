"""Ranges without samples, from what the model itself says.

A BatchNormalization or a norm says what comes out of it, bounded ops say what can't be exceeded, constants
are known, inputs are declared; in between, the means and variances of channels are propagated as if elements
were independent (Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix), and hard bounds go along by
interval arithmetic.

What is assumed was measured, once for all models: channels have Laplace's tails and reach 10 sigma
(nodes.py), and half of what varies in a channel is common to neighbours (many.py). Worst output's SQNR
against FP32 in dB, with ranges from 24 samples and from here, inputs declared as wide as the samples are:

    target cpu         samples  here        target generic     samples  here
    cnn (BatchNorm)       38.1  36.3                              31.4  33.6
    ultraface (BatchNorm) 46.4  42.1                              44.0  36.4
    resnet20 (folded)     28.9  24.4                              28.1  22.5
    lprnet (folded)       25.0  22.1                              25.2  21.8
    mnist (no norm)       41.6  40.8                              38.5  16.8
    magika                42.8  33.1                              37.5  41.6
    transformer           42.2  30.1                              34.7  26.5
    stories260k           22.9  20.1                              16.8   9.7
    minilm_l6_v2          17.3  13.0                              13.6   5.8
    lstm                  43.5  43.2                              37.0  33.9

Width of the 820 ranges here over what samples show, as quantiles of 5, 50 and 95%, and at most: declared and
constant 1.0, 1.0, 1.0, 1.0; bounded 1.0, 1.0, 1.0, 1.1; statistics 0.75, 1.2, 2.7, 4.1; estimated 0.4, 1.8,
4.2, 7.1. Twice as wide costs one bit, 6 dB at most; too narrow cuts values off.
"""

from qtool.calibrate.analytic.flow import ROUGHNESS, Estimate, bounds, propagate

__all__ = ["ROUGHNESS", "Estimate", "bounds", "propagate"]
