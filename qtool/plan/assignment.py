"""The assignment of forms to nodes, as the rules, the solver and repair produce it, and its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from qtool.graph.grids import NO_GRIDS, Grids
from qtool.graph.view import View, op_key, sole_consumer
from qtool.plan.constraints import Constraints
from qtool.plan.eligible import data_inputs, rule_of
from qtool.plan.model import Scaled
from qtool.plan.scheme import Scheme
from qtool.plan.variants import variant
from qtool.tables.forms import Form
from qtool.tables.ops import OpRule, Role
from qtool.tables.qtypes import QType
from qtool.tables.reasons import Reason
from qtool.tables.targets import WEIGHTS_ONLY, Placement, Worth


@dataclass(frozen=True)
class PlanInput:
    """The input of every plan of one run.

    Args:
        view: of the prepared model.
        scheme: mode, target and types.
        constraints: the user's, for each node.
        model_sha256: of the source model; '' for a model made in memory.
        scaled: constant of the prepared model -> the factors that it has in `view`.
        grids: the quantization that the model came with, which plans keep.
    """

    view: View
    scheme: Scheme
    constraints: Constraints = field(default_factory=Constraints)
    model_sha256: str = ""
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)
    grids: Grids = NO_GRIDS


@dataclass(frozen=True)
class Assignment:
    """A form for each quantized node, and a reason for each node that is left in float.

    Args:
        forms: quantized node -> form, in graph order.
        reasons: float node -> why; missing for nodes that no rule covers.
        weight_types: node -> the storage type of its weights; default: the scheme's.
        product_types: node -> the type of its weight where it is an int8 product; default: the scheme's.
        float_ports: inputs and outputs of the model that stay float in spite of --io.
    """

    forms: Mapping[str, Form]
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    weight_types: Mapping[str, QType] = field(default_factory=dict)
    product_types: Mapping[str, QType] = field(default_factory=dict)
    float_ports: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QuantizedNode:
    """A node with its form, and the target's placement of it."""

    node: ir.Node
    rule: OpRule
    placement: Placement
    form: Form


@dataclass(frozen=True)
class AssignedGraph:
    """The quantized nodes of an assignment, by name.

    Args:
        chosen: node name -> the node with its form.
        scheme: mode, target and types.
        weight_types, product_types, float_ports: as in the assignment.
        required: nodes that the user asked to quantize.
        grids: as in the plan's input.
    """

    chosen: Mapping[str, QuantizedNode]
    scheme: Scheme
    weight_types: Mapping[str, QType]
    product_types: Mapping[str, QType]
    float_ports: frozenset[str]
    required: frozenset[str]
    grids: Grids = NO_GRIDS

    def quantizes_output(self, node: ir.Node | None) -> bool:
        """Whether a node computes in int8 and its result is int8, not float."""
        own = None if node is None else self.chosen.get(node.name or "")
        if node is None or own is None or own.form is not Form.INT8:
            return False
        return self.scheme.target.linear_output or not own.rule.product

    def in_int8(self, value: ir.Value) -> bool:
        """Whether the producer of a value computes it in int8, so that no float of it exists."""
        return self.quantizes_output(value.producer())

    def arrives_in_int8(self, value: ir.Value) -> bool:
        """Whether int8 of a value costs nothing more: its producer or another consumer has it in int8."""
        if self.in_int8(value):
            return True
        readers = (self.chosen.get(use.node.name or "") for use in value.uses())
        return any(r is not None and r.placement.worth is Worth.ALWAYS for r in readers)

    def epilogue_of(self, node: ir.Node) -> ir.Node | None:
        """Return the clamp that folds into the Q of an int8 node: the only consumer of its result."""
        if not self.quantizes_output(node) or len(node.outputs) != 1:
            return None
        reader = sole_consumer(node.outputs[0])
        if reader is None or reader.name not in self.chosen:
            return None
        clamps = (
            self.chosen[reader.name or ""].rule.role is Role.EPILOGUE and reader.inputs[0] is node.outputs[0]
        )
        own_scale = self.chosen[node.name or ""].rule.role in (Role.WEIGHTED, Role.ARITHMETIC)
        return reader if clamps and own_scale else None

    def pays(self, name: str) -> bool:
        """Whether a quantized node pays beside its neighbours, by the target's table.

        A node that pays only between int8 ops needs its inputs in int8 (arithmetic: one of them), and a
        consumer in int8.
        """
        own = self.chosen[name]
        if own.placement.worth is Worth.ALWAYS:
            return True
        source = own.node.inputs[0]
        producer = source.producer() if source is not None else None
        if producer is not None and self.epilogue_of(producer) is own.node:
            return True
        here = [self.arrives_in_int8(value) for _, value in data_inputs(own.node, own.rule)]
        # An Add whose other operand has to be quantized for it still saves a DQ and a Q; a pass-through
        # with one float input would have to share that input's scale.
        arrives = any(here) if own.rule.role is Role.ARITHMETIC else all(here)
        return arrives and any(self._read_in_int8(out) for out in own.node.outputs)

    def _read_in_int8(self, value: ir.Value) -> bool:
        for use in value.uses():
            reader = self.chosen.get(use.node.name or "")
            if reader and any(index == use.idx for index, _ in data_inputs(use.node, reader.rule)):
                return True
        return False


def assigned_graph(task: PlanInput, assignment: Assignment) -> AssignedGraph:
    """Return the assignment on the graph of `task`.

    Raises:
        KeyError: it names a node that the graph lacks, or that has no rule.
    """
    chosen = {}
    for name, form in assignment.forms.items():
        node = task.view.node_by_name[name]
        rule = rule_of(node)
        if rule is None:
            raise KeyError(f"node '{name}' ({node.op_type}) has no rule")
        chosen[name] = QuantizedNode(node, rule, placement_of(task, node, form, measured=True), form)
    required = task.constraints.quantize
    return AssignedGraph(
        chosen,
        task.scheme,
        assignment.weight_types,
        assignment.product_types,
        assignment.float_ports,
        required,
        task.grids,
    )


def placement_of(task: PlanInput, node: ir.Node, form: Form | None, *, measured: bool = False) -> Placement:
    """Return the target's placement of a node in a form; without a form, that of the mode.

    Args:
        measured: where only a measurement can decide, return the best possible worth.
    """
    scheme = task.scheme
    form = form or scheme.form
    if form is None or form not in scheme.target.forms:
        placement = WEIGHTS_ONLY
    else:
        placement = scheme.target.forms[form].of(op_key(node), variant(node))
    if node.name in task.constraints.quantize:
        return Placement(Worth.ALWAYS, placement.reason)
    if measured and placement.measured is not None:
        return Placement(placement.measured, placement.reason)
    return placement
