"""From labels to sites: which tensor gets which type, who reads it, and what shares a scale."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.view import View, constant, float_constant, rank, sole_consumer
from qtool.numerics.metrics import weight_sqnr
from qtool.numerics.qparams import weight_qparams
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.eligible import channel_axis, data_inputs, rule_of
from qtool.plan.groups import Groups
from qtool.plan.guards import needs_guard
from qtool.plan.model import Form, Kind, Plan, Site, Skip, Use, Wishes
from qtool.plan.place import Candidate, Placed, place
from qtool.tables.modes import Mode
from qtool.tables.ops import ANY, OPS, Bounds, OpRule, Role
from qtool.tables.qtypes import INT8, INT32, Granularity, PerChannel, PerRowOfLast, PerTensor, TensorSpec
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
    return Plan(mode.name, target.name, model_sha256, forms, (*activations, *weights, *stored), placed.skips)


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
        made = [] if not placed.quantizes_output(node) or placed.epilogue_of(node) else node.outputs
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
            guard=name not in everywhere and needs_guard(value, placed),
        )
        for name, value in order.items()
    ]


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
    lo, hi = ANY
    ends = [float_constant(v) for v in producer.inputs[1:3]]
    if len(ends) > 0 and ends[0] is not None and ends[0].size == 1:
        lo = float(ends[0].reshape(())) if len(producer.inputs) > 1 else lo
    if len(ends) > 1 and ends[1] is not None and ends[1].size == 1:
        hi = float(ends[1].reshape(()))
    return lo, hi


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
    node = candidate.node
    source = node.inputs[0].name if node.inputs[0] is not None else None
    weight = node.inputs[1].name if node.inputs[1] is not None else None
    found = _bias_use(node, candidate.rule, target)
    if found is None or source is None or weight is None or float_constant(node.inputs[1]) is None:
        return []
    value, use = found
    spec = TensorSpec(INT32, PerChannel(0), symmetric=True)
    return [Site(value, Kind.BIAS, (use,), spec, scale_from=(source, weight))]


def _bias_use(node: ir.Node, rule: OpRule, target: Target) -> tuple[str, Use] | None:
    """The constant bias of a node: its own input, or for a MatMul the Add behind it.

    A float vector added to an int8 MatMul whose output stays float is turned into a Gemm that the
    runtime can't run in int8 (0.1-0.4x); an int32 one is fused.
    """
    if rule.bias is not None:
        value = node.inputs[rule.bias] if len(node.inputs) > rule.bias else None
        return (value.name or "", (node.name or "", rule.bias)) if value is not None else None
    if node.op_type != "MatMul" or target.linear_output:
        return None
    add = sole_consumer(node.outputs[0])
    weight = float_constant(node.inputs[1])
    if add is None or add.op_type != "Add" or weight is None:
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    value = add.inputs[index]
    bias = float_constant(value)
    if value is None or bias is None or bias.shape[-1:] != weight.shape[-1:] or bias.size != weight.shape[-1]:
        return None
    keeps_rank = bias.ndim == 1 or bias.ndim <= (rank(node.inputs[0]) or 0)
    return (value.name or "", (add.name or "", index)) if keeps_rank and np.isfinite(bias).all() else None


def _stored(view: View, mode: Mode, taken: set[Use]) -> list[Site]:
    """Float weights kept as int8 in the file alone, where their own error is small."""
    sites: dict[tuple[str, Granularity], list[Use]] = {}
    verdicts: dict[tuple[str, Granularity], bool] = {}
    for node in view.nodes:
        rule = rule_of(node)
        if rule is None:
            continue
        for index in rule.weight:
            value = node.inputs[index] if index < len(node.inputs) else None
            array = float_constant(value)
            use = (node.name or "", index)
            if value is None or array is None or use in taken:
                continue
            if array.size < max(mode.storage_min_elements, rule.storage_min_elements):
                continue
            granularity = _granularity(node, rule, array.ndim)
            key = (value.name or "", granularity)
            if key not in verdicts:
                verdicts[key] = stores_well(array, granularity, mode.storage_floor_db)
            if verdicts[key]:
                sites.setdefault(key, []).append(use)
    return [
        Site(name, Kind.STORED, tuple(uses), TensorSpec(INT8, granularity, symmetric=True))
        for (name, granularity), uses in sites.items()
    ]


def stores_well(w: np.ndarray, granularity: Granularity, floor_db: float) -> bool:
    """Whether int8 holds a weight to the wanted SQNR."""
    if not np.isfinite(w).all():
        return False
    spec = TensorSpec(INT8, granularity, symmetric=True)
    params = weight_qparams(w, spec)
    return weight_sqnr(w, dequantize(quantize(w, params, INT8, granularity), params, granularity)) >= floor_db
