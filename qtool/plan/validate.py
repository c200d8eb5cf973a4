"""Check that a plan from a file fits a model."""

from __future__ import annotations

import numpy as np

from qtool.graph.view import View, float_constant, in_side_file, is_op
from qtool.numerics.qparams import midpoint, scale_shape
from qtool.numerics.quantize import bias_scale
from qtool.plan.fp16.assignment import copied_weights, float32_ports
from qtool.plan.fp16.norms import norm_barriers
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, EditKind, GraphEdit, Kind, Plan, Site, Use
from qtool.plan.steps import at_bucket
from qtool.tables.forms import WRITTEN_AS, Form
from qtool.tables.qtypes import FLOAT16, PerTensor


def validate_plan(plan: Plan, view: View) -> str:
    """Return the first problem of a plan for a model; '' when it fits. Users may edit plans by hand."""
    for name in plan.forms:
        if name not in view.node_by_name:
            return f"there is no node '{name}'"
    for site in plan.sites:
        if problem := _site(site, view):
            return f"'{site.value}': {problem}"
    for name, offsets in plan.corrections.items():
        array = float_constant(view.model.graph.initializers.get(name))
        if array is None or array.size != len(offsets):
            return f"there is no bias '{name}' of {len(offsets)} floats"
    quantized = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION and s.uses is None}
    graph = view.model.graph
    if unknown := set(plan.integer_ports) - (quantized & {v.name for v in (*graph.inputs, *graph.outputs)}):
        return f"'{min(unknown)}' is no input or output that is quantized for all its consumers"
    for edit in plan.edits:
        if problem := _edit(edit, plan, view):
            return f"'{edit.value}': {edit.kind.value}: {problem}"
    if problem := _fp16(plan, view) or _operators(plan, view) or _together(plan):
        return problem
    return _steps(plan, view)


def _steps(plan: Plan, view: View) -> str:
    """Return the first problem of the scales that follow an input."""
    steps = plan.steps
    if steps is None:
        return ""
    if steps.input not in {v.name for v in view.model.graph.inputs}:
        return f"there is no input '{steps.input}' for scales to follow"
    if not steps.bounds or list(steps.bounds) != sorted(set(steps.bounds)):
        return f"the bounds of '{steps.input}' do not ascend"
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    for value, params in steps.qparams.items():
        if value not in planned or len(params) != len(steps.bounds) + 1:
            return f"'{value}' has no scale for each bucket of '{steps.input}'"
        if any(each.scale.ndim or not np.isfinite(each.scale) or each.scale <= 0 for each in params):
            return f"'{value}' has a scale that is not finite and positive"
    parts = (at_bucket(plan, index) for index in range(len(steps.bounds) + 1))
    return next((problem for part in parts if (problem := _together(part))), "")


def _fp16(plan: Plan, view: View) -> str:
    """Return the first problem of the float16 assignment. Nodes and ports determine copies and barriers."""
    fp16 = plan.fp16
    for name, ports in fp16.nodes.items():
        node = view.node_by_name.get(name)
        if node is None or plan.forms.get(name) is not Form.FLOAT16:
            return f"there is no float16 node '{name}'"
        ends = ((ports.inputs, len(node.inputs)), (ports.outputs, len(node.outputs)))
        if any(not 0 <= index < count for indices, count in ends for index in indices):
            return f"'{name}' has no such inputs or outputs"
    own = {v.name or "" for v in float32_ports(view)} if plan.choices.io == FLOAT16.name else set()
    if unknown := fp16.ports - own:
        return f"'{min(unknown)}' is no input or output that can be float16"
    weights = {n for n, v in view.values.items() if v.is_initializer() and is_float32(v)}
    if unknown := fp16.stored - weights:
        return f"'{min(unknown)}' is no float32 weight"
    if differ := fp16.copied ^ copied_weights(view, fp16, plan.sites, plan.edits):
        wanted = "no copy" if min(differ) in fp16.copied else "a copy"
        return f"'{min(differ)}': its consumers need {wanted} in float16"
    listed = {e for e in plan.edits if e.kind is EditKind.NORM_BARRIER}
    if barriers := listed ^ set(norm_barriers(view, fp16, plan.sites)):
        value = min(e.value for e in barriers)
        return f"'{value}': the edits '{EditKind.NORM_BARRIER.value}' do not fit the float16 nodes"
    return ""


def _operators(plan: Plan, view: View) -> str:
    """Return the first node whose operator does not fit its form and op, as a problem."""
    added = {name for e in plan.edits if e.kind is EditKind.ADDED_BIAS for name, _ in e.uses or ()}
    for name in dict.fromkeys((*plan.forms, *plan.operators)):
        form, operator = plan.forms.get(name), plan.operators.get(name)
        if name in added or (form not in WRITTEN_AS and operator is None):
            continue
        op_type = view.node_by_name[name].op_type if form is not None else ""
        if form not in WRITTEN_AS or operator not in WRITTEN_AS[form].get(op_type, ()):
            written = operator.value if operator is not None else "no operator"
            return f"'{name}' cannot be written as {written}"
    return ""


