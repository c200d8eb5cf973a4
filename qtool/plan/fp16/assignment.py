"""Assign float16 to nodes, weights and ports, with a reason for every node that stays in float32.

A node stays in float32 where it needs more precision or range. Of the others, only HEAVY ops are worth a
Cast: any other node is float16 where its inputs are already, and goes back to float32 where that costs no
more Casts. The result has one Cast on each boundary and none inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_ir as ir

from qtool.calibration.ranges import Ranges
from qtool.graph.view import View, op_key, opset_of
from qtool.plan.eligible import rule_of
from qtool.plan.fp16.cast_boundaries import not_worth_casts
from qtool.plan.fp16.overflow import find_overflow
from qtool.plan.fp16.ports import is_blind, is_float32, ports_of
from qtool.plan.fp16.precision import exact_arguments, worth_float32
from qtool.plan.model import OBSERVED, EditKind, Fp16Assignment, Fp16Node, GraphEdit, Site
from qtool.tables.float16 import FLOAT32_INPUTS, NEVER, QUANTIZERS, STORED_MIN_ELEMENTS
from qtool.tables.reasons import Code, Reason

_NO_GAIN = "next to float32 nodes: float16 would save no Cast"


def assign_fp16(
    view: View,
    keep: Mapping[str, Reason],
    ranges: Ranges | None,
    *,
    forced: Collection[str] = (),
    others: bool = True,
    io_float16: bool = False,
) -> Fp16Assignment:
    """Return the float16 assignment of every node with float32 values.

    Args:
        view: of a prepared model.
        keep: node that stays in float32 -> why.
        ranges: of observed values (see `observed_values`).
        forced: nodes that are float16 wherever they can be, whatever the gain.
        others: assign float16 to other nodes, too, where they can be and gain.
        io_float16: the inputs and outputs of the model become float16, except those that overflow.
    """
    overflow = find_overflow(view, ranges)
    precise = worth_float32(view)
    opset = opset_of(view.model)
    nodes: dict[str, Fp16Node] = {}
    reasons: dict[str, Reason] = {}
    for node in view.nodes:
        name, own = node.name or "", ports_of(node, opset)
        if own is None:
            continue
        if name in keep:
            reasons[name] = keep[name]
            continue
        text = "" if others or name in forced else "float16 is set for other nodes only"
        if isinstance(own, str):
            reasons[name] = Reason(Code.FLOAT16, text or own)
            continue
        text = text or _overflow(node, own, overflow) or _quantized(node)
        if name not in forced:
            text = text or precise.get(name, "")
        if text:
            reasons[name] = Reason(Code.FLOAT16, text)
        else:
            nodes[name] = own
    model_ports = frozenset(
        v.name or "" for v in float32_ports(view) if io_float16 and v.name not in overflow
    )
    for name in not_worth_casts(view, nodes, model_ports, forced):
        reasons[name] = Reason(Code.FLOAT16, _NO_GAIN)
        del nodes[name]
    stored = frozenset(_stored(view, overflow) if others else ())
    return Fp16Assignment(nodes, reasons, stored, overflow, model_ports)


def float32_ports(view: View) -> list[ir.Value]:
    """Return the float32 inputs and outputs of the model."""
    graph = view.model.graph
    return [v for v in dict.fromkeys((*graph.inputs, *graph.outputs)) if is_float32(v)]


def observed_values(fp16: Fp16Assignment, view: View, *, io_float16: bool = False) -> list[str]:
    """Return the values whose ranges decide: inputs and outputs of float16 nodes, without constants.

    With io_float16 also the inputs and outputs of the model. Values of nested graphs can't be observed.
    """
    values = [*(float32_ports(view) if io_float16 else ()), *_around(fp16, view)]
    main = [v for v in values if is_float32(v) and v.graph is view.model.graph]
    return list(dict.fromkeys(v.name or "" for v in main if not v.is_initializer()))


def has_unobserved_values(fp16: Fp16Assignment, view: View) -> bool:
    """Whether float16 nodes have inputs or outputs in nested graphs, which calibration can't observe."""
    main = view.model.graph
    return any(v.graph is not main and not v.is_initializer() for v in _around(fp16, view))


