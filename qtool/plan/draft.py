"""From labels to sites: which tensor gets which type, who reads it, and what shares a scale."""

from __future__ import annotations

from dataclasses import replace

from qtool.graph.view import View
from qtool.plan.activations import at_run_time, calibrated
from qtool.plan.model import Kind, Plan, Wishes
from qtool.plan.place import place
from qtool.plan.scheme import Scheme
from qtool.plan.storage import stored
from qtool.plan.weights import weights

_ADDED = (Kind.BIAS, Kind.LIFTED, Kind.ADDED)


def draft(view: View, scheme: Scheme, wishes: Wishes, model_sha256: str = "") -> Plan:
    """Decide, from the tables and the wishes, without data. The sites have no scales yet."""
    placed = place(view, scheme, wishes)
    own = weights(view, placed)
    storage = stored(view, scheme, wishes, {use for s in own for use in s.uses or ()})
    sites = (*calibrated(view, placed, scheme), *at_run_time(view, placed), *own, *storage.sites)
    forms = {name: candidate.form for name, candidate in placed.chosen.items()}
    # The Add behind a MatMul is part of it: fused, or in float where the MatMul's output is.
    adds = {name: s for s in own if s.kind in _ADDED for name, _ in s.uses or ()}
    forms |= {name: forms[s.scale_from[1]] for name, s in adds.items() if s.scale_from}
    reasons = storage.reasons if scheme.mode.form is None else {}
    skips = tuple(
        replace(s, reason="it adds the bias of an int8 product, in float")
        if s.node in adds
        else replace(s, reason=reasons.get(s.node, s.reason))
        for s in placed.skips
        if s.node not in forms
    )
    return Plan(scheme.mode.name, scheme.target.name, model_sha256, forms, sites, skips)
