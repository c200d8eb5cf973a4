"""Activation-aware scaling of weights: columns that meet large activations are scaled up before rounding.

Lin et al. 2023 (AWQ, arXiv 2306.00978, section 3.2): s = mean|X|^a, the exponent searched for each layer by
what the rounded layer errs.
"""

from __future__ import annotations

from collections.abc import Iterator

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.qparams import F64
from qtool.plan.model import Plan
from qtool.recover.balance import Balances, Layers, balanced

_STEPS = 10
_MOST_BITS = 4


def activation_aware(view: View, plan: Plan, source: Samples, threads: int = 0) -> Balances:
    """What to scale before weights of few bits; exact in float. Arguments as `balanced` has them."""
    return balanced(view, plan, source, factors, _able, threads)


def factors(layers: Layers) -> Iterator[F64]:
    """s = mean|X|^a for a grid of a: [C] each."""
    for step in range(1, _STEPS + 1):
        yield layers.seen.mean ** (step / _STEPS)


def _able(layers: Layers) -> bool:
    return any(site is not None and site.spec.qtype.bits <= _MOST_BITS for _, _, site in layers.weights)