def _around(fp16: Fp16Assignment, view: View) -> Iterator[ir.Value]:
    for name, own in fp16.nodes.items():
        node = view.node_by_name[name]
        yield from (v for i in own.inputs if (v := node.inputs[i]) is not None)
        yield from (node.outputs[i] for i in own.outputs)


def _overflow(node: ir.Node, ports: Fp16Node, overflow: Mapping[str, str]) -> str:
    """Return the first input or output of a node that overflows float16, as a reason; '' if none."""
    for index in ports.inputs:
        value = node.inputs[index]
        name = value.name or "" if value is not None else ""
        if name in overflow:
            return f"its input '{name}' {overflow[name]}"
    for index in ports.outputs:
        name = node.outputs[index].name or ""
        if name in overflow:
            return f"its output '{name}' {overflow[name]}"
    return ""


def _quantized(node: ir.Node) -> str:
    """Return the reason to leave a node next to a quantizer in float32; '' if there is none."""
    producers = [v.producer() for v in node.inputs if v is not None]
    readers = [use.node for v in node.outputs for use in v.uses()]
    if any(n is not None and n.op_type in QUANTIZERS for n in (*producers, *readers)):
        return "next to a QuantizeLinear or DequantizeLinear, which the runtime fuses with it"
    return ""


def _stored(view: View, overflow: Mapping[str, str]) -> list[str]:
    """Return the large weights of float32 nodes that 11 bits represent well enough.

    Scales of quantizers stay float32, and arguments that must be exact: coordinates and indices.
    """
    exact = exact_arguments(view)
    names = []
    for name, value in view.values.items():
        if not (value.is_initializer() and is_float32(value)) or value.is_graph_input() or name in overflow:
            continue
        tensor = value.const_value
        if tensor is None or tensor.size < STORED_MIN_ELEMENTS or value.is_graph_output():
            continue
        if all(_may_store(u.node, u.idx, tensor.size, exact) for u in value.uses()):
            names.append(name)
    return names


def _may_store(reader: ir.Node, index: int, size: int, exact: Collection[str]) -> bool:
    key = op_key(reader)
    if reader.name in exact or key in QUANTIZERS or key in NEVER or index in FLOAT32_INPUTS.get(key, ()):
        return False
    rule = rule_of(reader)
    return rule is None or size >= rule.storage_min_elements


def copied_weights(
    view: View, fp16: Fp16Assignment, sites: Iterable[Site] = (), edits: Iterable[GraphEdit] = ()
) -> frozenset[str]:
    """Return the weights of float16 nodes that stay float32 and get a float16 copy.

    Such a weight is an output of the model, or has a float32 consumer and is not in `fp16.stored`. All other
    weights of float16 nodes become float16 in place.

    Args:
        view: of the prepared model.
        fp16: the assignment.
        sites, edits: of the same plan. A node that reads a weight as integers, or reshaped, does not need
            its floats.
    """
    reads = {(name, i) for name, ports in fp16.nodes.items() for i in ports.inputs}
    others = {use for s in sites if s.kind not in OBSERVED for use in s.uses or ()}
    others |= {use for e in edits if e.kind is EditKind.RESHAPED_BIAS for use in e.uses or ()}
    copied = set()
    others |= reads
    for name, value in view.values.items():
        if not (value.is_initializer() and is_float32(value)) or value.is_graph_input():
            continue
        uses = [(use.node, use.idx) for use in value.uses()]
        if not any((node.name or "", i) in reads for node, i in uses):
            continue
        floats = any((node.name or "", i) not in others and not is_blind(node, i) for node, i in uses)
        needed = name not in fp16.ports if value.is_graph_output() else floats and name not in fp16.stored
        if needed:
            copied.add(name)
    return frozenset(copied)
