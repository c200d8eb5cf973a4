"""SmoothQuant: move activation outliers into the weights after a normalization.

Xiao et al. 2022 (arXiv 2211.10438, equation 4): s = max|X|^a / max|W|^(1 - a), and the norm before produces
X / s. The exponent is chosen for each layer by the expected error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qtool.numerics.qparams import F64
from qtool.recover.channel_scaling import PairedLayers, Technique

_EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def factors(layers: PairedLayers) -> Iterator[F64]:
    """Yield s of equation 4 for each exponent: [C] each."""
    x, w = layers.channels.absmax, layers.weight_absmax
    for exponent in _EXPONENTS:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield x**exponent / w ** (1 - exponent)


# Only where the activation is quantized.
SMOOTHQUANT = Technique(factors, lambda layers: layers.pair.after_norm and layers.site is not None)
