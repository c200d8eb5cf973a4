"""AdaRound over a plan: from the integers that weights have by now to those that are learned."""

from __future__ import annotations

from collections.abc import Callable

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.adaround import adaround
from qtool.numerics.gptq import Hessian
from qtool.plan.model import Plan
from qtool.recover.gptq import Arranged, Fitted, improved

Progress = Callable[[int, int], None]


def learned(
    view: View,
    plan: Plan,
    samples: Samples,
    threads: int = 0,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """A plan whose weights are rounded as is learned; scales stay. Arguments as `improved` has them."""
    return improved(view, plan, samples, threads, progress, _fit)


def _fit(laid: Arranged, on: Hessian) -> Fitted:
    return adaround(laid.rows, on, laid.grid, laid.start), laid.grid
