"""SmoothQuant: what the columns of an activation reach moves into the weights behind it.

Xiao et al. 2022 (arXiv 2211.10438, equation 4): s = max|X|^a / max|W|^(1 - a); X / s is made by the norm that
makes X. The exponent is chosen for each layer by the expected error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.qparams import F64
from qtool.plan.model import Plan
from qtool.recover.balance import Balances, Layers, balanced

_EXPONENTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def smoothed(view: View, plan: Plan, source: Samples, threads: int = 0) -> Balances:
    """What to scale behind norms; exact in float. Arguments as `balanced` has them."""
    return balanced(view, plan, source, factors, _able, threads)


def factors(layers: Layers) -> Iterator[F64]:
    """The formula, for each exponent: [C] each."""
    x, w = layers.seen.reach, layers.weight_reach
    for exponent in _EXPONENTS:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield x**exponent / w ** (1 - exponent)


def _able(layers: Layers) -> bool:
    """Of weights alone there is no activation to smooth."""
    return layers.joint.normed and layers.rounded is not None
