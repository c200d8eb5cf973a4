"""HQQ: scales and zero points of weights of 4 bits or fewer, robust to outliers (numerics/hqq.py)."""

from __future__ import annotations

from dataclasses import replace

from qtool.graph.view import View, float_constant
from qtool.numerics.clip import FEW_BITS
from qtool.numerics.hqq import half_quadratic
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.resolve import weight_params
from qtool.runtime.heartbeat import beat

# Weights with scales for blocks, and no bias that depends on them.
_KINDS = frozenset({Kind.STORED, Kind.FUSED})


def half_quadratic_plan(view: View, plan: Plan) -> Plan:
    """Return a plan with new scales for weights of 4 bits or fewer, except those that have integers.

    Args:
        view: of the prepared model.
        plan: resolved.
    """
    return replace(plan, sites=tuple(_with_scales(view, site) for site in plan.sites))


def _with_scales(view: View, site: Site) -> Site:
    few = site.kind in _KINDS and site.spec.qtype.bits <= FEW_BITS and site.spec.qtype.zero
    weight = float_constant(view.values[site.value]) if few else None
    if weight is None or site.integers is not None:
        return site
    beat()
    return replace(site, qparams=half_quadratic(weight, site.spec, weight_params(site, weight)))
