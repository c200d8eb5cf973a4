"""From labels to sites: which tensor gets which type, who reads it, and what shares a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qtool.calibrate.ranges import Ranges
from qtool.graph.view import View
from qtool.plan.activations import at_run_time, calibrated, written_ports
from qtool.plan.barriers import barriers
from qtool.plan.edits import EditKind
from qtool.plan.half import Halves, observed, place_half
from qtool.plan.model import Kind, Plan, Site, Wishes
from qtool.plan.operators import operators, sums
from qtool.plan.outlier_columns import with_outlier_columns
from qtool.plan.place import place
from qtool.plan.scheme import Choices, Scheme
from qtool.plan.storage import stored
from qtool.plan.weights import weights
from qtool.tables.forms import Form
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import FLOAT16, FLOAT32
from qtool.tables.targets import NO_FORM


def draft(
    view: View, scheme: Scheme, wishes: Wishes, model_sha256: str = "", ranges: Ranges | None = None
) -> Plan:
    """Decide, from the tables and the wishes. The sites have no scales yet.

    Args:
        view: of the prepared model.
        scheme, wishes: what was asked for, in general and node by node.
        model_sha256: of the source model.
        ranges: what calibration has seen so far, which float16 must be able to hold.
    """
    placed = place(view, scheme, wishes)
    own, edits = weights(view, placed)
    storage = stored(view, scheme, wishes, {use for s in own for use in s.uses or ()})
    halves = _halves(view, scheme, wishes, ranges, {s.value for s in storage.sites})
    activations = calibrated(view, placed, scheme)
    edits = [*edits, *barriers(view, placed, [*activations, *own])]
    sites = (*activations, *at_run_time(view, placed), *own, *storage.sites)
    sites, columns = with_outlier_columns(view, _within(sites, wishes.bounds), wishes.spared)
    forms = {name: candidate.form for name, candidate in placed.chosen.items()}
    # The Add behind a product is part of it where the product adds its bias; else the Add stays in float.
    fused = {n: s.scale_from[1] for s in own if s.kind is Kind.BIAS and s.scale_from for n, _ in s.uses or ()}
    fused |= {n: e.node for e in edits if e.kind is EditKind.ADDED_BIAS for n, _ in e.uses or ()}
    forms |= {name: forms[product] for name, product in fused.items()}
    adds = {n for e in edits if e.kind is EditKind.RESHAPED_BIAS for n, _ in e.uses or ()}
    chosen = operators(view, forms, sites, scheme.target)
    edits = [*edits, *sums(view, chosen, columns)]
    forms |= dict.fromkeys((n for n in view.node_by_name if n in halves.sites), Form.HALF)
    reasons = dict(storage.reasons) if scheme.mode.form is None else {}
    if scheme.form is Form.HALF:
        reasons = {s.node: halves.reasons.get(s.node, NO_FORM.reason) for s in placed.skips}
    reasons |= {n: halves.reasons[n] for n in wishes.half if n in halves.reasons}
    skips = tuple(
        replace(s, reason="it adds the bias of an int8 product, in float")
        if s.node in adds
        else replace(s, reason=reasons.get(s.node, s.reason))
        for s in placed.skips
        if s.node not in forms
    )
    watched = tuple(observed(halves, view, io_half=scheme.io is FLOAT16))
    return Plan(
        scheme.mode.name,
        scheme.target.name,
        model_sha256,
        forms,
        sites,
        skips,
        halves,
        watched,
        Choices(format=scheme.format, io=_io(scheme)),
        outlier_columns=columns,
        edits=tuple(edits),
        operators=chosen,
        integer_ports=written_ports(view, scheme, activations),
    )


def _io(scheme: Scheme) -> str:
    return "float" if scheme.io is FLOAT32 else scheme.io.name


def _within(sites: Iterable[Site], bounds: Mapping[str, Bounds]) -> list[Site]:
    """The sites, their ranges within what was asked for."""
    found = []
    for site in sites:
        lo, hi = bounds.get(site.value, ANY)
        found.append(replace(site, bounds=(max(site.bounds[0], lo), min(site.bounds[1], hi))))
    return found


def _halves(view: View, scheme: Scheme, wishes: Wishes, ranges: Ranges | None, taken: set[str]) -> Halves:
    """What becomes float16: everything that can, in that mode, or what was asked for, in any other."""
    if scheme.form is not Form.HALF:
        return place_half(view, {}, ranges, forced=wishes.half, others=False) if wishes.half else Halves()
    keep = {name: reason for name, reason in wishes.keep_float.items() if name not in wishes.half}
    found = place_half(view, keep, ranges, forced=wishes.half, io_half=scheme.io is FLOAT16)
    float32 = {n for n, t in wishes.weights.items() if t is FLOAT32}
    kept = {v.name for n in float32 for v in view.node_by_name[n].inputs if v is not None}
    return replace(found, stored=found.stored - taken - kept)
