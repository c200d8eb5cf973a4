"""Lay out the weight and bias sites of quantized nodes: their type, granularity and form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.graph.view import View, attribute_int, float_constant, is_op, is_vector, rank, sole_consumer
from qtool.numerics.pairs import pair_magnitudes
from qtool.numerics.qparams import magnitudes
from qtool.plan.assignment import AssignedGraph, QuantizedNode
from qtool.plan.eligible import channel_axis, nbits_block, row_axis, summed_length, summed_weight_axis
from qtool.plan.model import EditKind, GraphEdit, Kind, Site, Use
from qtool.plan.scheme import Scheme
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS
from qtool.tables.ops import OpRule, Role
from qtool.tables.qtypes import (
    INT8,
    INT8_PAIRED,
    INT8_REDUCED,
    INT32,
    PER_TENSOR,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    QType,
    TensorSpec,
)


def weight_sites(view: View, assigned: AssignedGraph) -> tuple[list[Site], list[GraphEdit]]:
    """Return the weights and int32 biases of quantized nodes, and the edits of biases that stay float.

    Nodes that read a weight in one quantization share a site.
    """
    uses_of: dict[tuple[str, Kind, TensorSpec], list[Use]] = {}
    biases: list[Site | GraphEdit] = []
    for node in view.nodes:
        quantized = assigned.chosen.get(node.name or "")
        if quantized is None or quantized.rule.role not in (Role.WEIGHTED, Role.RECURRENT):
            continue
        kind = Kind.WEIGHT if quantized.form is Form.INT8 else Kind.FUSED
        for index in (i for i in quantized.rule.weight if i < len(node.inputs)):
            value = node.inputs[index]
            array = float_constant(value)
            if value is None or array is None:
                continue
            spec = _spec(quantized, array, assigned, tied=(value.name or "") in view.tied)
            uses_of.setdefault((value.name or "", kind, spec), []).append((node.name or "", index))
        bias = _bias(quantized, assigned.scheme)
        if bias is not None:
            biases.append(bias)
    sites = [Site(name, kind, tuple(uses), spec) for (name, kind, spec), uses in uses_of.items()]
    int32_biases = [b for b in biases if isinstance(b, Site)]
    return sites + int32_biases, [b for b in biases if isinstance(b, GraphEdit)]


def _spec(quantized: QuantizedNode, array: np.ndarray, assigned: AssignedGraph, *, tied: bool) -> TensorSpec:
    """Return the quantization of a weight; `tied` to a table, it has the scales of the rows of the table."""
    scheme = assigned.scheme
    granularity = coarsest_granularity(quantized.node, quantized.rule, array.ndim)
    qtype = _product_type(quantized.node, array, assigned)
    centred = True
    if quantized.form is Form.NBITS:
        qtype = assigned.weight_types.get(quantized.node.name or "", INT8 if tied else scheme.storage)
        size = nbits_block(summed_length(quantized.node, quantized.rule), qtype, scheme.choices.block)
        if not tied or qtype in FEW_BITS:
            axis = summed_weight_axis(quantized.node, quantized.rule, array.ndim)
            granularity = PerBlock(axis, size)
        centred = qtype not in FEW_BITS
    elif quantized.form is Form.DYNAMIC:
        size = split_size(quantized.node, quantized.rule, scheme)
        qtype = scheme.target.weight
        if size and not tied:
            granularity = PerBlock(summed_weight_axis(quantized.node, quantized.rule), size)
    elif (kept := _kept_spec(quantized, array, assigned, granularity, qtype)) is not None:
        return kept
    elif scheme.per_tensor or (quantized.node.op_type == "MatMul" and array.ndim > 2):
        granularity = PER_TENSOR  # onnxruntime's (1.31) kernels have one scale for a stack of matrices
    return TensorSpec(qtype, granularity, symmetric=centred)


def _product_type(node: ir.Node, array: np.ndarray, assigned: AssignedGraph) -> QType:
    """Return the type of a product's weight: the target's own for a depthwise convolution, unless chosen."""
    target = assigned.scheme.target
    qtype = assigned.product_types.get(node.name or "", assigned.scheme.weight)
    group, wider = attribute_int(node, "group", 1), target.depthwise_weight
    depthwise = is_op(node, "Conv") and group > 1 and array.shape[:2] == (group, 1)
    return wider if depthwise and wider is not None and qtype is target.weight else qtype


def _kept_spec(
    quantized: QuantizedNode,
    array: np.ndarray,
    assigned: AssignedGraph,
    granularity: Granularity,
    qtype: QType,
) -> TensorSpec | None:
    """Return the quantization that a weight came with; None where it came with none that `qtype` can keep.

    Without VNNI, sums of 8-bit activations and 8-bit weights saturate: the activations must have 7 bits, or
    the weights must be as small as `qtype` has them.
    """
    value, source = quantized.node.inputs[1], quantized.node.inputs[0]
    if value is None or source is None or qtype not in (INT8, INT8_PAIRED, INT8_REDUCED):
        return None
    scale = assigned.grids.weight_scale(value.name or "", array, granularity)
    if scale is None:
        return None
    if qtype is not INT8:
        grid = assigned.grids.activations.get(source.name or "")
        halved = grid is not None and grid.steps < 1 << INT8_REDUCED.bits
        sums = (pair_magnitudes if qtype.pairs else magnitudes)(array, granularity)
        if not halved and (sums > ((qtype.pairs or qtype.qmax) + 0.5) * scale).any():
            return None
    return TensorSpec(INT8, granularity if scale.ndim else PER_TENSOR, symmetric=True)


def coarsest_granularity(node: ir.Node, rule: OpRule, ndim: int, index: int = -1) -> Granularity:
    """Return one scale for each output channel, or the nearest granularity that the op has.

    Args:
        node, rule: the node and its rule.
        ndim: the rank of the weight.
        index: of the input with the weight.
    """
    if index in rule.kept:
        return PerChannel(row_axis(node, ndim))
    if ndim == 1:
        return PER_TENSOR  # a product sums over a vector: it has no channels
    return PerRowOfLast() if rule.role is Role.RECURRENT else PerChannel(channel_axis(node, rule, ndim))


def split_size(node: ir.Node, rule: OpRule, scheme: Scheme) -> int:
    """Return the values in each part of a product with run-time activations; 0: it is not split."""
    weight = float_constant(node.inputs[rule.weight[0]])
    if not rule.product or weight is None or weight.ndim != 2:
        return 0
    total, limit = weight.shape[summed_weight_axis(node, rule)], scheme.target.split
    size = largest_divisor(total, limit)
    return size if total > limit and size * 2 > limit else 0


def _bias(quantized: QuantizedNode, scheme: Scheme) -> Site | GraphEdit | None:
    """Return the site or edit of a weighted node's bias: an input, or for a MatMul the Add behind it.

    An int32 bias needs calibrated activations for its scale. Behind such a MatMul with a float result,
    onnxruntime would turn a float vector in the Add into the bias of a Gemm, which has no int8 kernel (0.1
    to 0.4x as fast as FP32). Reshaped to [1, .., 1, N], the bias stays in an Add, and exact. A MatMul of two
    axes becomes a Gemm in any case, with an int32 bias (measured: docs/targets.md).
    """
    node, rule = quantized.node, quantized.rule
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or float_constant(weight) is None or rule.role is Role.RECURRENT:
        return None
    name = node.name or ""
    scale_from = (source.name or "", name)
    if quantized.form is not Form.INT8:
        added = added_bias(node) if rule.bias is None and scheme.target.onnxruntime else None
        return GraphEdit(EditKind.ADDED_BIAS, added.value, (added.use,), node=name) if added else None
    if rule.bias is not None and scheme.target.float_biases:
        return None
    int32 = TensorSpec(INT32, PER_TENSOR if scheme.per_tensor else PerChannel(0), symmetric=True)
    if rule.bias is not None:
        bias = node.inputs[rule.bias] if len(node.inputs) > rule.bias else None
        if bias is None:
            return None
        return Site(bias.name or "", Kind.BIAS, ((name, rule.bias),), int32, scale_from=scale_from)
    added = None if scheme.target.linear_output else added_bias(node)
    if added is None:
        return None
    if (rank(source) or 2) > 2 or scheme.target.float_biases:
        axes = rank(node.outputs[0]) or added.ndim
        return GraphEdit(EditKind.RESHAPED_BIAS, added.value, (added.use,), axes=axes)
    return Site(added.value, Kind.BIAS, (added.use,), int32, scale_from=scale_from)


@dataclass(frozen=True)
class AddedBias:
    """A constant vector of `ndim` axes, and the input of the Add that adds it to a product."""

    value: str
    use: Use
    ndim: int


def added_bias(matmul: ir.Node) -> AddedBias | None:
    """Return the constant vector that the only consumer of a product adds to it; None if there is none."""
    add = sole_consumer(matmul.outputs[0])
    weight = float_constant(matmul.inputs[1])
    if add is None or add.op_type != "Add" or weight is None or weight.ndim != 2:
        return None
    index = 1 if add.inputs[0] is matmul.outputs[0] else 0
    value = add.inputs[index]
    bias = float_constant(value)
    if value is None or bias is None or not is_vector(bias, weight.shape[-1]):
        return None
    keeps_rank = bias.ndim == 1 or bias.ndim <= (rank(matmul.inputs[0]) or 0)
    fits = keeps_rank and np.isfinite(bias).all()
    return AddedBias(value.name or "", (add.name or "", index), bias.ndim) if fits else None


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number up to a limit."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
