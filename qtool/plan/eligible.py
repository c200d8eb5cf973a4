"""Decide whether a node can be quantized at all, whatever its gain, and read the shape of its weights."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.mapped import weight_facts
from qtool.graph.prepare.opset import QDQ_OPSET
from qtool.graph.view import (
    View,
    attribute_float,
    attribute_int,
    constant,
    float_constant,
    is_op,
    is_vector,
    op_key,
    opset_of,
    sole_consumer,
)
from qtool.numerics.qparams import scalable
from qtool.plan.scheme import Scheme
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS
from qtool.tables.ops import OPS, OpRule, Role
from qtool.tables.qtypes import QType
from qtool.tables.targets import Placements, Target

CONTROL_FLOW = ("If", "Loop", "Scan")


QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# MatMulNBits: the default number of values a scale. In 8 bits, shorter blocks are no faster than float
# (docs/targets.md), and longer ones do not exist.
_NBITS_BLOCK = 128
LEAST_BLOCK = 16
_THIRD_OF_EXPERTS = 6  # the input of MoE
_ALREADY = "quantized already (--requantize redoes it)"


def data_inputs(node: ir.Node, rule: OpRule) -> list[tuple[int, ir.Value]]:
    """Return the activation inputs of a node, as (index, value). A computed weight is one."""
    if rule.data is None:
        indices = tuple(range(len(node.inputs)))
    elif rule.role is Role.WEIGHTED:
        computed = [i for i in rule.weight if i < len(node.inputs) and constant(node.inputs[i]) is None]
        indices = (*rule.data, *computed)
    else:
        indices = rule.data
    return [(i, v) for i in indices if i < len(node.inputs) and (v := node.inputs[i]) is not None]


def rule_of(node: ir.Node) -> OpRule | None:
    """Return the op table's row of a node; None where it has none."""
    return OPS.get(op_key(node))


def observable(view: View) -> list[str]:
    """Return the float32 values of the main graph around quantizable ops, and its inputs and outputs.

    The value between a node and its clamp is left out. Plans quantize the clamp's result, and observing the
    value would keep the runtime from fusing the two.
    """
    names: dict[str, None] = {}
    graph = view.model.graph
    values = [v for v in graph.inputs if not v.is_initializer()]
    for node in view.main_nodes:
        rule = rule_of(node)
        if rule is not None:
            values += [v for _, v in data_inputs(node, rule)]
            values += node.outputs
    for value in (*values, *graph.outputs):
        observable = value.dtype == ir.DataType.FLOAT and constant(value) is None and value.graph is graph
        if observable and value.name and not _is_clamped(value):  # an omitted output has no name
            names[value.name] = None
    return list(names)


def _is_clamped(value: ir.Value) -> bool:
    """Whether a Relu or Clip is the only consumer of a node's result."""
    reader = sole_consumer(value)
    if reader is None or value.producer() is None or reader.inputs[0] is not value:
        return False
    rule = rule_of(reader)
    return rule is not None and rule.role is Role.EPILOGUE


def why_ineligible(view: View, node: ir.Node, rule: OpRule, scheme: Scheme, form: Form) -> str:
    """Return the reason why a node with a rule can't take a form; '' when it can."""
    if _is_quantized(node, rule):
        return _ALREADY
    if opset_of(view.model) < QDQ_OPSET:
        return f"opset {opset_of(view.model)} has no per-channel quantization and could not be raised"
    if rule.role is Role.RECURRENT:
        return _recurrent_problem(node, scheme.target)
    if form is Form.INT8 and view.in_subgraph(node):
        return "inside an If, Loop or Scan, where activations can't be observed"
    if form is Form.INT8 and (unknown := [a for a in rule.unless if a in node.attributes]):
        return f"its {unknown[0]} are unknown to integer kernels"
    inputs = data_inputs(node, rule)
    if not inputs:
        return "it has no activation input"
    for _, value in inputs:
        if value.dtype is not None and value.dtype != ir.DataType.FLOAT:
            return f"it computes in {value.dtype.name.lower()}"
        if value.dtype is None:
            return "the type of its input is not known"
    if rule.role is Role.WEIGHTED:
        for index in (i for i in rule.weight if i < len(node.inputs)):
            if reason := _weight_problem(view, node, index, rule, scheme, form):
                return reason
        if form is Form.NBITS and (reason := _blocks_problem(node, rule, scheme)):
            return reason
    return "an operand is a constant" if any(constant(v) is not None for _, v in inputs) else ""


