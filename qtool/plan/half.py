"""Which nodes compute in float16, and why the others do not.

Everything that can be float16 is, but for what needs more precision or range. Of the rest, only HEAVY
ops are worth a Cast: any other node is float16 where its inputs are so already, and goes back to
float32 where that costs no Cast more. The result has a Cast on each border and none inside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from qtool.calibrate.ranges import Ranges
from qtool.graph.view import View, opset_of
from qtool.plan.eligible import rule_of
from qtool.plan.half_borders import worthless
from qtool.plan.half_guards import torn_norms
from qtool.plan.half_limits import unheld
from qtool.plan.half_ports import Ports, is_float32, ports_of
from qtool.plan.half_precise import worth_float32
from qtool.tables.float16 import QUANTIZERS, STORED_MIN_ELEMENTS

_WORTHLESS = "it stands by float32 nodes: float16 would save no Cast"


@dataclass(frozen=True)
class Halves:
    """What becomes float16, by name.

    Args:
        nodes: those that compute in float16.
        sites: for each of them, its inputs and outputs that are float16.
        reasons: why each other node that touches float32 values does not.
        stored: weights of float32 nodes that are float16 in the file only.
        unheld: float32 values that float16 can't hold, and why.
        guards: values whose float32 form the runtime must not fuse with what follows.
    """

    nodes: frozenset[str] = frozenset()
    sites: dict[str, Ports] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    unheld: dict[str, str] = field(default_factory=dict)
    guards: frozenset[str] = frozenset()


def place_half(
    view: View,
    wanted: Collection[str] | None,
    keep: Mapping[str, str],
    ranges: Ranges | None,
    *,
    io_half: bool = False,
) -> Halves:
    """Label every node that touches float32 values: in float16, or kept with its reason.

    Args:
        view: of a prepared model.
        wanted: the nodes to convert, wherever they can be; None: all that can and are worth it.
        keep: node -> why it stays in float32.
        ranges: of values that calibration has seen (`observed` says which to look at).
        io_half: the graph's own inputs and outputs become float16, too.
    """
    limits = unheld(view, ranges)
    precise = {} if wanted is not None else worth_float32(view)
    opset = opset_of(view.model)
    ports: dict[str, Ports] = {}
    reasons: dict[str, str] = {}
    for node in view.nodes:
        name, found = node.name or "", ports_of(node, opset)
        if found is None:
            continue
        reason = keep.get(name, "")
        if not reason and wanted is not None and name not in wanted:
            reason = "float16 was asked for elsewhere"
        if not reason and isinstance(found, str):
            reason = found
        if not reason and isinstance(found, Ports):
            reason = _too_much(node, found, limits) or _quantized(node)
            reason = reason or precise.get(name, "")
        if reason:
            reasons[name] = reason
        elif isinstance(found, Ports):
            ports[name] = found
    if wanted is None:
        for name in worthless(view, ports, io_half):
            reasons[name] = _WORTHLESS
            del ports[name]
    stored = frozenset(_stored(view, limits) if wanted is None else ())
    guards = torn_norms(view, ports, io_half)
    return Halves(frozenset(ports), ports, reasons, stored, limits, guards)


def observed(halves: Halves, view: View, *, io_half: bool = False) -> list[str]:
    """The values of the main graph whose ranges decide, constants left out.

    They are what float16 nodes read or make; with io_half, the model's own inputs and outputs, too. Those
    of nested graphs can't be observed.
    """
    main = view.model.graph
    values: list[ir.Value | None] = [*main.inputs, *main.outputs] if io_half else []
    for node in view.nodes:
        ports = halves.sites.get(node.name or "", Ports((), ()))
        values += [node.inputs[i] for i in ports.reads]
        values += [node.outputs[i] for i in ports.makes]
    found = [v for v in values if is_float32(v) and v is not None and v.graph is main]
    return list(dict.fromkeys(v.name or "" for v in found if not v.is_initializer()))


def _too_much(node: ir.Node, ports: Ports, limits: Mapping[str, str]) -> str:
    """What of a node's inputs and outputs float16 can't hold."""
    for index in ports.reads:
        value = node.inputs[index]
        name = value.name or "" if value is not None else ""
        if name in limits:
            return f"its input '{name}' {limits[name]}"
    for index in ports.makes:
        name = node.outputs[index].name or ""
        if name in limits:
            return f"its output '{name}' {limits[name]}"
    return ""


def _quantized(node: ir.Node) -> str:
    makers = [v.producer() for v in node.inputs if v is not None]
    readers = [use.node for v in node.outputs for use in v.uses()]
    if any(n is not None and n.op_type in QUANTIZERS for n in (*makers, *readers)):
        return "it stands beside a QuantizeLinear or DequantizeLinear, which the runtime fuses with it"
    return ""


def _stored(view: View, limits: Mapping[str, str]) -> list[str]:
    """Large weights that float32 nodes read; quantizers want theirs as they are."""
    found = []
    for name, value in view.values.items():
        if not (value.is_initializer() and is_float32(value)) or value.is_graph_input() or name in limits:
            continue
        tensor = value.const_value
        if tensor is None or tensor.size < STORED_MIN_ELEMENTS or value.is_graph_output():
            continue
        if all(_may_store(use.node, tensor.size) for use in value.uses()):
            found.append(name)
    return found


def _may_store(reader: ir.Node, size: int) -> bool:
    rule = rule_of(reader)
    return reader.op_type not in QUANTIZERS and (rule is None or size >= rule.storage_min_elements)
