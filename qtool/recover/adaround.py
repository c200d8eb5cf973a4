"""AdaRound: learn the rounding of each weight, from the integers that it has (numerics/adaround.py)."""

from __future__ import annotations

from qtool.data.samples import Samples
from qtool.graph.view import View
from qtool.numerics.adaround import adaround
from qtool.numerics.gptq import Hessian
from qtool.plan.model import Plan
from qtool.recover.gptq import Fitted, WeightRows, round_weights
from qtool.runtime.heartbeat import StepProgress, no_progress


def learn_rounding(
    view: View, plan: Plan, samples: Samples, threads: int = 0, progress: StepProgress = no_progress
) -> Plan:
    """Return a plan with learned integers and the same scales. Arguments as in `round_weights`."""
    return round_weights(view, plan, samples, threads, progress, _fit)


def _fit(weight: WeightRows, on: Hessian) -> Fitted:
    return adaround(weight.rows, on, weight.grid, weight.start), weight.grid
