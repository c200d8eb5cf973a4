"""A model whose quantizers are switched by its inputs: what any of them does to the outputs, in one session.

Every activation that a plan quantizes is quantized and restored in float where its switch is on, and
passes as it is where it is off. Weights are fed, as they are or as some type would hold them. With all
switches off the model is the one that it was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.view import View, opset_of, rank
from qtool.plan.model import WEIGHTS, Kind, Plan, Site
from qtool.plan.predict import key_of
from qtool.rewrite.spare import split_spared
from qtool.rewrite.writer import Writer, constants, float_array, redirect
from qtool.tables.qtypes import PerBlock
from qtool.tables.targets import TARGETS

# ReduceMin and ReduceMax take their axes as an input since then.
REDUCE_AXES_OPSET = 18


@dataclass(frozen=True)
class Switched:
    """The model, and how it is switched.

    Args:
        model: with inputs of its own beside those of the original.
        switches: what is quantized together -> its input, a bool of no axes.
        weights: weight -> what it is, to be fed under its name.
    """

    model: ir.Model
    switches: dict[str, str]
    weights: dict[str, NDArray[np.float32]]


def switched(model: ir.Model, plan: Plan) -> Switched:
    """A clone of the prepared model with a switch for every scale of a resolved plan's activations.

    Those that share a scale share a switch; so do all that float16 makes of one node's results.
    """
    clone = model.clone()
    split_spared(clone, plan)
    view = View(clone)
    writer = Writer(view, Namer(clone), TARGETS[plan.target], {}, {})
    switches: dict[str, str] = {}
    weights: dict[str, NDArray[np.float32]] = {}
    for site in plan.sites:
        if site.kind in (Kind.ACTIVATION, Kind.RUNTIME) and view.in_main(view.values[site.value]):
            key = key_of(site)
            _switch(writer, site, _input(writer, switches, key))
        elif site.kind in WEIGHTS and site.value not in weights:
            weights[site.value] = float_array(view.values[site.value])
    for name, ports in plan.halves.sites.items():
        node = view.node_by_name[name]
        for index in ports.makes if node.graph is clone.graph else ():
            _switch_half(writer, node.outputs[index], _input(writer, switches, name))
    for name in weights:
        _feed(clone, view.values[name])
    return Switched(clone, switches, weights)


def _input(writer: Writer, switches: dict[str, str], key: str) -> ir.Value:
    graph = writer.model.graph
    if key not in switches:
        value = ir.Value(
            name=writer.namer(f"{key}_switch"), type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
        )
        graph.inputs.append(value)
        switches[key] = value.name or ""
    return next(v for v in reversed(graph.inputs) if v.name == switches[key])


def _switch(writer: Writer, site: Site, switch: ir.Value) -> None:
    value = _read(writer, site)
    nodes = _fixed(writer, site, value) if site.kind is Kind.ACTIVATION else _found(writer, site, value)
    chosen = _either(writer, value, switch, nodes)
    insert_after_value(value, [chosen], owner(value))
    redirect(writer, site, value, chosen.outputs[0], keep={id(chosen), *_inside(chosen)})
    if site.uses is None:
        take_output_name(value, chosen.outputs[0], writer.namer)


def _read(writer: Writer, site: Site) -> ir.Value:
    """What a site's readers read: the value itself, or what sparing columns has left of it."""
    value = writer.view.values[site.value]
    name, index = (site.uses or (("", 0),))[0]
    read = writer.view.node_by_name[name].inputs[index] if site.kind is Kind.RUNTIME and name else value
    return value if read is None else read


def _switch_half(writer: Writer, value: ir.Value, switch: ir.Value) -> None:
    namer = writer.namer
    down = _op(namer, "Cast", [value], to=ir.DataType.FLOAT16)
    up = _op(namer, "Cast", [down.outputs[0]], to=ir.DataType.FLOAT)
    chosen = _either(writer, value, switch, [down, up])
    insert_after_value(value, [chosen], owner(value))
    keep = {id(chosen), *_inside(chosen)}
    for use in list(value.uses()):
        if id(use.node) not in keep:
            use.node.replace_input_with(use.idx, chosen.outputs[0])
    take_output_name(value, chosen.outputs[0], namer)


