"""The calibration fallback: what the ranges show to be unfit for int8 goes back to float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from qtool.calibrate.ranges import Range, Ranges
from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import scalable
from qtool.plan.activations import bounds_of
from qtool.plan.assignment import PlanInput
from qtool.plan.eligible import rule_of
from qtool.plan.model import OBSERVED, Kind, Plan, Site
from qtool.tables.forms import Form
from qtool.tables.modes import Mode
from qtool.tables.ops import Bounds, Role
from qtool.tables.qtypes import PerBlock
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import TARGETS

# Maximum ratio between ranges that share a scale: 3 of 8 bits are left to the smaller one then.
_MOST_UNEVEN = 32.0


def fallback_nodes(
    task: PlanInput, plan: Plan, ranges: Ranges, *, estimated: bool = False
) -> dict[str, Reason]:
    """Return the quantized nodes that must stay in float because of what their activations held.

    Calibration never ran them, or masks of -inf reach them, or a few outliers stretch the range so far that
    one step swallows the other values. A node that the user asked to quantize stays unless it has no range.

    Args:
        task: the graph and the constraints.
        plan: drafted.
        ranges: of the values that it observes.
        estimated: the ranges come from the model alone: a value without one could not be derived.
    """
    view, mode = task.view, task.scheme.mode
    reasons = dict(_uneven(plan, ranges, view))
    if TARGETS[plan.target].onnxruntime:
        reasons = dict(_unclamped(plan, ranges, view)) | reasons
    for site in plan.sites:
        if site.kind not in OBSERVED:
            continue
        reason = _reason(site, ranges.get(site.value), view, mode, estimated)
        for name in touching(site, view) if reason is not None else ():
            if reason is not None:
                reasons.setdefault(name, reason)
    return {
        name: reason
        for name, reason in reasons.items()
        if reason.code is Code.NO_RANGE or not task.constraints.forbids_float(name)
    }


def fallback_ports(plan: Plan, ranges: Ranges, ports: Iterable[ir.Value]) -> frozenset[str]:
    """Of a model's integer ports, those that no integers can stand for: masked, or never seen."""
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    names = {v.name or "" for v in ports} & planned
    return frozenset(n for n in names if (seen := ranges.get(n)) is None or seen.masked)


def _reason(site: Site, seen: Range | None, view: View, mode: Mode, estimated: bool) -> Reason | None:
    if seen is None:
        if site.kind is Kind.RUNTIME:
            return None  # its scale comes with the values, if they ever do
        absent = "its range can't be derived without samples"
        never = f"never executed in calibration ('{site.value}' was always empty)"
        return Reason(Code.NO_RANGE, absent if estimated else never)
    spans = f"{seen.lo:.3g}..{seen.hi:.3g}"
    if seen.masked:
        return Reason(Code.NO_RANGE, f"its activation '{site.value}' holds infinities or masks")
    if site.kind is Kind.ACTIVATION and not scalable(_span(seen)):
        return Reason(
            Code.NO_RANGE, f"no scale stands for its activation '{site.value}', which spans {spans}"
        )
    step = _span(seen) / (site.spec.qtype.qmax - site.spec.qtype.qmin)
    step /= math.sqrt(_parts(site, view))
    if seen.typical < mode.least_typical_steps * step and _suffers(site, view):
        return Reason(Code.OUTLIERS, f"outliers: '{site.value}' spans {spans}, typically {seen.typical:.2g}")
    return None


def _span(seen: Range) -> float:
    """What a grid that holds 0 has to reach over."""
    return max(seen.hi, 0.0) - min(seen.lo, 0.0)


def _uneven(plan: Plan, ranges: Ranges, view: View) -> Iterator[tuple[str, Reason]]:
    """Nodes that would make values share a scale that is far too coarse for one of them: (name, reason).

    Such as a Concat of boxes in pixels and of scores: the scores would all be 0.
    """
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    for name, form in plan.forms.items():
        node = view.node_by_name[name]
        rule = rule_of(node)
        if form is not Form.INT8 or rule is None or rule.role is not Role.PASS:
            continue
        names = [v.name or "" for v in node.inputs if v is not None and v.name in planned]
        spans = {n: _span(seen) for n in names if (seen := ranges.get(n)) and _span(seen) > 0}
        least = min(spans, key=lambda n: spans[n], default="")
        widest = max(spans, key=lambda n: spans[n], default="")
        if least and spans[widest] > _MOST_UNEVEN * spans[least]:
            spread = f"'{least}' spans {spans[least]:.3g}, '{widest}' {spans[widest]:.3g}"
            yield name, Reason(Code.NO_RANGE, f"no one scale suits its inputs: {spread}")


