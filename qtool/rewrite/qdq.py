"""The writer of QuantizeLinear/DequantizeLinear graphs.

Every new tensor is named after the one it quantizes (`x` -> `x_quantized`, `x_scale`, ...), so that
the result reads well in a viewer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.view import rank
from qtool.numerics.quantize import quantize_bias
from qtool.plan.model import Site
from qtool.rewrite.writer import Writer, axis, constants, float_array, integers, params, redirect

# Below every finite activation that matters: Max(x, this) changes nothing, and no optimizer sees through it.
_GUARD_FLOOR = -3e38


def write_activation(writer: Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    graph = owner(value)
    scale, zero = constants(writer, site, graph)
    name, namer = site.value, writer.namer
    nodes: list[ir.Node] = []
    source = value
    if site.guard:
        nodes.append(_guard(writer, value))
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


def write_apart(writer: Writer, site: Site) -> None:
    """Whoever reads the value, a Q on it included, reads it behind a guard."""
    value = writer.view.values[site.value]
    guard = _guard(writer, value)
    result = guard.outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, [guard], owner(value))
    redirect(writer, site.uses, value, result, keep=[guard])
    take_output_name(value, result, writer.namer)


def _guard(writer: Writer, value: ir.Value) -> ir.Node:
    floor = writer.once(("guard",), owner(value), "guard_floor", np.asarray(_GUARD_FLOOR, np.float32))
    name, namer = value.name, writer.namer
    return new_node("Max", [value, floor], name=namer(f"{name}_guard"), outputs=[namer(f"{name}_guarded")])


def write_weight(writer: Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    graph = owner(value)
    q = integers(writer, site, value, float_array(value))
    scale, zero = constants(writer, site, graph)
    dq = new_node(
        "DequantizeLinear",
        [q, scale, zero],
        name=writer.namer(f"{site.value}_DequantizeLinear"),
        outputs=[writer.namer(f"{site.value}_dequantized")],
        attributes=axis(site),
    )
    insert_after_value(value, [dq], graph)
    redirect(writer, site.uses, value, dq.outputs[0])


def write_bias(writer: Writer, site: Site) -> None:
    """The bias as int32 [C] at the product of its scales; one a use, since each has its own product."""
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


def write_lifted(writer: Writer, site: Site) -> None:
    """A bias [N] as [1, .., 1, N]: of a vector the runtime would make a float Gemm's bias."""
    value = writer.view.values[site.value]
    graph = owner(value)
    array = float_array(value)
    for name, index in site.uses or ():
        node = writer.view.node_by_name[name]
        axes = rank(node.inputs[1 - index]) or array.ndim
        lifted = array.reshape((1,) * (axes - 1) + (-1,))
        key = ("lifted", site.value, axes)
        node.replace_input_with(index, writer.once(key, graph, f"{site.value}_lifted", lifted))
