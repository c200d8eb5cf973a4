"""Turn float inputs and outputs of a model into integers: --io uint8 or int8.

An integer at an input or output stands for (integer - zero_point) * scale; both are in the model's metadata:

    qtool.io = {name: {"type": "uint8", "scale": 0.0078, "zero_point": 128}}
"""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, new_node
from qtool.numerics.qparams import QParams, asymmetric
from qtool.plan.model import Kind, Plan, Site
from qtool.rewrite.writer import Writer, params
from qtool.tables.qtypes import QTYPES, QType

METADATA_KEY = "qtool.io"
_INTEGERS = ("uint8", "int8")


def write_integer_io(writer: Writer, plan: Plan) -> None:
    """Turn the float inputs and outputs that the plan names into integers."""
    if plan.choices.io not in _INTEGERS:
        return
    io = QTYPES[plan.choices.io]
    sites = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    inputs = {v.name: v for v in writer.model.graph.inputs}
    qparams: dict[str, QParams] = {}
    for name in plan.integer_ports:
        site = sites[name]
        if name in inputs:
            qparams[name] = _input(writer, site, inputs[name], io)
        else:
            qparams[name] = _output(writer, site, writer.made["qdq", name][1], io)
    described = {
        name: {"type": io.name, "scale": float(p.scale), "zero_point": int(p.zero_point)}
        for name, p in qparams.items()
    }
    writer.model.metadata_props[METADATA_KEY] = json.dumps(described)


def io_params(site: Site, io: QType) -> QParams:
    """Return the scale and zero point of an integer input or output: those of the site, moved to its type.

    Between types of 8 bits the integers only shift, so no value is rounded twice.
    """
    own, qtype = params(site), site.spec.qtype
    if qtype.bits == io.bits:
        return QParams(own.scale, own.zero_point + np.iinfo(io.dtype).min - np.iinfo(qtype.dtype).min)
    lo, hi = ((limit - int(own.zero_point)) * float(own.scale) for limit in (qtype.qmin, qtype.qmax))
    return asymmetric(lo, hi, io)


def _input(writer: Writer, site: Site, value: ir.Value, io: QType) -> QParams:
    """Turn x -> Q -> DQ into x (integers) -> DQ, with one more DQ and Q where the types differ."""
    graph, name, namer = writer.model.graph, value.name or "", writer.namer
    q, _ = writer.made["qdq", site.value]
    moved = io_params(site, io)
    integers = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType[io.name.upper()]))
    graph.inputs[list(graph.inputs).index(value)] = integers
    value.name = namer(f"{name}_float")
    quantizer = q.producer()
    if quantizer is None:
        raise KeyError(f"'{name}' is not quantized")
    if site.spec.qtype is io:
        q.replace_all_uses_with(integers)
        graph.remove(quantizer, safe=True)
    else:
        scale, zero = _constants(writer, name, moved, io)
        to_float = _linear(writer, "DequantizeLinear", [integers, scale, zero], f"{name}_{io.name}")
        graph.insert_before(quantizer, [to_float])
        quantizer.replace_input_with(0, to_float.outputs[0])
    return moved


def _output(writer: Writer, site: Site, dequantized: ir.Value, io: QType) -> QParams:
    """Turn .. -> Q -> DQ -> y into .. -> Q -> y (integers), with one more DQ and Q where the types differ."""
    graph, name, namer = writer.model.graph, dequantized.name or "", writer.namer
    q, _ = writer.made["qdq", site.value]
    moved = io_params(site, io)
    integers = q
    if site.spec.qtype is not io:
        scale, zero = _constants(writer, name, moved, io)
        node = _linear(writer, "QuantizeLinear", [dequantized, scale, zero], f"{name}_{io.name}")
        graph.append(node)
        integers = node.outputs[0]
    for index, output in enumerate(graph.outputs):
        if output is dequantized:
            graph.outputs[index] = integers
    dequantized.name = namer(f"{name}_dequantized")
    integers.name = name
    integers.shape, integers.type = dequantized.shape, ir.TensorType(ir.DataType[io.name.upper()])
    producer = dequantized.producer()
    if producer is not None and not dequantized.uses() and not dequantized.is_graph_output():
        graph.remove(producer, safe=True)
    return moved


def _constants(writer: Writer, name: str, moved: QParams, io: QType) -> tuple[ir.Value, ir.Value]:
    graph, namer = writer.model.graph, writer.namer
    return (
        add_initializer(graph, namer(f"{name}_{io.name}_scale"), moved.scale),
        add_initializer(graph, namer(f"{name}_{io.name}_zero_point"), moved.zero_point.astype(io.dtype)),
    )


def _linear(writer: Writer, op_type: str, inputs: list[ir.Value], stem: str) -> ir.Node:
    namer = writer.namer
    return new_node(
        op_type, inputs, name=namer(f"{stem}_{op_type}"), outputs=[namer(f"{stem}_{op_type}_output")]
    )
