"""Which nodes take the form of the mode: the target's placements, to a fixpoint.

Nodes that are worth it ALWAYS are in; nodes worth it only INSIDE an int8 region stay in as long as
all their inputs (of arithmetic, one) arrive in int8 and somebody goes on in int8. Starting with all
of them in and taking out what fails is the greatest such set, and it is unique.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from qtool.graph.view import View, constant, sole_consumer
from qtool.plan.eligible import CONTROL_FLOW, data_inputs, rule_of, why_not
from qtool.plan.model import Skip, Wishes
from qtool.plan.scheme import Scheme
from qtool.plan.variants import variant
from qtool.tables.forms import Form
from qtool.tables.ops import OpRule, Role
from qtool.tables.targets import NO_FORM, WEIGHTS_ONLY, Placement, Worth


@dataclass(frozen=True)
class Candidate:
    """A node that can be quantized."""

    node: ir.Node
    rule: OpRule
    placement: Placement
    form: Form


@dataclass(frozen=True)
class Placed:
    """The nodes that are quantized, by name, and the reasons of the others."""

    chosen: dict[str, Candidate]
    skips: tuple[Skip, ...]
    scheme: Scheme
    wishes: Wishes

    def quantizes_output(self, node: ir.Node | None) -> bool:
        """Whether a node is in int8 and hands on int8, rather than floats."""
        if node is None or node.name not in self.chosen or self.chosen[node.name].form is not Form.INT8:
            return False
        return self.scheme.target.linear_output or node.op_type not in ("MatMul", "Gemm")

    def in_int8(self, value: ir.Value) -> bool:
        """Whether a value is made in int8 (and so only exists in int8)."""
        return self.quantizes_output(value.producer())

    def arrives_in_int8(self, value: ir.Value) -> bool:
        """Whether a value can be read in int8 for free: made so, or quantized for another reader."""
        if self.in_int8(value):
            return True
        readers = (self.chosen.get(use.node.name or "") for use in value.uses())
        return any(r is not None and r.placement.worth is Worth.ALWAYS for r in readers)

    def epilogue_of(self, node: ir.Node) -> ir.Node | None:
        """The clamp that folds into an int8 node's own Q: it alone reads the node's result."""
        if not self.quantizes_output(node) or len(node.outputs) != 1:
            return None
        reader = sole_consumer(node.outputs[0])
        if reader is None or reader.name not in self.chosen:
            return None
        clamps = self.chosen[reader.name].rule.role is Role.EPILOGUE and reader.inputs[0] is node.outputs[0]
        own_scale = self.chosen[node.name or ""].rule.role in (Role.WEIGHTED, Role.ARITHMETIC)
        return reader if clamps and own_scale else None


def place(view: View, scheme: Scheme, wishes: Wishes) -> Placed:
    """Label every node of the model: quantized, or skipped with its reason."""
    candidates, reasons = _candidates(view, scheme, wishes)
    placed = _fixpoint(Placed(candidates, (), scheme, wishes), reasons)
    skips = [
        Skip(node.name or "", node.op_type, reasons.get(node.name or "", NO_FORM.reason))
        for node in view.nodes
        if node.name not in placed.chosen and _computes_floats(node)
    ]
    return replace(placed, skips=tuple(skips))


def widest(view: View, scheme: Scheme, wishes: Wishes) -> Placed:
    """Every node that could pay in int8 under some labels: what measurement has to choose from.

    What `place` leaves out can't: nodes worth it between others only are in wherever any labels have such
    others around them. Beside these, the ops of which only a measurement can tell.
    """
    candidates, reasons = _candidates(view, scheme, wishes, measured=True)
    return _fixpoint(Placed(candidates, (), scheme, wishes), reasons)


def _candidates(
    view: View, scheme: Scheme, wishes: Wishes, *, measured: bool = False
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The nodes that can be quantized, and why the others can't be, or should not."""
    candidates: dict[str, Candidate] = {}
    reasons: dict[str, str] = {}
    for node in view.nodes:
        name, rule = node.name or "", rule_of(node)
        if rule is None:
            continue
        form = scheme.form_of(rule, inside=view.in_subgraph(node))
        placement = _placement(node, scheme, form)
        if name in wishes.force:
            placement = Placement(Worth.ALWAYS)
        elif measured and placement.measured is not None:
            placement = Placement(placement.measured, placement.reason)
        reason = wishes.keep_float.get(name) or (why_not(view, node, rule, scheme, form) if form else "")
        if not reason and (form is None or placement.worth is Worth.NEVER):
            reason = placement.reason or NO_FORM.reason
        if reason or form is None:
            reasons[name] = reason
        else:
            candidates[name] = Candidate(node, rule, placement, form)
    return candidates, reasons


def _placement(node: ir.Node, scheme: Scheme, form: Form | None) -> Placement:
    """The target's word on a form, or where a node has none in this mode, on the mode's."""
    form = form or scheme.form
    if form is None or form not in scheme.target.forms:
        return WEIGHTS_ONLY
    return scheme.target.forms[form].of(node.op_type, variant(node))


def _fixpoint(placed: Placed, reasons: dict[str, str]) -> Placed:
    chosen = dict(placed.chosen)
    current = replace(placed, chosen=chosen)
    pending = list(chosen)
    while pending:
        dropped = [name for name in pending if name in chosen and not _holds(current, chosen[name])]
        around: dict[str, None] = {}
        for name in dropped:
            candidate = chosen.pop(name)
            reasons[name] = candidate.placement.reason
            around |= dict.fromkeys(_neighbours(candidate.node))
        pending = [name for name in around if name in chosen]
    return current


def _holds(placed: Placed, candidate: Candidate) -> bool:
    """Whether a node's claim to int8 stands, given the other labels."""
    if candidate.placement.worth is Worth.ALWAYS:
        return True
    source = candidate.node.inputs[0]
    producer = source.producer() if source is not None else None
    if producer is not None and placed.epilogue_of(producer) is candidate.node:
        return True
    here = [placed.arrives_in_int8(value) for _, value in data_inputs(candidate.node, candidate.rule)]
    # An Add whose other operand has to be quantized for it still saves a DQ and a Q; a pass-through
    # with one float input would have to share that input's scale.
    arrives = any(here) if candidate.rule.role is Role.ARITHMETIC else all(here)
    return arrives and any(_read_in_int8(placed, out) for out in candidate.node.outputs)


def _read_in_int8(placed: Placed, value: ir.Value) -> bool:
    for use in value.uses():
        reader = placed.chosen.get(use.node.name or "")
        if reader and any(index == use.idx for index, _ in data_inputs(use.node, reader.rule)):
            return True
    return False


def _neighbours(node: ir.Node) -> list[str]:
    near = [v.producer() for v in node.inputs if v is not None]
    near += [use.node for out in node.outputs for use in out.uses()]
    return [n.name or "" for n in near if n is not None]


def _computes_floats(node: ir.Node) -> bool:
    """Whether a node is one whose precision a reader of the report would ask about."""
    if node.op_type in CONTROL_FLOW or node.op_type in ("Constant", "ConstantOfShape", "Range", "Cast"):
        return False
    if all(constant(v) is not None for v in node.inputs if v is not None):
        return False
    floats = (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    return any(v.dtype in floats for v in node.outputs if v.name)