def _together(plan: Plan) -> str:
    """Return the first disagreement: scales in one group, or of a bias with its input and weight."""
    activations = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    weights = {use: s for s in plan.sites if s.kind is Kind.WEIGHT for use in s.uses or ()}
    leaders: dict[str, Site] = {}
    for site in activations.values():
        if leaders.setdefault(site.group, site).qparams != site.qparams:
            return f"'{site.value}' has another scale than '{leaders[site.group].value}' in its group"
    for bias in (s for s in plan.sites if s.kind is Kind.BIAS):
        value, node = bias.scale_from or ("", "")
        source, weight = activations.get(value), weights.get((node, 1))
        if source is None or weight is None or not (source.qparams and weight.qparams and bias.qparams):
            return f"'{bias.value}' is a bias without an input and a weight in the plan"
        scale = weight.qparams.scale
        groups = bias.qparams.scale.size // max(scale.size, 1)
        wanted = bias_scale(source.qparams.scale, scale, groups)
        if not np.array_equal(bias.qparams.scale, wanted):
            return f"'{bias.value}': its scale is not the product of the scales of its input and weight"
    return ""


def _uses(value: str, uses: tuple[Use, ...] | None, view: View) -> str:
    """Return the first problem of a value and its listed consumers."""
    if value not in view.values:
        return "there is no such value"
    for name, index in uses or ():
        node = view.node_by_name.get(name)
        if node is None or not 0 <= index < len(node.inputs):
            return f"there is no input {index} of a node '{name}'"
        if node.inputs[index] is not view.values[value]:
            return f"input {index} of '{name}' is another value"
    return ""


def _edit(edit: GraphEdit, plan: Plan, view: View) -> str:
    """Return the first problem of an edit."""
    if problem := _uses(edit.value, edit.uses, view):
        return problem
    if edit.kind is EditKind.QUANTIZER_BARRIER:
        quantized = any(s.kind is Kind.ACTIVATION and s.value == edit.value for s in plan.sites)
        return "" if quantized else "the value has no QuantizeLinear"
    if edit.kind in (EditKind.RESULT_BARRIER, EditKind.NORM_BARRIER):
        return ""
    adds = [view.node_by_name[name] for name, _ in edit.uses or ()]
    if not adds or not all(is_op(node, "Add") for node in adds):
        return "its consumers are not all Adds"
    if edit.kind is EditKind.SUM:
        return ""
    bias = float_constant(view.values[edit.value])
    if bias is None or max(bias.shape, default=1) != bias.size:
        return "the value is not a constant vector"
    if edit.kind is EditKind.RESHAPED_BIAS:
        return "" if edit.axes >= 1 else f"{edit.axes} axes are too few"
    product = view.node_by_name.get(edit.node)
    if product is None or plan.forms.get(edit.node) not in (Form.DYNAMIC, Form.NBITS):
        return f"there is no integer product '{edit.node}'"
    beside = all(product.outputs[0] in node.inputs for node in adds)
    return "" if beside and len(adds) == 1 else f"its Add does not read '{edit.node}'"


def _site(site: Site, view: View) -> str:
    """Return the first problem of a site."""
    if problem := _uses(site.value, site.uses, view):
        return problem
    if site.integers is not None and site.kind not in WEIGHTS:
        return "it has integers, but is no weight"
    if not site.scaled:
        return ""
    if site.qparams is None:
        value = view.values[site.value]
        follows = site.kind in WEIGHTS and site.kind is not Kind.WEIGHT and in_side_file(value)
        return "" if follows and site.integers is None else "it has no scale"
    scale, zero = site.qparams.scale, site.qparams.zero_point
    if site.kind is Kind.ACTIVATION:
        fits = scale.shape == ()
    else:
        array = float_constant(view.values[site.value])
        if array is None:
            return "it is no float constant"
        per_tensor = isinstance(site.spec.granularity, PerTensor)
        wanted: tuple[int, ...] = () if per_tensor else (array.size,)
        if site.kind in WEIGHTS:
            wanted = scale_shape(array.shape, site.spec.granularity)
        if site.integers is not None and site.integers.shape != array.shape:
            return f"its integers have shape {site.integers.shape}, the weight {array.shape}"
        centred = not site.spec.symmetric or bool((zero == midpoint(site.spec.qtype)).all())
        fits = scale.shape == wanted and centred
    if not fits:
        return "its scale has another shape, or a zero point it can't have"
    qtype = site.spec.qtype
    return "" if ((zero >= qtype.qmin) & (zero <= qtype.qmax)).all() else "its zero point is out of range"
