"""Write QuantizeLinear and DequantizeLinear, int32 biases and fusion barriers.

Every new tensor is named after the one that it quantizes (`x` -> `x_quantized`, `x_scale`, ..), which a graph
viewer shows.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, insert_after_value, new_node, owner, take_output_name
from qtool.numerics.quantize import quantize_bias
from qtool.plan.model import GraphEdit, Site
from qtool.rewrite.weights import integers
from qtool.rewrite.writer import Writer, axis, constants, float_array, params, redirect

# Max(x, this) changes no activation in practice, and onnxruntime fuses nothing across it.
_BARRIER_FLOOR = -3e38


def write_activation(writer: Writer, site: Site) -> None:
    """Write x -> QuantizeLinear -> DequantizeLinear, behind a fusion barrier where the plan has one."""
    value = writer.view.values[site.value]
    graph = owner(value)
    scale, zero = constants(writer, site, graph)
    name, namer = site.value, writer.namer
    nodes: list[ir.Node] = []
    source = value
    if site.value in writer.quantizer_barriers:
        nodes.append(_barrier(writer, value))
        source = nodes[0].outputs[0]
    q = new_node(
        "QuantizeLinear",
        [source, scale, zero],
        name=namer(f"{name}_QuantizeLinear"),
        outputs=[namer(f"{name}_quantized")],
    )
    dq = new_node(
        "DequantizeLinear",
        [q.outputs[0], scale, zero],
        name=namer(f"{name}_DequantizeLinear"),
        outputs=[namer(f"{name}_dequantized")],
    )
    nodes += [q, dq]
    result = dq.outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, nodes, graph)
    redirect(writer, site.uses, value, result, keep=nodes)
    writer.made["qdq", site.value] = (q.outputs[0], result)
    if site.uses is None:
        take_output_name(value, result, writer.namer)


def write_sum(writer: Writer, edit: GraphEdit) -> None:
    """Turn an Add into a Sum."""
    for name, _ in edit.uses or ():
        writer.view.node_by_name[name].op_type = "Sum"


def write_result_barrier(writer: Writer, edit: GraphEdit) -> None:
    """Let every consumer of a value, a QuantizeLinear on it included, read it behind a fusion barrier."""
    value = writer.view.values[edit.value]
    barrier = _barrier(writer, value)
    result = barrier.outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, [barrier], owner(value))
    redirect(writer, edit.uses, value, result, keep=[barrier])
    take_output_name(value, result, writer.namer)


def _barrier(writer: Writer, value: ir.Value) -> ir.Node:
    floor = writer.once(("barrier",), owner(value), "barrier_floor", np.asarray(_BARRIER_FLOOR, np.float32))
    name, namer = value.name, writer.namer
    return new_node(
        "Max", [value, floor], name=namer(f"{name}_barrier"), outputs=[namer(f"{name}_behind_barrier")]
    )


def write_weight(writer: Writer, site: Site) -> None:
    """Write a weight as integers -> DequantizeLinear.

    Those of fewer than 8 bits pass a Cast to int8, which onnxruntime folds when it loads the model: its
    integer products have no other kernels. Behind a DequantizeLinear of int4 it computes in float, and it
    makes an invalid QLinearConv of int2 (1.32).
    """
    value = writer.view.values[site.value]
    graph = owner(value)
    scale, zero = constants(writer, site, graph)
    q = integers(writer, site)
    nodes = []
    if site.spec.qtype.in_file != site.spec.qtype.dtype:
        cast = new_node(
            "Cast",
            [q],
            name=writer.namer(f"{site.value}_Cast"),
            outputs=[writer.namer(f"{site.value}_cast")],
            attributes={"to": ir.AttrInt64("to", ir.DataType.INT8)},
        )
        nodes, q = [cast], cast.outputs[0]
    dq = new_node(
        "DequantizeLinear",
        [q, scale, zero],
        name=writer.namer(f"{site.value}_DequantizeLinear"),
        outputs=[writer.namer(f"{site.value}_dequantized")],
        attributes=axis(site),
    )
    insert_after_value(value, [*nodes, dq], graph)
    redirect(writer, site.uses, value, dq.outputs[0])


def write_bias(writer: Writer, site: Site) -> None:
    """Write a bias as int32 [C] at the product of its scales, once for each use: each has its own product."""
    value = writer.view.values[site.value]
    graph = owner(value)
    scales = params(site).scale
    array = float_array(value).reshape(-1)
    biases = quantize_bias(array, scales)
    q = add_initializer(graph, writer.namer(f"{site.value}_quantized"), biases)
    scale = add_initializer(graph, writer.namer(f"{site.value}_scale"), scales)
    dq = new_node(
        "DequantizeLinear",
        [q, scale],
        name=writer.namer(f"{site.value}_DequantizeLinear"),
        outputs=[writer.namer(f"{site.value}_dequantized")],
        attributes=axis(site),
    )
    insert_after_value(value, [dq], graph)
    redirect(writer, site.uses, value, dq.outputs[0])


def reshape_bias(writer: Writer, edit: GraphEdit) -> None:
    """Let an Add read its bias [N] as [1, .., 1, N]."""
    value = writer.view.values[edit.value]
    reshaped = float_array(value).reshape((1,) * (edit.axes - 1) + (-1,))
    key = ("reshaped", edit.value, edit.axes)
    bias = writer.once(key, owner(value), f"{edit.value}_lifted", reshaped)
    redirect(writer, edit.uses, value, bias)