def _either(writer: Writer, value: ir.Value, switch: ir.Value, nodes: Sequence[ir.Node]) -> ir.Node:
    """An If: of the other branch, only what is asked for is computed (a Where would cost both)."""
    namer = writer.namer
    same = _op(namer, "Identity", [value])
    branches = {}
    for name, body in (("then_branch", list(nodes)), ("else_branch", [same])):
        last = body[-1].outputs[0]
        last.type, last.shape = value.type, value.shape
        branches[name] = ir.AttrGraph(name, ir.Graph([], [last], nodes=body, name=namer(name)))
    chosen = new_node(
        "If", [switch], name=namer("either"), outputs=[namer(f"{value.name}_either")], attributes=branches
    )
    result = chosen.outputs[0]
    result.type, result.shape = value.type, value.shape
    return chosen


def _inside(chosen: ir.Node) -> set[int]:
    """The nodes of an If's branches."""
    return {id(n) for attr in chosen.attributes.values() for n in attr.as_graph()}


def _op(namer: Namer, op_type: str, inputs: Sequence[ir.Value], outputs: int = 1, **given: int) -> ir.Node:
    attributes = {name: ir.AttrInt64(name, int(value)) for name, value in given.items()}
    name = namer(op_type)
    return new_node(
        op_type,
        inputs,
        name=name,
        outputs=[namer(f"{name}_{i}") for i in range(outputs)],
        attributes=attributes,
    )


def _fixed(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """By the scale in the plan."""
    scale, zero = constants(writer, site, writer.model.graph)
    q = _op(writer.namer, "QuantizeLinear", [value, scale, zero])
    return [q, _op(writer.namer, "DequantizeLinear", [q.outputs[0], scale, zero])]


def _found(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """By a scale that is found at every run: of the whole, or of each block of the last axis."""
    namer, axes = writer.namer, rank(value)
    granularity = site.spec.granularity
    if not isinstance(granularity, PerBlock) or axes is None or granularity.axis != -1:
        return _whole(namer, value)
    graph = writer.model.graph

    def const(name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_initializer(graph, namer(name), array)

    low, high = const("low", np.asarray(0, np.float32)), const("high", np.asarray(255, np.float32))
    least = const("least", np.asarray(1e-30, np.float32))
    shape = const("blocked", np.array([0] * (axes - 1) + [-1, granularity.size], np.int64))
    back = const("whole", np.array([0] * (axes - 1) + [-1], np.int64))
    over = [i for i in range(axes + 1) if i != axes - 1]
    nodes: list[ir.Node] = []

    def op(op_type: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(_op(namer, op_type, inputs))
        return nodes[-1].outputs[0]

    def reduced(way: str) -> ir.Value:
        """The axes are an attribute up to opset 17, and an input since."""
        if opset_of(writer.model) >= REDUCE_AXES_OPSET:
            nodes.append(_op(namer, way, [blocks, const("over", np.array(over, np.int64))]))
        else:
            nodes.append(_op(namer, way, [blocks]))
            nodes[-1].attributes["axes"] = ir.AttrInt64s("axes", over)
        return nodes[-1].outputs[0]

    blocks = op("Reshape", value, shape)
    reach = [op("Min", reduced("ReduceMin"), low), op("Max", reduced("ReduceMax"), low)]
    scale = op("Max", op("Div", op("Sub", reach[1], reach[0]), high), least)
    zero = op("Round", op("Div", reach[0], scale))
    q = op("Min", op("Max", op("Sub", op("Round", op("Div", blocks, scale)), zero), low), high)
    op("Reshape", op("Mul", op("Add", q, zero), scale), back)
    return nodes


def _whole(namer: Namer, value: ir.Value) -> list[ir.Node]:
    q = _op(namer, "DynamicQuantizeLinear", [value], outputs=3)
    return [q, _op(namer, "DequantizeLinear", q.outputs)]


def _feed(model: ir.Model, value: ir.Value) -> None:
    """Make an input of an initializer; inner graphs read it from there as well."""
    graph, name = owner(value), value.name or ""
    del graph.initializers[name]
    if graph is model.graph:
        value.const_value = None
        model.graph.inputs.append(value)
        return
    fed = ir.Value(name=name, type=value.type, shape=value.shape)
    value.replace_all_uses_with(fed)
    model.graph.inputs.append(fed)
