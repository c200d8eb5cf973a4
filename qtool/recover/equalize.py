"""Cross-layer equalization: channels between two layers are scaled to reach as far as each other.

Nagel et al. 2019 (arXiv 1906.04721, section 4.1) scale by s = sqrt(r1 / r2), the ranges of both weights.
With a scale for each output channel the range that counts of the first is that of what it gives out, and how
much of it is to move depends on the layer: the exponent is chosen by the expected error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.qparams import F64
from qtool.plan.model import Plan
from qtool.recover.balance import Balances, Layers, balanced

_EXPONENTS = (0.25, 0.5, 0.75, 1.0)


def equalized(view: View, plan: Plan, source: Samples, threads: int = 0) -> Balances:
    """What to scale between layers; exact in float. Arguments as `balanced` has them."""
    return balanced(view, plan, source, factors, lambda layers: not layers.joint.normed, threads)


def factors(layers: Layers) -> Iterator[F64]:
    """s = reach^a / weight_reach^(1 - a), and all of the activation's range alone: [C] each."""
    x, w = layers.seen.reach, layers.weight_reach
    for exponent in _EXPONENTS:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield x**exponent / w ** (1 - exponent)
            yield x**exponent
