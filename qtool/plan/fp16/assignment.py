"""Which nodes compute in float16, and why the others do not.

Everything that can be float16 is, but for what needs more precision or range. Of the rest, only HEAVY
ops are worth a Cast: any other node is float16 where its inputs are so already, and goes back to
float32 where that costs no Cast more. The result has a Cast on each border and none inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_ir as ir

from qtool.calibrate.ranges import Ranges
from qtool.graph.view import View, op_key, opset_of
from qtool.plan.eligible import rule_of
from qtool.plan.fp16.cast_boundaries import not_worth_casts
from qtool.plan.fp16.overflow import find_overflow
from qtool.plan.fp16.ports import is_blind, is_float32, ports_of
from qtool.plan.fp16.precision import exact_arguments, worth_float32
from qtool.plan.model import OBSERVED, EditKind, Fp16Assignment, Fp16Node, GraphEdit, Site
from qtool.tables.float16 import FLOAT32_INPUTS, NEVER, QUANTIZERS, STORED_MIN_ELEMENTS
from qtool.tables.reasons import Code, Reason

_WORTHLESS = "it stands by float32 nodes: float16 would save no Cast"


def assign_fp16(
    view: View,
    keep: Mapping[str, Reason],
    ranges: Ranges | None,
    *,
    forced: Collection[str] = (),
    others: bool = True,
    io_float16: bool = False,
) -> Fp16Assignment:
    """Label every node that touches float32 values: in float16, or kept with its reason.

    Args:
        view: of a prepared model.
        keep: node -> why it stays in float32.
        ranges: of values that calibration has seen (`observed` says which to look at).
        forced: nodes that are float16 wherever they can be, whatever that is worth.
        others: whether any other node is to be float16, where it can be and is worth it.
        io_float16: the graph's own inputs and outputs become float16, but for those that it can't hold.
    """
    limits = find_overflow(view, ranges)
    precise = worth_float32(view)
    opset = opset_of(view.model)
    sites: dict[str, Fp16Node] = {}
    reasons: dict[str, Reason] = {}
    for node in view.nodes:
        name, found = node.name or "", ports_of(node, opset)
        if found is None:
            continue
        if name in keep:
            reasons[name] = keep[name]
            continue
        text = "" if others or name in forced else "float16 was asked for elsewhere"
        if isinstance(found, str):
            reasons[name] = Reason(Code.FLOAT16, text or found)
            continue
        text = text or _too_much(node, found, limits) or _quantized(node)
        if name not in forced:
            text = text or precise.get(name, "")
        if text:
            reasons[name] = Reason(Code.FLOAT16, text)
        else:
            sites[name] = found
    own = frozenset(v.name or "" for v in ports(view) if io_float16 and v.name not in limits)
    for name in not_worth_casts(view, sites, own, forced):
        reasons[name] = Reason(Code.FLOAT16, _WORTHLESS)
        del sites[name]
    return Fp16Assignment(sites, reasons, frozenset(_stored(view, limits) if others else ()), limits, own)


def ports(view: View) -> list[ir.Value]:
    """The model's own float32 inputs and outputs."""
    graph = view.model.graph
    return [v for v in dict.fromkeys((*graph.inputs, *graph.outputs)) if is_float32(v)]


def observed(fp16: Fp16Assignment, view: View, *, io_float16: bool = False) -> list[str]:
    """The values of the main graph whose ranges decide, constants left out.

    They are what float16 nodes read or make; with io_float16, the model's own inputs and outputs, too. Those
    of nested graphs can't be observed.
    """
    values = [*(ports(view) if io_float16 else ()), *_of_sites(fp16, view)]
    found = [v for v in values if is_float32(v) and v.graph is view.model.graph]
    return list(dict.fromkeys(v.name or "" for v in found if not v.is_initializer()))


def has_unobserved_values(fp16: Fp16Assignment, view: View) -> bool:
    """Whether float16 nodes read or make values that no calibration can look at."""
    main = view.model.graph
    return any(v.graph is not main and not v.is_initializer() for v in _of_sites(fp16, view))


def _of_sites(fp16: Fp16Assignment, view: View) -> Iterator[ir.Value]:
    for name, site in fp16.nodes.items():
        node = view.node_by_name[name]
        yield from (v for i in site.inputs if (v := node.inputs[i]) is not None)
        yield from (node.outputs[i] for i in site.outputs)


def _too_much(node: ir.Node, ports: Fp16Node, limits: Mapping[str, str]) -> str:
    """What of a node's inputs and outputs float16 can't hold."""
    for index in ports.inputs:
        value = node.inputs[index]
        name = value.name or "" if value is not None else ""
        if name in limits:
            return f"its input '{name}' {limits[name]}"
    for index in ports.outputs:
        name = node.outputs[index].name or ""
        if name in limits:
            return f"its output '{name}' {limits[name]}"
    return ""


def _quantized(node: ir.Node) -> str:
    producers = [v.producer() for v in node.inputs if v is not None]
    readers = [use.node for v in node.outputs for use in v.uses()]
    if any(n is not None and n.op_type in QUANTIZERS for n in (*producers, *readers)):
        return "it stands beside a QuantizeLinear or DequantizeLinear, which the runtime fuses with it"
    return ""


def _stored(view: View, limits: Mapping[str, str]) -> list[str]:
    """Large weights that float32 nodes read, and would as well read with 11 bits.

    Not those of quantizers, nor what an op must have exact: coordinates, indices and arguments.
    """
    exact = exact_arguments(view)
    found = []
    for name, value in view.values.items():
        if not (value.is_initializer() and is_float32(value)) or value.is_graph_input() or name in limits:
            continue
        tensor = value.const_value
        if tensor is None or tensor.size < STORED_MIN_ELEMENTS or value.is_graph_output():
            continue
        if all(_may_store(u.node, u.idx, tensor.size, exact) for u in value.uses()):
            found.append(name)
    return found


def _may_store(reader: ir.Node, index: int, size: int, exact: Collection[str]) -> bool:
    key = op_key(reader)
    if reader.name in exact or key in QUANTIZERS or key in NEVER or index in FLOAT32_INPUTS.get(key, ()):
        return False
    rule = rule_of(reader)
    return rule is None or size >= rule.storage_min_elements


def copied_weights(
    view: View, fp16: Fp16Assignment, sites: Iterable[Site] = (), edits: Iterable[GraphEdit] = ()
) -> frozenset[str]:
    """Return the weights of float16 nodes that stay float32, because something else needs them so.

    That is a float32 node, unless the weight is one of `fp16.stored`, or an output of the model. All other
    weights of float16 nodes become float16 where they lie.

    Args:
        view: of the prepared model.
        fp16: what becomes float16.
        sites, edits: of the same plan. A node that reads a weight as integers, or reshaped, does not need
            its floats.
    """
    reads = {(name, i) for name, ports in fp16.nodes.items() for i in ports.inputs}
    others = {use for s in sites if s.kind not in OBSERVED for use in s.uses or ()}
    others |= {use for e in edits if e.kind is EditKind.RESHAPED_BIAS for use in e.uses or ()}
    found = set()
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
            found.add(name)
    return frozenset(found)
