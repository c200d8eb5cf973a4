"""Place fusion barriers against onnxruntime's optimizers: a Max with a constant below every value.

No optimizer looks through that Max. It costs about a tenth of the product before it (docs/targets.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from qtool.graph.view import View, constant, float_constant, is_op, is_vector, sole_consumer
from qtool.plan.assignment import AssignedGraph
from qtool.plan.model import EditKind, GraphEdit, Kind, Plan, Site, Use
from qtool.plan.weights import added_bias
from qtool.tables.forms import Form, Operator
from qtool.tables.ops import OPS, Q_MOVES_UP_THROUGH, SLOW_BETWEEN_DQ_AND_Q, Role

_CLAMPS = ("Relu", "Clip")
# Between a weighted op and a Q, the runtime looks through these.
_LOOKED_THROUGH = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Add")
_DQ_MOVES_DOWN_THROUGH = Q_MOVES_UP_THROUGH | {"Pad"}
# Float nodes to look at behind one that deviates.
_MOST_BETWEEN = 16


def fusion_barriers(view: View, assigned: AssignedGraph, sites: Iterable[Site]) -> list[GraphEdit]:
    """Return the fusion barriers of an assignment, those before a QuantizeLinear first.

    Args:
        view: of the prepared model.
        assigned: the quantized nodes.
        sites: all activation and bias sites of the draft.
    """
    sites = list(sites)
    activations = [s for s in sites if s.kind is Kind.ACTIVATION]
    before_q = [
        GraphEdit(EditKind.QUANTIZER_BARRIER, s.value, s.uses)
        for s in activations
        if _sets_off_fusion(view.values[s.value], s.uses, assigned)
    ]
    adds = {
        s.scale_from[1]: name
        for s in sites
        if s.kind is Kind.BIAS and s.scale_from
        for name, _ in s.uses or ()
    }
    return [*before_q, *_behind_products(view, assigned, activations, adds)]


def _sets_off_fusion(value: ir.Value, uses: Sequence[Use] | None, assigned: AssignedGraph) -> bool:
    """Return whether a Q on a value that is made in float would make onnxruntime quantize its producer.

    Three of its optimizers do that (seen in 1.31): WeightBiasQuantization quantizes, per tensor, a float
    Conv, Gemm or MatMul between a DQ and a Q; QDQPropagation moves the Q up through a float MaxPool, which
    then runs in int8, many times slower; QDQSelectorActionTransformer does the same to an AveragePool or a
    Softmax between a DQ and that Q. A node that stays in float because its integer kernel lacks an attribute
    is fused too, and then fails. That barrier stands on every target, because every written model should run
    in onnxruntime.

    Each optimizer needs every value on the way to have one consumer. The value itself has one, the Q, when
    all its consumers are in `uses`; None: the Q takes its place for all of them, graph outputs included.
    """
    onnxruntime = assigned.scheme.target.onnxruntime
    if uses is not None and (value.is_graph_output() or len(value.uses()) > len(uses)):
        return False
    while True:
        producer = value.producer()
        if producer is None or producer.name in assigned.chosen:
            return False
        if producer.op_type in ("MaxPool", "GlobalMaxPool"):
            return onnxruntime
        rule = OPS.get(producer.op_type)
        if rule is not None and any(a in producer.attributes for a in rule.unless):
            return True
        if producer.op_type in SLOW_BETWEEN_DQ_AND_Q and _is_behind_dq(producer.inputs[0], assigned):
            return onnxruntime
        if rule is not None and rule.role is Role.WEIGHTED:
            has_weight = float_constant(producer.inputs[1]) is not None
            return onnxruntime and has_weight and _is_behind_dq(producer.inputs[0], assigned)
        if producer.op_type not in Q_MOVES_UP_THROUGH and producer.op_type not in _LOOKED_THROUGH:
            return False
        computed = [v for v in producer.inputs if v is not None and constant(v) is None]
        if len(computed) != 1 or sole_consumer(computed[0]) is None:
            return False
        value = computed[0]


def _is_behind_dq(value: ir.Value | None, assigned: AssignedGraph) -> bool:
    """Return whether a value is read from a DequantizeLinear, once onnxruntime has moved and fused nodes.

    It moves a DequantizeLinear down through what it moves a Q up through, and a Pad into a Conv or a pool
    (PadFusion).
    """
    while value is not None and not assigned.in_int8(value):
        producer = value.producer()
        if producer is None or producer.op_type not in _DQ_MOVES_DOWN_THROUGH:
            return False
        value = producer.inputs[0]
    return value is not None


def _behind_products(
    view: View, assigned: AssignedGraph, activations: Sequence[Site], adds: Mapping[str, str]
) -> Iterator[GraphEdit]:
    """Yield the barriers behind int8 products with float results.

    onnxruntime (1.31) does not fuse an int8 MatMul or Gemm with a float result where a Q is one of several
    consumers. Nor does it where the only consumer is a clamp, and the only consumer of the clamp is no Q: it
    takes the clamp for the end of a group that ends in a Q. The product then runs in float behind
    DequantizeLinears, one of them on its weight: 0.25 to 0.5x as fast as FP32.

    Args:
        adds: product -> the Add that adds its integer bias.
    """
    if not assigned.scheme.target.onnxruntime:
        return
    everywhere = {s.value for s in activations if s.uses is None}
    quantized = {use for s in activations for use in s.uses or ()}
    for node in view.main_nodes:
        name = node.name or ""
        own = assigned.chosen.get(name)
        gives_floats = own is not None and own.form is Form.INT8 and not assigned.quantizes_output(node)
        if not gives_floats or own is None or not own.rule.product:
            continue
        value = view.node_by_name[adds.get(name, name)].outputs[0]
        if value.name not in everywhere and _prevents_fusion(value, quantized):
            yield GraphEdit(EditKind.RESULT_BARRIER, value.name or "", None)


def _prevents_fusion(value: ir.Value, quantized: Collection[Use]) -> bool:
    """Return whether the consumers of a product's float result keep onnxruntime from fusing the product."""
    uses = list(value.uses())
    if all((use.node.name or "", use.idx) in quantized for use in uses):
        return value.is_graph_output() and bool(uses)
    if any(_ends_in_q(use.node, use.idx, quantized) for use in uses):
        return len(uses) > 1 or value.is_graph_output()
    if len(uses) != 1 or not is_op(uses[0].node, *_CLAMPS):
        return False
    clamped = uses[0].node.outputs[0]
    return len(clamped.uses()) == 1 and not clamped.is_graph_output()


