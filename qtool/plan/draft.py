"""From an assignment to sites: the type of each tensor, its consumers, and what shares a scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qtool.calibrate.ranges import Ranges
from qtool.graph.view import View, constant
from qtool.plan.activations import at_run_time, calibrated, written_ports
from qtool.plan.assignment import Assignment, PlanInput
from qtool.plan.barriers import barriers
from qtool.plan.edits import EditKind, GraphEdit
from qtool.plan.eligible import data_inputs
from qtool.plan.half import Halves, observed, place_half
from qtool.plan.half_norms import norm_barriers
from qtool.plan.half_ports import is_float32
from qtool.plan.half_weights import copied_weights
from qtool.plan.model import Kind, OutlierColumns, Plan, Site
from qtool.plan.operators import operators, sums
from qtool.plan.outlier_columns import with_outlier_columns
from qtool.plan.placed import placed
from qtool.plan.rules import maximal, skips
from qtool.plan.storage import stored
from qtool.plan.weights import weights
from qtool.tables.forms import Form
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import FLOAT16, FLOAT32
from qtool.tables.reasons import Code, Reason

_PART = Reason(Code.PART, "it adds the bias of an int8 product, in float")


def draft(
    task: PlanInput,
    assignment: Assignment,
    *,
    bounds: Mapping[str, Bounds] | None = None,
    outlier_columns: Mapping[str, OutlierColumns] | None = None,
    ranges: Ranges | None = None,
) -> Plan:
    """Lay out the sites of an assignment. They have no scales yet.

    Args:
        task: the graph, the scheme and the constraints.
        assignment: the form of each node.
        bounds: activation -> what its range is not to exceed, whatever samples showed.
        outlier_columns: activation -> columns to leave to float, where all its int8 readers can.
        ranges: what calibration has seen so far, which float16 must be able to hold.
    """
    view, scheme = task.view, task.scheme
    on_graph = placed(task, assignment)
    own, edits = weights(view, on_graph)
    storage = stored(view, scheme, assignment.weight_types, {use for s in own for use in s.uses or ()})
    halves = _halves(task, assignment, ranges, {s.value for s in storage.sites})
    edits = [e for e in edits if e.kind is not EditKind.ADDED_BIAS or not _is_half(e, halves)]
    activations = calibrated(view, on_graph, scheme)
    edits = [*edits, *barriers(view, on_graph, [*activations, *own])]
    sites = (*activations, *at_run_time(view, on_graph), *own, *storage.sites)
    sites, columns = with_outlier_columns(view, _within(sites, bounds or {}), outlier_columns or {})
    forms = dict(assignment.forms)
    # The Add behind a product is part of it where the product adds its bias; else the Add stays in float.
    fused = {n: s.scale_from[1] for s in own if s.kind is Kind.BIAS and s.scale_from for n, _ in s.uses or ()}
    fused |= {n: e.node for e in edits if e.kind is EditKind.ADDED_BIAS for n, _ in e.uses or ()}
    forms |= {name: forms[product] for name, product in fused.items()}
    adds = {n for e in edits if e.kind is EditKind.RESHAPED_BIAS for n, _ in e.uses or ()}
    chosen = operators(view, forms, sites, scheme.target)
    halves = replace(halves, copied=copied_weights(view, halves, sites, edits))
    edits = [*edits, *sums(view, chosen, columns), *norm_barriers(view, halves, sites)]
    forms |= dict.fromkeys((n for n in view.node_by_name if n in halves.sites), Form.HALF)
    reasons = _storage_reasons(task, storage.reasons) | _half_reasons(task, halves)
    found = (
        replace(s, reason=_PART if s.node in adds else reasons.get(s.node, s.reason))
        for s in skips(task, assignment)
        if s.node not in forms
    )
    patterns = task.constraints.patterns
    return Plan(
        scheme.mode.name,
        scheme.target.name,
        task.model_sha256,
        forms,
        sites,
        tuple(found),
        halves,
        tuple(observed(halves, view, io_half=scheme.io is FLOAT16)),
        choices=scheme.choices,
        exclude=patterns.exclude,
        include=patterns.include,
        sets=patterns.sets,
        outlier_columns=columns,
        scaled=task.scaled,
        edits=tuple(edits),
        operators=chosen,
        integer_ports=written_ports(view, scheme, activations),
    )


def observation_sets(task: PlanInput) -> list[list[str]]:
    """Return the sets in which the values of the main graph are observed, by what may need their ranges.

    First what the plan of everything in int8 needs, which is nearly all that any plan needs. Then what other
    forms of the same nodes read or make. Last every other float.
    """
    view, whole = task.view, maximal(task)
    on_graph = placed(task, whole)
    sites = (*calibrated(view, on_graph, task.scheme), *at_run_time(view, on_graph))
    halves = _halves(task, whole, None, set())
    first = [*(s.value for s in sites), *observed(halves, view, io_half=task.scheme.io is FLOAT16)]
    near = [
        v.name or ""
        for own in on_graph.chosen.values()
        for v in (*(v for _, v in data_inputs(own.node, own.rule)), *own.node.outputs)
    ]
    rest = (name for name, value in view.values.items() if is_float32(value))
    found: list[list[str]] = []
    known: set[str] = set()
    for names in (first, near, rest):
        found.append([n for n in dict.fromkeys(names) if n not in known and _is_observable(n, view)])
        known.update(found[-1])
    return found


def _is_observable(name: str, view: View) -> bool:
    """Whether a value lies in the main graph and depends on the samples."""
    value = view.values.get(name)
    return (
        value is not None and view.in_main(value) and constant(value) is None and not value.is_initializer()
    )


def _storage_reasons(task: PlanInput, reasons: Mapping[str, str]) -> dict[str, Reason]:
    """Why weights are not stored in fewer bits: where nothing but weights is quantized, the node's reason."""
    if task.scheme.mode.form is not None:
        return {}
    return {name: Reason(Code.STORAGE, text) for name, text in reasons.items()}


