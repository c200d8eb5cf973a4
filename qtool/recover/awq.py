"""AWQ: scale up weight columns with large activations before rounding to 4 bits or fewer.

Lin et al. 2023 (arXiv 2306.00978, section 3.2): s = mean|X|^a, the exponent searched for each layer by the
expected error.
"""

from __future__ import annotations

from collections.abc import Iterator

from qtool.numerics.clip import FEW_BITS
from qtool.numerics.qparams import F64
from qtool.recover.channel_scaling import PairedLayers, Technique

_STEPS = 10


def factors(layers: PairedLayers) -> Iterator[F64]:
    """Yield s = mean|X|^a for a grid of a: [C] each."""
    for step in range(1, _STEPS + 1):
        yield layers.channels.mean ** (step / _STEPS)


def _has_few_bits(layers: PairedLayers) -> bool:
    return any(site is not None and site.spec.qtype.bits <= FEW_BITS for _, _, site in layers.weights)


AWQ = Technique(factors, _has_few_bits)
