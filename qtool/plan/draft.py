"""Draft a plan: from an assignment to sites, the type of each tensor and its consumers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qtool.calibration.ranges import Ranges
from qtool.graph.view import View, constant
from qtool.plan.activations import activation_sites, runtime_sites, written_ports
from qtool.plan.assignment import Assignment, PlanInput, assigned_graph
from qtool.plan.barriers import fusion_barriers, sum_edits
from qtool.plan.eligible import data_inputs
from qtool.plan.fp16.assignment import assign_fp16, copied_weights, observed_values
from qtool.plan.fp16.norms import norm_barriers
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import (
    EditKind,
    Fp16Assignment,
    GraphEdit,
    Kind,
    OutlierColumns,
    Plan,
    Site,
)
from qtool.plan.outlier_columns import with_outlier_columns
from qtool.plan.rules import maximal, skips
from qtool.plan.storage import stored_weights
from qtool.plan.weights import weight_sites
from qtool.tables.forms import WRITTEN_AS, Form, Operator
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import FLOAT16, FLOAT32
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import Target

_PART = Reason(Code.PART, "it adds the bias of an int8 product, in float")


def draft(
    task: PlanInput,
    assignment: Assignment,
    *,
    bounds: Mapping[str, Bounds] | None = None,
    outlier_columns: Mapping[str, OutlierColumns] | None = None,
    ranges: Ranges | None = None,
) -> Plan:
    """Return the plan of an assignment, without scales.

    Args:
        task: the graph, the scheme and the constraints.
        assignment: the form of each node.
        bounds: activation -> limits of its range, tighter than the observed range.
        outlier_columns: activation -> columns to leave to float, where all its int8 consumers can.
        ranges: observed so far; float16 must be able to hold these values.
    """
    view, scheme = task.view, task.scheme
    assigned = assigned_graph(task, assignment)
    own, edits = weight_sites(view, assigned)
    storage = stored_weights(view, scheme, assignment.weight_types, own)
    fp16 = _fp16_assignment(task, assignment, ranges, {s.value for s in storage.sites})
    edits = [e for e in edits if e.kind is not EditKind.ADDED_BIAS or not _is_fp16(e, fp16)]
    activations = activation_sites(view, assigned, scheme)
    edits = [*edits, *fusion_barriers(view, assigned, [*activations, *own])]
    sites = (*activations, *runtime_sites(view, assigned), *own, *storage.sites)
    sites, columns = with_outlier_columns(view, _within(sites, bounds or {}), outlier_columns or {})
    forms = dict(assignment.forms)
    # The Add of a bias becomes part of the product, where the product can add it; else it stays in float.
    fused = {n: s.scale_from[1] for s in own if s.kind is Kind.BIAS and s.scale_from for n, _ in s.uses or ()}
    fused |= {n: e.node for e in edits if e.kind is EditKind.ADDED_BIAS for n, _ in e.uses or ()}
    forms |= {name: forms[product] for name, product in fused.items()}
    adds = {n for e in edits if e.kind is EditKind.RESHAPED_BIAS for n, _ in e.uses or ()}
    chosen = _operators(view, forms, sites, scheme.target)
    fp16 = replace(fp16, copied=copied_weights(view, fp16, sites, edits))
    edits = [*edits, *sum_edits(view, chosen, columns), *norm_barriers(view, fp16, sites)]
    forms |= dict.fromkeys((n for n in view.node_by_name if n in fp16.nodes), Form.FLOAT16)
    reasons = _storage_reasons(task, storage.reasons) | _fp16_reasons(task, fp16)
    skipped = (
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
        tuple(skipped),
        fp16,
        tuple(observed_values(fp16, view, io_float16=scheme.io is FLOAT16)),
        choices=scheme.choices,
        exclude=patterns.exclude,
        include=patterns.include,
        sets=patterns.sets,
        outlier_columns=columns,
        scaled=task.scaled,
        edits=tuple(edits),
        operators=chosen,
        integer_ports=written_ports(view, scheme, activations),
        runtime=scheme.runtime,
    )


def observation_sets(task: PlanInput) -> list[list[str]]:
    """Return the values of the main graph to observe, in sets of falling priority.

    1. The values that the all-int8 plan needs: nearly all that any plan needs.
    2. The inputs and outputs of the same nodes in other forms.
    3. All other floats.
    """
    view, all_int8 = task.view, maximal(task)
    assigned = assigned_graph(task, all_int8)
    sites = (*activation_sites(view, assigned, task.scheme), *runtime_sites(view, assigned))
    fp16 = _fp16_assignment(task, all_int8, None, set())
    first = [*(s.value for s in sites), *observed_values(fp16, view, io_float16=task.scheme.io is FLOAT16)]
    near = [
        v.name or ""
        for own in assigned.chosen.values()
        for v in (*(v for _, v in data_inputs(own.node, own.rule)), *own.node.outputs)
    ]
    rest = (name for name, value in view.values.items() if is_float32(value))
    sets: list[list[str]] = []
    listed: set[str] = set()
    for names in (first, near, rest):
        sets.append([n for n in dict.fromkeys(names) if n not in listed and _is_observable(n, view)])
        listed.update(sets[-1])
    return sets


def _is_observable(name: str, view: View) -> bool:
    """Whether a value lies in the main graph and depends on the samples."""
    value = view.values.get(name)
    return (
        value is not None and view.in_main(value) and constant(value) is None and not value.is_initializer()
    )


def _storage_reasons(task: PlanInput, reasons: Mapping[str, str]) -> dict[str, Reason]:
    """Return the reasons why weights are not stored in fewer bits, in a mode that quantizes weights only."""
    if task.scheme.mode.form is not None:
        return {}
    return {name: Reason(Code.STORAGE, text) for name, text in reasons.items()}


def _fp16_reasons(task: PlanInput, fp16: Fp16Assignment) -> dict[str, Reason]:
    """Return the reasons why nodes are not float16: all in mode fp16, else those with --set fp16."""
    wanted = fp16.reasons if task.scheme.form is Form.FLOAT16 else task.constraints.fp16
    return {name: fp16.reasons[name] for name in wanted if name in fp16.reasons}


def _is_fp16(edit: GraphEdit, fp16: Fp16Assignment) -> bool:
    """Whether a consumer in `edit.uses` computes in float16: that Add stays a node."""
    return any(name in fp16.nodes for name, _ in edit.uses or ())


def _within(sites: Iterable[Site], bounds: Mapping[str, Bounds]) -> list[Site]:
    """Return the sites with their ranges limited to `bounds`."""
    limited = []
    for site in sites:
        lo, hi = bounds.get(site.value, ANY)
        limited.append(replace(site, bounds=(max(site.bounds[0], lo), min(site.bounds[1], hi))))
    return limited


def _fp16_assignment(
    task: PlanInput, assignment: Assignment, ranges: Ranges | None, taken: set[str]
) -> Fp16Assignment:
    """Return the float16 assignment: of every node in mode fp16, else of the nodes with --set fp16."""
    view, forced = task.view, task.constraints.fp16
    if task.scheme.form is not Form.FLOAT16:
        return assign_fp16(view, {}, ranges, forced=forced, others=False) if forced else Fp16Assignment()
    # Assignments give reasons for ops in the op table only; other ops can be float16, too.
    reasons = {**assignment.reasons, **task.constraints.float_nodes}
    keep = {n: r for n, r in reasons.items() if not r.general and n not in forced}
    fp16 = assign_fp16(view, keep, ranges, forced=forced, io_float16=task.scheme.io is FLOAT16)
    float32 = {n for n, t in assignment.weight_types.items() if t is FLOAT32}
    kept = {v.name for n in float32 for v in view.node_by_name[n].inputs if v is not None}
    return replace(fp16, stored=fp16.stored - taken - kept)


def _operators(
    view: View, forms: Mapping[str, Form], sites: Iterable[Site], target: Target
) -> dict[str, Operator]:
    """Return the operator of each node that has its own: node name -> operator, in the order of `forms`.

    onnxruntime has products that quantize their activation themselves. Where several nodes read the same
    activation, it is quantized once, and each product reads the integers. Other runtimes get ONNX's own
    MatMulInteger.

    Args:
        view: of the prepared model.
        forms: node -> its form. The Add of a bias that a product adds itself has the product's form.
        sites: of the draft.
        target: the runtime that the model is for.
    """
    readers = {use: len(s.uses or ()) for s in sites if s.kind is Kind.RUNTIME for use in s.uses or ()}
    operators: dict[str, Operator] = {}
    for name, form in forms.items():
        able = WRITTEN_AS.get(form, {}).get(view.node_by_name[name].op_type, frozenset())
        if len(able) == 1:
            operators[name] = next(iter(able))
        elif able:
            operators[name] = _product_operator(readers.get((name, 0), 1), target)
    return operators


def _product_operator(readers: int, target: Target) -> Operator:
    if not target.onnxruntime:
        return Operator.MATMUL_INTEGER
    return Operator.MATMUL_INTEGER_TO_FLOAT if readers > 1 else Operator.DYNAMIC_QUANTIZE_MATMUL
