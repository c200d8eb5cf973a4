"""From labels to sites: which tensor gets which type, who reads it, and what shares a scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qtool.graph.view import View, float_constant, is_vector, rank, sole_consumer
from qtool.numerics.metrics import weight_sqnr
from qtool.numerics.qparams import weight_qparams
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.eligible import channel_axis, data_inputs, rule_of
from qtool.plan.groups import Groups
from qtool.plan.guards import needs_guard
from qtool.plan.model import Form, Kind, Plan, Site, Use, Wishes
from qtool.plan.place import Candidate, Placed, place
from qtool.tables.modes import Mode
from qtool.tables.ops import ANY, Bounds, OpRule, Role
from qtool.tables.qtypes import (
    FLOAT32,
    INT8,
    INT32,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerTensor,
    TensorSpec,
)
from qtool.tables.targets import Target


def draft(view: View, mode: Mode, target: Target, wishes: Wishes, model_sha256: str = "") -> Plan:
    """Decide, from the tables and the wishes, without data. The sites have no scales yet."""
    placed = place(view, target, wishes)
    activations = _activations(view, placed)
    weights = _weights(view, placed)
    stored = _stored(view, mode, {u for s in weights if s.uses for u in s.uses})
    forms = {
        name: Form.DYNAMIC if c.rule.role is Role.RECURRENT else Form.INT8 for name, c in placed.int8.items()
    }
    # The Add behind a MatMul is part of it: fused where its bias is int32, in float where it is not.
    adds = {name: s.kind for s in weights if s.kind in (Kind.BIAS, Kind.LIFTED) for name, _ in s.uses or ()}
    forms |= {name: Form.INT8 for name, kind in adds.items() if kind is Kind.BIAS}
    skips = tuple(
        replace(s, reason="it adds the bias of an int8 product, in float") if s.node in adds else s
        for s in placed.skips
        if s.node not in forms
    )
    return Plan(mode.name, target.name, model_sha256, forms, (*activations, *weights, *stored), skips)


def _activations(view: View, placed: Placed) -> list[Site]:
    """One site a value: made in int8 and so read by all, or quantized for the int8 readers only."""
    spec = TensorSpec(placed.target.activation, PerTensor(), symmetric=False)
    order: dict[str, ir.Value] = {}
    uses: dict[str, list[Use]] = {}
    everywhere: set[str] = set()
    groups = Groups()
    for node in view.main_nodes:
        candidate = placed.int8.get(node.name or "")
        if candidate is None or candidate.rule.role is Role.RECURRENT:
            continue
        clamped = _is_epilogue(placed, node)
        inputs = [] if clamped else data_inputs(node, candidate.rule)
        for index, value in inputs:
            name = value.name or ""
            order.setdefault(name, value)
            uses.setdefault(name, []).append((node.name or "", index))
        made = [] if not placed.quantizes_output(node) or placed.epilogue_of(node) else _floats(node)
        for value in made:
            order.setdefault(value.name or "", value)
            everywhere.add(value.name or "")
        if candidate.rule.role is Role.PASS:
            groups.join([v.name or "" for v in (*(v for _, v in inputs), *made)])
    return [
        Site(
            name,
            Kind.ACTIVATION,
            None if name in everywhere else tuple(uses[name]),
            spec,
            group=groups.of(name),
            bounds=_bounds(value),
            guard=name not in everywhere and needs_guard(value, uses[name], placed),
        )
        for name, value in order.items()
    ]


def _floats(node: ir.Node) -> list[ir.Value]:
    """The outputs that hold floats; a MaxPool may have indices, too."""
    return [v for v in node.outputs if v.name and v.dtype in (None, ir.DataType.FLOAT)]


def _is_epilogue(placed: Placed, node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    producer = source.producer() if source is not None else None
    return producer is not None and placed.epilogue_of(producer) is node


def _bounds(value: ir.Value) -> Bounds:
    """What the op that makes a value can't exceed."""
    producer = value.producer()
    rule = rule_of(producer) if producer is not None else None
    if producer is None or rule is None:
        return ANY
    if producer.op_type != "Clip":
        return rule.bounds
    lo, hi = (_scalar(producer, index, none) for index, none in zip((1, 2), ANY, strict=True))
    return lo, hi


def _scalar(node: ir.Node, index: int, none: float) -> float:
    """A constant input of one element (of any rank: exporters differ), or what stands for none."""
    array = float_constant(node.inputs[index]) if index < len(node.inputs) else None
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else none