def _unclamped(plan: Plan, ranges: Ranges, view: View) -> Iterator[tuple[str, Reason]]:
    """Concats that would take a clamp out of the Q that it folds into: (name, reason).

    A Relu behind a convolution costs nothing where the Q behind it can say nothing below 0. With the scale of
    a value that goes further, it stays, and onnxruntime runs both in float (1.5x of FP32 where 2.7x can be
    had). Of inputs with scales of their own, a Concat is run in int8 all the same, if more slowly.
    """
    sites = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    for name, form in plan.forms.items():
        node = view.node_by_name[name]
        if form is not Form.INT8 or node.op_type != "Concat":
            continue
        inputs = [sites[v.name] for v in node.inputs if v is not None and v.name in sites]
        spans = {s.value: _within(ranges[s.value], s.bounds) for s in inputs if s.value in ranges}
        step = max((hi - min(lo, 0.0) for lo, hi in spans.values()), default=0.0) / 255
        clamps = {s.value: b for s in inputs if (b := _folded(view.values[s.value], plan)) is not None}
        for clamped, (low, high) in clamps.items():
            over = [v for v, (lo, hi) in spans.items() if lo < low - step / 2 or hi > high + step / 2]
            if over:
                lo, hi = spans[over[0]]
                wide = f"'{over[0]}' spans {lo:.3g}..{hi:.3g}"
                text = f"{wide}: with its scale, the clamp of '{clamped}' to {low:.3g}..{high:.3g} stays"
                yield name, Reason(Code.TARGET, text)
                break


def _within(seen: Range, bounds: Bounds) -> Bounds:
    return max(seen.lo, bounds[0]), min(seen.hi, bounds[1])


def _folded(value: ir.Value, plan: Plan) -> Bounds | None:
    """The bounds of the clamp behind a convolution that makes a value, if only moved; None for all else."""
    node = value.producer()
    while node is not None and plan.forms.get(node.name or "") is Form.INT8:
        rule, source = rule_of(node), node.inputs[0]
        producer = source.producer() if source is not None else None
        if rule is not None and rule.role is Role.EPILOGUE:
            folds = producer is not None and producer.op_type == "Conv" and producer.name in plan.forms
            return bounds_of(node.outputs[0]) if folds else None
        if rule is None or rule.role is not Role.PASS:
            return None
        node = producer
    return None


def _parts(site: Site, view: View) -> int:
    """Of how many parts, each with its own scale, an outlier can spoil but one."""
    granularity = site.spec.granularity
    if not isinstance(granularity, PerBlock) or not site.uses:
        return 1
    name, _ = site.uses[0]
    weight = float_constant(view.node_by_name[name].inputs[1])
    return 1 if weight is None else max(1, max(weight.shape) // granularity.size)


def _suffers(site: Site, view: View) -> bool:
    """Whether drowned values matter: to a MatMul, Gemm or arithmetic that makes or reads them.

    What is bounded (a Softmax) is mostly small by nature, and a convolution's sparse ReLU outputs carry
    what they say in their large values.
    """
    if all(map(math.isfinite, site.bounds)):
        return False
    producer = view.values[site.value].producer()
    touched = [view.node_by_name[name] for name, _ in site.uses] if site.uses is not None else [producer]
    return any(n is not None and (n.op_type in ("MatMul", "Gemm") or _is_arithmetic(n)) for n in touched)


def _is_arithmetic(node: ir.Node) -> bool:
    rule = rule_of(node)
    return rule is not None and rule.role is Role.ARITHMETIC


def touching(site: Site, view: View) -> list[str]:
    """The int8 nodes that make or read a site's value."""
    if site.uses is not None:
        return [name for name, _ in site.uses]
    value = view.values[site.value]
    producer = value.producer()
    producers = [] if producer is None else [producer]
    return [n.name or "" for n in (*producers, *(use.node for use in value.uses()))]
