"""HQQ over a plan: weights of few bits get scales and zero points that spare outliers less."""

from __future__ import annotations

from dataclasses import replace

from qtool.graph.view import View, float_constant
from qtool.numerics.clip import FEW_BITS
from qtool.numerics.hqq import half_quadratic
from qtool.plan.model import Kind, Plan, Site
from qtool.runtime.heartbeat import beat

# What has a scale of its own for every run of values, and no bias that rests on it.
_KINDS = frozenset({Kind.STORED, Kind.FUSED})


def half_quadratic_plan(view: View, plan: Plan) -> Plan:
    """A resolved plan with other scales for weights of 4 bits or fewer. It takes no samples.

    What has integers of its own keeps them, and its scales.

    Args:
        view: of the prepared model.
        plan: resolved, for that model.
    """
    return replace(plan, sites=tuple(_better(view, site) for site in plan.sites))


def _better(view: View, site: Site) -> Site:
    few = site.kind in _KINDS and site.spec.qtype.bits <= FEW_BITS
    weight = float_constant(view.values[site.value]) if few else None
    if weight is None or site.qparams is None or site.integers is not None:
        return site
    beat()
    return replace(site, qparams=half_quadratic(weight, site.spec, site.qparams))