def _is_quantized(node: ir.Node, rule: OpRule) -> bool:
    """Whether a node is next to a Q or DQ already, or its weight is restored from integers."""
    producers = [v.producer() for v in node.inputs if v is not None]
    readers = [use.node for v in node.outputs for use in v.uses()]
    if any(n is not None and is_op(n, *QUANTIZERS) for n in (*producers, *readers)):
        return True
    weights = [node.inputs[i] for i in rule.weight if i < len(node.inputs)]
    return any(_is_restored(v) for v in weights if v is not None)


def _is_restored(value: ir.Value) -> bool:
    """Whether a value is a stored weight: computed from constants of another type alone."""
    producer = value.producer()
    if producer is None or constant(value) is not None:
        return False
    computed = [v for v in producer.inputs if v is not None and constant(v) is None]
    if is_op(producer, "Cast") and not computed:
        return True
    return (
        is_op(producer, "Sub", "Mul", "Reshape", "Slice") and len(computed) == 1 and _is_restored(computed[0])
    )


def _weight_problem(view: View, node: ir.Node, index: int, rule: OpRule, scheme: Scheme, form: Form) -> str:
    value = node.inputs[index]
    if value is None:
        return ""
    if constant(value) is None:
        return _computed_weight_problem(view, node, value, scheme, form)
    weight = float_constant(value)
    if weight is None or value is None:
        return "its weight is not float32"
    if weight.size == 0:
        return "its weight is empty"
    facts = weight_facts(value)
    if not math.isfinite(size := max(facts.greatest, -facts.least)):
        return f"its weight '{value.name}' holds NaN or infinity"
    if not scalable(size):
        return f"its weight '{value.name}' reaches {size:.3g}, beyond what a scale can be"
    if rule.product and weight.size < _min_weight(node, scheme.target.forms[form]):
        return f"its weight of {counted(weight.size, 'value')} is too small to pay for quantizing its input"
    if _becomes_several(scheme, form):
        return ""
    if node.op_type == "MatMul" and (weight.ndim < 2 or (form is Form.NBITS and weight.ndim > 2)):
        return f"its weight has {weight.ndim} axes"
    if form is not Form.INT8 and attribute_int(node, "transA", 0):
        return "its input is transposed (transA)"
    if rule.bias is not None and len(node.inputs) > rule.bias and node.inputs[rule.bias] is not None:
        bias = float_constant(node.inputs[rule.bias])
        if bias is None or not np.isfinite(bias).all():
            return "its bias is not a finite constant"
        channels = weight.shape[_channel_axis(node, rule)]
        if node.op_type == "Gemm" and not is_vector(bias, channels):
            return "its bias is not one value a channel"
    if form is not Form.INT8 and any(attribute_float(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return "its alpha or beta makes too much of its constants"
    return ""


def _blocks_problem(node: ir.Node, rule: OpRule, scheme: Scheme) -> str:
    """Return the reason against weights in blocks, of a product or of a mixture of experts."""
    total = summed_length(node, rule)
    size = nbits_block(total, scheme.storage, scheme.block)
    if not size:
        return f"the {total} values that it sums over are fewer than a block of {LEAST_BLOCK}"
    if node.op_type != "MoE":
        return ""
    if total % size:
        return f"no block of {LEAST_BLOCK} or more values divides the widths of its experts"
    if any(value is not None for value in node.inputs[_THIRD_OF_EXPERTS:]):
        return "QMoE has no third matrix on a CPU"
    if attribute_int(node, "use_sparse_mixer", 0):
        return "QMoE has no sparse mixer on a CPU"
    return ""


def summed_length(node: ir.Node, rule: OpRule) -> int:
    """Return the number of values that a product sums over; of experts, what divides it in each matrix."""
    weights = (float_constant(node.inputs[i]) for i in rule.weight if i < len(node.inputs))
    return math.gcd(*(w.shape[summed_weight_axis(node, rule, w.ndim)] for w in weights if w is not None))


def summed_weight_axis(node: ir.Node, rule: OpRule, ndim: int = 2) -> int:
    """Return the axis of a weight that the product sums over: the other one of the last two."""
    return 2 * ndim - 3 - channel_axis(node, rule, ndim)


def _computed_weight_problem(
    view: View, node: ir.Node, value: ir.Value | None, scheme: Scheme, form: Form
) -> str:
    """Return the reason against a weight that is no constant: an input of the model, or computed.

    ONNX's own operators take a model input as they take any activation. A product of two results, as in
    attention, can have calibrated scales, but no run-time scales.
    """
    if form is Form.INT8 and node.op_type == "MatMul":
        return "" if constant(node.inputs[0]) is None else "its weight is the left operand"
    if scheme.target.onnxruntime or form not in (Form.INT8, Form.DYNAMIC) or not view.is_fed(value):
        return "its weight is not a constant"
    return "its weight is empty" if value is not None and value.shape and 0 in value.shape else ""


def _becomes_several(scheme: Scheme, form: Form) -> bool:
    """Whether a node becomes several ONNX operators: these take weights of any rank, and any bias."""
    return form is Form.DYNAMIC and not scheme.target.onnxruntime


def _min_weight(node: ir.Node, placements: Placements) -> int:
    """Return the least size of a weight for which its product pays: larger for a product of one row.

    An unknown batch size counts as one row.
    """
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    rows = (None,) if shape is None else tuple(shape)[:-1]
    one_row = all(d == 1 for d in rows) or (len(rows) < 2 and not any(isinstance(d, int) for d in rows))
    return placements.min_vector_weight if one_row else placements.min_weight


def _recurrent_problem(node: ir.Node, target: Target) -> str:
    """Return the reason against a recurrent layer: only an LSTM has a quantized form, in onnxruntime."""
    if node.op_type != "LSTM" or not target.onnxruntime:
        return f"there is no quantized {node.op_type} there: its weights are stored as int8"
    for index in (1, 2):
        weight = float_constant(node.inputs[index])
        if weight is None or not weight.size or not np.isfinite(weight).all():
            return "its weights are not finite constants"
    if attribute_int(node, "layout", 0):
        return "its layout is batch-first, which the fused form lacks"
    return ""


def _channel_axis(node: ir.Node, rule: OpRule) -> int:
    return -2 if attribute_int(node, "transB", 0) else rule.channel_axis


def channel_axis(node: ir.Node, rule: OpRule, ndim: int) -> int:
    """Return the weight axis of the output channels, from the front."""
    if node.op_type == "Gather":
        return attribute_int(node, "axis", 0) % ndim
    return _channel_axis(node, rule) % ndim


def summed_axis(node: ir.Node) -> int:
    """Return the axis of a product's left operand that it sums over, from the end."""
    return -2 if attribute_int(node, "transA", 0) else -1


def row_axis(node: ir.Node, ndim: int) -> int:
    """Return the axis of a product's left operand that it does not sum over, from the front."""
    return ndim - 1 if attribute_int(node, "transA", 0) else ndim - 2


def nbits_block(total: int, qtype: QType, wanted: int) -> int:
    """Return the block size for MatMulNBits: a power of two from 16; 0 for a product of fewer values.

    A size that divides `total`, where there is one. Else the kernel fills the last block.
    """
    size = longest = wanted or (FEW_BITS[qtype].block if qtype in FEW_BITS else _NBITS_BLOCK)
    while size >= LEAST_BLOCK and total % size:
        size //= 2
    if size >= LEAST_BLOCK:
        return size
    while longest > max(total, LEAST_BLOCK):
        longest //= 2
    return longest if total >= LEAST_BLOCK else 0