def _weights(view: View, placed: Placed) -> list[Site]:
    """The weights and biases of int8 nodes; a weight that two nodes read alike is one site."""
    weights: dict[tuple[str, Kind, Granularity], list[Use]] = {}
    biases: list[Site] = []
    for node in view.nodes:
        candidate = placed.int8.get(node.name or "")
        if candidate is None or candidate.rule.role not in (Role.WEIGHTED, Role.RECURRENT):
            continue
        recurrent = candidate.rule.role is Role.RECURRENT
        for index in candidate.rule.weight:
            value = node.inputs[index]
            array = float_constant(value)
            if value is None or array is None:
                continue
            granularity = _granularity(node, candidate.rule, array.ndim)
            key = (value.name or "", Kind.FUSED if recurrent else Kind.WEIGHT, granularity)
            weights.setdefault(key, []).append((node.name or "", index))
        if not recurrent:
            biases.extend(_biases(candidate, placed.target))
    sites = [
        Site(name, kind, tuple(uses), TensorSpec(placed.target.weight, granularity, symmetric=True))
        for (name, kind, granularity), uses in weights.items()
    ]
    return sites + biases


def _granularity(node: ir.Node, rule: OpRule, ndim: int) -> Granularity:
    if rule.role is Role.RECURRENT:
        return PerRowOfLast()
    return PerChannel(channel_axis(node, rule, ndim))


def _biases(candidate: Candidate, target: Target) -> list[Site]:
    """The bias of a weighted node: its own input, or for a MatMul the constant Add behind it.

    A float vector added to an int8 MatMul whose output stays float would become a Gemm with a float
    bias, which the runtime can't run in int8 (0.1-0.4x). As [1, 1, N] it stays an Add, and exact; a
    MatMul of two axes becomes a Gemm in any case, and its bias int32 (measured: docs/targets.md).
    """
    node, rule = candidate.node, candidate.rule
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or float_constant(weight) is None:
        return []
    scale_from = (source.name or "", node.name or "")
    int32 = TensorSpec(INT32, PerChannel(0), symmetric=True)
    if rule.bias is not None:
        bias = node.inputs[rule.bias] if len(node.inputs) > rule.bias else None
        if bias is None:
            return []
        return [
            Site(bias.name or "", Kind.BIAS, ((node.name or "", rule.bias),), int32, scale_from=scale_from)
        ]
    found = None if target.linear_output else _added_bias(node)
    if found is None:
        return []
    value, use = found
    if (rank(source) or 2) > 2:
        return [Site(value, Kind.LIFTED, (use,), TensorSpec(FLOAT32, PerTensor(), symmetric=True))]
    return [Site(value, Kind.BIAS, (use,), int32, scale_from=scale_from)]


def _added_bias(matmul: ir.Node) -> tuple[str, Use] | None:
    """The constant vector that the one reader of a MatMul adds to it, and who reads it where."""
    add = sole_consumer(matmul.outputs[0])
    weight = float_constant(matmul.inputs[1])
    if add is None or add.op_type != "Add" or weight is None:
        return None
    index = 1 if add.inputs[0] is matmul.outputs[0] else 0
    value = add.inputs[index]
    bias = float_constant(value)
    if value is None or bias is None or not is_vector(bias, weight.shape[-1]):
        return None
    keeps_rank = bias.ndim == 1 or bias.ndim <= (rank(matmul.inputs[0]) or 0)
    return (value.name or "", (add.name or "", index)) if keeps_rank and np.isfinite(bias).all() else None


def _stored(view: View, mode: Mode, taken: set[Use]) -> list[Site]:
    """Float weights kept as int8 in the file alone, as coarsely as their own error allows."""
    sites: dict[tuple[str, Granularity], list[Use]] = {}
    chosen: dict[tuple[str, Granularity], Granularity | None] = {}
    for node in view.nodes:
        rule = rule_of(node)
        if rule is None:
            continue
        for index in rule.weight:
            value = node.inputs[index] if index < len(node.inputs) else None
            array = float_constant(value)
            use = (node.name or "", index)
            if value is None or array is None or use in taken or not np.isfinite(array).all():
                continue
            if array.size < max(mode.storage_min_elements, rule.storage_min_elements):
                continue
            coarse = _granularity(node, rule, array.ndim)
            key = (value.name or "", coarse)
            if key not in chosen:
                chosen[key] = storage_granularity(array, coarse, mode.storage_floor_db)
            granularity = chosen[key]
            if granularity is not None:
                sites.setdefault((value.name or "", granularity), []).append(use)
    return [
        Site(name, Kind.STORED, tuple(uses), TensorSpec(INT8, granularity, symmetric=True))
        for (name, granularity), uses in sites.items()
    ]


def storage_granularity(w: np.ndarray, coarse: Granularity, floor_db: float) -> Granularity | None:
    """The coarsest granularity at which int8 holds a weight to the wanted SQNR; None if none does.

    Blocks run along the longest axis that is not the channels'.
    """
    options = [coarse]
    if isinstance(coarse, PerChannel) and w.ndim >= 2:
        others = [i for i in range(w.ndim) if i != coarse.axis]
        axis = max(others, key=lambda i: w.shape[i])
        options += [PerBlock(axis, size) for size in (128, 64, 32) if w.shape[axis] % size == 0]
    for option in options:
        params = weight_qparams(w, TensorSpec(INT8, option, symmetric=True))
        if weight_sqnr(w, dequantize(quantize(w, params, INT8, option), params, option)) >= floor_db:
            return option
    return None
