"""Cross-layer equalization: channels between two layers are scaled to equal ranges.

Nagel et al. 2019 (arXiv 1906.04721, section 4.1) scale by s = sqrt(r1 / r2), the ranges of both weights. With
a scale for each output channel the range of the activation takes the place of r1, and the exponent is chosen
for each layer by the expected error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qtool.numerics.qparams import F64
from qtool.recover.channel_scaling import PairedLayers, Technique

_EXPONENTS = (0.25, 0.5, 0.75, 1.0)


def factors(layers: PairedLayers) -> Iterator[F64]:
    """Yield s = max|x|^a / max|w|^(1 - a), and s = max|x|^a alone: [C] each."""
    x, w = layers.channels.absmax, layers.weight_absmax
    for exponent in _EXPONENTS:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield x**exponent / w ** (1 - exponent)
            yield x**exponent


EQUALIZE = Technique(factors, lambda layers: not layers.pair.after_norm)