def _half_reasons(task: PlanInput, halves: Halves) -> dict[str, Reason]:
    """Why nodes are not float16: of all where float16 is the mode, else of those it was asked for."""
    wanted = halves.reasons if task.scheme.form is Form.HALF else task.constraints.half
    return {name: halves.reasons[name] for name in wanted if name in halves.reasons}


def _is_half(edit: GraphEdit, halves: Halves) -> bool:
    """Return whether a consumer that an edit is for computes in float16: an Add that stays a node."""
    return any(name in halves.sites for name, _ in edit.uses or ())


def _within(sites: Iterable[Site], bounds: Mapping[str, Bounds]) -> list[Site]:
    """The sites, their ranges within what was asked for."""
    found = []
    for site in sites:
        lo, hi = bounds.get(site.value, ANY)
        found.append(replace(site, bounds=(max(site.bounds[0], lo), min(site.bounds[1], hi))))
    return found


def _halves(task: PlanInput, assignment: Assignment, ranges: Ranges | None, taken: set[str]) -> Halves:
    """What becomes float16: everything that can, in that mode, or what was asked for, in any other."""
    view, half = task.view, task.constraints.half
    if task.scheme.form is not Form.HALF:
        return place_half(view, {}, ranges, forced=half, others=False) if half else Halves()
    # An assignment has reasons for ops in the table of ops; float16 is a question for others, too.
    reasons = {**assignment.reasons, **task.constraints.float_nodes}
    keep = {n: r for n, r in reasons.items() if not r.general and n not in half}
    found = place_half(view, keep, ranges, forced=half, io_half=task.scheme.io is FLOAT16)
    float32 = {n for n, t in assignment.weight_types.items() if t is FLOAT32}
    kept = {v.name for n in float32 for v in view.node_by_name[n].inputs if v is not None}
    return replace(found, stored=found.stored - taken - kept)
