"""Fake quantization: nodes that round a float value as its quantization does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer, new_node
from qtool.graph.view import opset_of, rank
from qtool.plan.model import Kind, Site
from qtool.rewrite.writer import Writer, constants
from qtool.tables.qtypes import PerBlock

# ReduceMin and ReduceMax take their axes as an input since then.
REDUCE_AXES_OPSET = 18


def read_value(writer: Writer, site: Site) -> ir.Value:
    """Return the value that the consumers of a site read: its own, or that without its outlier columns."""
    value = writer.view.values[site.value]
    name, index = (site.uses or (("", 0),))[0]
    source = writer.view.node_by_name[name].inputs[index] if site.kind is Kind.RUNTIME and name else value
    return value if source is None else source


def fake_quantize(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """Return the nodes that round a value to integers and back, by a scale of the plan or of each run."""
    if site.kind is Kind.ACTIVATION:
        return _by_the_plan(writer, site, value)
    return _at_run_time(writer, site, value)


def round_to_float16(namer: Namer, value: ir.Value) -> list[ir.Node]:
    """Return the Casts of a value to float16 and back."""
    down = op(namer, "Cast", [value], to=ir.DataType.FLOAT16)
    return [down, op(namer, "Cast", [down.outputs[0]], to=ir.DataType.FLOAT)]


def op(namer: Namer, op_type: str, inputs: Sequence[ir.Value], outputs: int = 1, **integers: int) -> ir.Node:
    """Return a node with free names and integer attributes, not yet in any graph."""
    attributes = {name: ir.AttrInt64(name, int(value)) for name, value in integers.items()}
    name = namer(op_type)
    return new_node(
        op_type,
        inputs,
        name=name,
        outputs=[namer(f"{name}_{i}") for i in range(outputs)],
        attributes=attributes,
    )


def _by_the_plan(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    scale, zero = constants(writer, site, writer.model.graph)
    q = op(writer.namer, "QuantizeLinear", [value, scale, zero])
    return [q, op(writer.namer, "DequantizeLinear", [q.outputs[0], scale, zero])]


def _at_run_time(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """Round by a scale of each run, of the tensor or of each block of its last axis."""
    namer, axes = writer.namer, rank(value)
    granularity = site.spec.granularity
    if not isinstance(granularity, PerBlock) or axes is None or granularity.axis != -1:
        return _dynamic_quantize(namer, value)
    graph = writer.model.graph

    def const(name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_initializer(graph, namer(name), array)

    low, high = const("low", np.asarray(0, np.float32)), const("high", np.asarray(255, np.float32))
    least = const("least", np.asarray(1e-30, np.float32))
    shape = const("blocked", np.array([0] * (axes - 1) + [-1, granularity.size], np.int64))
    back = const("whole", np.array([0] * (axes - 1) + [-1], np.int64))
    over = [i for i in range(axes + 1) if i != axes - 1]
    nodes: list[ir.Node] = []

    def put(op_type: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(op(namer, op_type, inputs))
        return nodes[-1].outputs[0]

    def reduced(op_type: str) -> ir.Value:
        """Return the least or greatest value of each block; the axes are an attribute up to opset 17."""
        if opset_of(writer.model) >= REDUCE_AXES_OPSET:
            nodes.append(op(namer, op_type, [blocks, const("over", np.array(over, np.int64))]))
        else:
            nodes.append(op(namer, op_type, [blocks]))
            nodes[-1].attributes["axes"] = ir.AttrInt64s("axes", over)
        return nodes[-1].outputs[0]

    blocks = put("Reshape", value, shape)
    ends = [put("Min", reduced("ReduceMin"), low), put("Max", reduced("ReduceMax"), low)]
    scale = put("Max", put("Div", put("Sub", ends[1], ends[0]), high), least)
    zero = put("Round", put("Div", ends[0], scale))
    q = put("Min", put("Max", put("Sub", put("Round", put("Div", blocks, scale)), zero), low), high)
    put("Reshape", put("Mul", put("Add", q, zero), scale), back)
    return nodes


def _dynamic_quantize(namer: Namer, value: ir.Value) -> list[ir.Node]:
    q = op(namer, "DynamicQuantizeLinear", [value], outputs=3)
    return [q, op(namer, "DequantizeLinear", q.outputs)]
