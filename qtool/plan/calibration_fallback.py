"""The calibration fallback: nodes go back to float where the ranges of their activations do not suit int8."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from qtool.calibration.ranges import Range, Ranges
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

# Maximum ratio between ranges that share a scale: at 32, 3 of 8 bits are left to the smaller range.
_MOST_UNEVEN = 32.0


def fallback_nodes(task: PlanInput, plan: Plan, ranges: Ranges, *, absent: str = "") -> dict[str, Reason]:
    """Return the quantized nodes that must stay in float because of their activations, with the reason.

    Calibration never ran them, or their activations hold masks of -inf, or a few outliers make the range so
    wide that one step covers most other values. A node that the user asked to quantize stays quantized unless
    it has no range.

    Args:
        task: the graph and the constraints.
        plan: drafted.
        ranges: of the values that the plan observes.
        absent: why a value has no range; '': no sample ever had an element of it.
    """
    view, mode = task.view, task.scheme.mode
    reasons = dict(_uneven(plan, ranges, view))
    if TARGETS[plan.target].onnxruntime:
        reasons = dict(_unclamped(plan, ranges, view)) | reasons
    for site in plan.sites:
        if site.kind not in OBSERVED:
            continue
        reason = _reason(site, ranges.get(site.value), view, mode, absent)
        for name in nodes_around(site, view) if reason is not None else ():
            if reason is not None:
                reasons.setdefault(name, reason)
    return {
        name: reason
        for name, reason in reasons.items()
        if reason.code is Code.NO_RANGE or not task.constraints.forbids_float(name)
    }


def fallback_ports(plan: Plan, ranges: Ranges, ports: Iterable[ir.Value]) -> frozenset[str]:
    """Return the integer ports of a model that must stay float: they hold masks, or have no range."""
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    names = {v.name or "" for v in ports} & planned
    return frozenset(n for n in names if (observed := ranges.get(n)) is None or observed.masked)


def _reason(site: Site, observed: Range | None, view: View, mode: Mode, absent: str) -> Reason | None:
    if observed is None:
        if site.kind is Kind.RUNTIME:
            return None  # its scale is computed at run time
        never = f"never executed in calibration ('{site.value}' was always empty)"
        return Reason(Code.NO_RANGE, absent or never)
    spans = f"{observed.lo:.3g}..{observed.hi:.3g}"
    if observed.masked:
        return Reason(Code.NO_RANGE, f"its activation '{site.value}' holds infinities or masks")
    if site.kind is Kind.ACTIVATION and not scalable(_span(observed)):
        return Reason(
            Code.NO_RANGE, f"no scale stands for its activation '{site.value}', which spans {spans}"
        )
    step = _span(observed) / (site.spec.qtype.qmax - site.spec.qtype.qmin)
    step /= math.sqrt(_parts(site, view))
    if observed.typical < mode.least_typical_steps * step and _suffers(site, view):
        return Reason(
            Code.OUTLIERS, f"outliers: '{site.value}' spans {spans}, typically {observed.typical:.2g}"
        )
    return None


def _span(observed: Range) -> float:
    """Return the length of a range that is extended to hold 0."""
    return max(observed.hi, 0.0) - min(observed.lo, 0.0)


def _uneven(plan: Plan, ranges: Ranges, view: View) -> Iterator[tuple[str, Reason]]:
    """Yield the nodes that would make values share a scale too coarse for one of them, with the reason.

    An example is a Concat of boxes in pixels and of scores: the scores would all be 0.
    """
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    for name, form in plan.forms.items():
        node = view.node_by_name[name]
        rule = rule_of(node)
        if form is not Form.INT8 or rule is None or rule.role is not Role.PASS:
            continue
        names = [v.name or "" for v in node.inputs if v is not None and v.name in planned]
        spans = {n: _span(observed) for n in names if (observed := ranges.get(n)) and _span(observed) > 0}
        small = min(spans, key=lambda n: spans[n], default="")
        large = max(spans, key=lambda n: spans[n], default="")
        if small and spans[large] > _MOST_UNEVEN * spans[small]:
            spread = f"'{small}' spans {spans[small]:.3g}, '{large}' {spans[large]:.3g}"
            yield name, Reason(Code.NO_RANGE, f"no one scale suits its inputs: {spread}")


def _unclamped(plan: Plan, ranges: Ranges, view: View) -> Iterator[tuple[str, Reason]]:
    """Yield the Concats whose shared scale would keep a clamp from folding into its Q, with the reason.

    A Relu behind a convolution costs nothing where its Q has no integers below 0. With the scale
    of a value with a wider range, the Relu stays a node, and onnxruntime runs both in float: 1.5x as fast as
    FP32 instead of 2.7x. A Concat whose inputs have scales of their own still runs in int8, more slowly.
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


def _within(observed: Range, bounds: Bounds) -> Bounds:
    return max(observed.lo, bounds[0]), min(observed.hi, bounds[1])


def _folded(value: ir.Value, plan: Plan) -> Bounds | None:
    """Return the bounds of a clamp that folds into a convolution, past pass-through nodes; else None."""
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
    """Return the number of parts with a scale of their own: an outlier spoils one part."""
    granularity = site.spec.granularity
    if not isinstance(granularity, PerBlock) or not site.uses:
        return 1
    name, _ = site.uses[0]
    weight = float_constant(view.node_by_name[name].inputs[1])
    return 1 if weight is None else max(1, max(weight.shape) // granularity.size)


def _suffers(site: Site, view: View) -> bool:
    """Whether lost small values matter: to a MatMul, Gemm or arithmetic next to them.

    Bounded values, such as those of a Softmax, are mostly small anyway. The information in the sparse ReLU
    outputs of a convolution lies in the large values.
    """
    if all(map(math.isfinite, site.bounds)):
        return False
    producer = view.values[site.value].producer()
    touched = [view.node_by_name[name] for name, _ in site.uses] if site.uses is not None else [producer]
    rules = (rule_of(n) for n in touched if n is not None)
    return any(r is not None and (r.product or r.role is Role.ARITHMETIC) for r in rules)


def nodes_around(site: Site, view: View) -> list[str]:
    """Return the nodes around a site: its quantized consumers, or the producer and every consumer."""
    if site.uses is not None:
        return [name for name, _ in site.uses]
    value = view.values[site.value]
    producer = value.producer()
    producers = [] if producer is None else [producer]
    return [n.name or "" for n in (*producers, *(use.node for use in value.uses()))]