def _ends_in_q(node: ir.Node, index: int, quantized: Collection[Use]) -> bool:
    """Return whether this input leads into a Q, directly or through clamps and moves that a Q passes."""
    if (node.name or "", index) in quantized:
        return True
    if index or not is_op(node, *_CLAMPS, *Q_MOVES_UP_THROUGH):
        return False
    made = node.outputs[0]
    uses = [(use.node, use.idx) for use in made.uses()]
    return bool(uses) and not made.is_graph_output() and all(_ends_in_q(n, i, quantized) for n, i in uses)


def missing_barriers(view: View, plan: Plan, deviating: Iterable[str]) -> list[GraphEdit]:
    """Return barriers, beyond those of the plan, where the runtime was seen to run nodes in another way.

    A float node gets one before the Qs behind it, an int8 product with a float result gets one behind it.

    Args:
        view: of the prepared model.
        plan: of the model that was audited.
        deviating: the nodes (evaluate/audit.py).
    """
    placed = {(e.kind, e.value) for e in plan.edits}
    sites = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    adds = {
        s.scale_from[1]: n
        for s in plan.sites
        if s.kind is Kind.BIAS and s.scale_from
        for n, _ in s.uses or ()
    }
    edits = {}
    for name in deviating:
        node = view.node_by_name[name]
        rule = OPS.get(node.op_type)
        if plan.forms.get(name) is Form.INT8:
            result = view.node_by_name[adds.get(name, name)].outputs[0].name or ""
            if rule is not None and rule.product and result not in sites:
                edits[EditKind.RESULT_BARRIER, result] = GraphEdit(EditKind.RESULT_BARRIER, result, None)
        elif name not in plan.forms:
            for value in _quantized_behind(node, plan, sites):
                edit = GraphEdit(EditKind.QUANTIZER_BARRIER, value, sites[value].uses)
                edits[EditKind.QUANTIZER_BARRIER, value] = edit
    return [edit for key, edit in edits.items() if key not in placed]


def _quantized_behind(node: ir.Node, plan: Plan, sites: Collection[str]) -> set[str]:
    """Return the values behind a float node that have a Q, with only float nodes between."""
    waiting, values, passed = [node], set[str](), set[str]()
    while waiting:
        for value in waiting.pop().outputs:
            if value.name in sites:
                values.add(value.name or "")
                continue
            for use in value.uses():
                name = use.node.name or ""
                if name not in plan.forms and name not in passed and len(passed) < _MOST_BETWEEN:
                    passed.add(name)
                    waiting.append(use.node)
    return values


def sum_edits(view: View, chosen: Mapping[str, Operator], split: Collection[str]) -> Iterator[GraphEdit]:
    """Yield the Adds behind a MatMulInteger that must become a Sum.

    onnxruntime (1.31) fuses the product with any constant vector that is added to it. Where the vector is no
    bias of the product, axes of length 1 that the product lacks are lost, and another length fails.

    Args:
        view: of the prepared model.
        chosen: node -> its operator.
        split: activations whose outlier columns get a product of their own: a Sum stands there already.
    """
    for name in (n for n, operator in chosen.items() if operator is Operator.MATMUL_INTEGER):
        node = view.node_by_name[name]
        add = sole_consumer(node.outputs[0])
        if add is None or not is_op(add, "Add") or added_bias(node) is not None or _is_split(node, split):
            continue
        arrays = [a for v in add.inputs if (a := float_constant(v)) is not None]
        if any(a.size > 1 and is_vector(a, a.size) for a in arrays):
            index = 0 if add.inputs[0] is node.outputs[0] else 1
            yield GraphEdit(EditKind.SUM, node.outputs[0].name or "", ((add.name or "", index),))


def _is_split(node: ir.Node, split: Collection[str]) -> bool:
    return any(v is not None and v.name in split for v in node.inputs)
