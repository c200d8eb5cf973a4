"""The writers of nodes whose activations are quantized at run time.

Standard: DynamicQuantizeLinear -> MatMulInteger or ConvInteger -> Cast -> Mul(scales) (-> Add bias).
onnxruntime has all of it in one node for a product: com.microsoft DynamicQuantizeMatMul, or
MatMulIntegerToFloat where several products read the same activation, which is then quantized once
(onnxruntime docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import add_initializer, insert_after_value, new_node, owner, replace_node
from qtool.graph.view import attribute_int, float_constant, is_op, is_vector, sole_consumer
from qtool.numerics.quantize import quantize
from qtool.plan.model import Site
from qtool.plan.weights import added_bias
from qtool.rewrite.recurrent import fuse_lstm
from qtool.rewrite.writer import Writer, float_array, home, params, vector
from qtool.tables.qtypes import PerBlock


def write_dynamic(writer: Writer, node: ir.Node) -> None:
    """Replace a node by its form with run-time activations."""
    _WRITERS[node.op_type](writer, node)


@dataclass(frozen=True)
class _Quantized:
    """An activation as integers, with the scale and zero point that were found for them."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def _product(writer: Writer, node: ir.Node) -> None:
    """A MatMul or Gemm with a constant [K, N] weight, and the bias that it or the Add behind it has."""
    source, readers = node.inputs[0], writer.sites_of[node.name or "", 0].uses or ()
    if source is None:
        raise KeyError(f"'{node.name}' has no input")
    weight = writer.sites_of[node.name or "", 1]
    integers, scales = _matrix(writer, node, weight)
    bias, last = _bias(writer, node)
    parts = _parts(writer, source, [len(q) for q in integers])
    nodes: list[ir.Node] = []
    products: list[ir.Value] = []
    for index, (part, q, scale) in enumerate(zip(parts, integers, scales, strict=True)):
        suffix = f"_{index}" if len(parts) > 1 else ""
        key = (weight.value, weight.spec, node.op_type, attribute_int(node, "transB", 0), index)
        graph = home(node)
        w = writer.once(("dynamic", *key), graph, f"{weight.value}_quantized{suffix}", q)
        s = writer.once(("dynamic scale", *key), graph, f"{weight.value}_scale{suffix}", scale)
        own_bias = None
        if bias is not None and index == 0 and writer.target.onnxruntime:
            own_bias = vector(writer, graph, bias)
        shared = len(readers) > 1
        made = (_fused if writer.target.onnxruntime else _spelt_out)(
            writer, node, suffix, (part, w, s), own_bias, shared
        )
        nodes += made
        products.append(made[-1].outputs[0])
    if len(products) > 1:
        nodes.append(_node(writer, "Sum", products, f"{node.name}_Sum"))
    if bias is not None and not writer.target.onnxruntime:
        nodes.append(_node(writer, "Add", [nodes[-1].outputs[0], bias], f"{node.name}_bias"))
    if not writer.target.onnxruntime:
        _keep_apart(node)
    _settle(writer, node, last, nodes)


def _keep_apart(node: ir.Node) -> None:
    """Let an Add behind a product be a Sum, where it adds what is no bias of that.

    onnxruntime (1.31) fuses the product with any constant vector that is added to it: axes of length 1 that
    the product lacks are lost then, and another length than the product's fails.
    """
    reader = sole_consumer(node.outputs[0])
    if reader is None or not is_op(reader, "Add") or added_bias(node) is not None:
        return
    arrays = [a for v in reader.inputs if (a := float_constant(v)) is not None]
    if any(a.size > 1 and is_vector(a, a.size) for a in arrays):
        reader.op_type = "Sum"


def _matrix(
    writer: Writer, node: ir.Node, site: Site
) -> tuple[list[NDArray[np.integer]], list[NDArray[np.float32]]]:
    """The weight as integers [K, N] with scales [N], or its parts along K, each with scales of its own."""
    array = float_array(writer.view.values[site.value])
    found = params(site)
    q = quantize(array, found, site.spec.qtype, site.spec.granularity)
    blocked = isinstance(site.spec.granularity, PerBlock)
    scale = found.scale
    if attribute_int(node, "transB", 0):
        q, scale = q.T, scale.T
    if not blocked:
        return [q], [scale]
    return np.split(q, len(scale)), list(scale)


def _bias(writer: Writer, node: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    """The vector to add, and the last of the nodes that are replaced."""
    site = writer.added.get(node.name or "")
    if site is not None and site.uses:
        return writer.view.values[site.value], writer.view.node_by_name[site.uses[0][0]]
    return (node.inputs[2] if len(node.inputs) > 2 else None), node


def _parts(writer: Writer, source: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """The activation, split along its last axis, once for all readers."""
    if len(sizes) == 1:
        return [source]
    key = ("split", source.name, tuple(sizes))
    if key not in writer.made:
        name, namer = source.name or "", writer.namer
        lengths = add_initializer(_main(writer), namer(f"{name}_lengths"), np.asarray(sizes, np.int64))
        split = new_node(
            "Split",
            [source, lengths],
            name=namer(f"{name}_Split"),
            outputs=[namer(f"{name}_part_{i}") for i in range(len(sizes))],
            attributes={"axis": ir.AttrInt64("axis", -1)},
        )
        insert_after_value(source, [split], owner(source))
        writer.made[key] = split.outputs
    return writer.made[key]


def _quantized(writer: Writer, source: ir.Value) -> _Quantized:
    """DynamicQuantizeLinear, once for all readers."""
    key = ("quantized", source.name)
    if key not in writer.made:
        name, namer = source.name or "", writer.namer
        node = new_node(
            "DynamicQuantizeLinear",
            [source],
            name=namer(f"{name}_DynamicQuantizeLinear"),
            outputs=[namer(f"{name}_{what}") for what in ("quantized", "scale", "zero_point")],
        )
        insert_after_value(source, [node], owner(source))
        writer.made[key] = node.outputs
    return _Quantized(*writer.made[key])


def _fused(
    writer: Writer,
    node: ir.Node,
    suffix: str,
    operands: tuple[ir.Value, ir.Value, ir.Value],
    bias: ir.Value | None,
    shared: bool,
) -> list[ir.Node]:
    writer.use_contrib()
    source, weight, scale = operands
    if shared:
        a = _quantized(writer, source)
        inputs = [a.values, weight, a.scale, scale, a.zero_point, None, bias]
        op_type = "MatMulIntegerToFloat"
    else:
        inputs = [source, weight, scale, None, bias]
        op_type = "DynamicQuantizeMatMul"
    while inputs[-1] is None:
        inputs.pop()
    return [_node(writer, op_type, inputs, f"{node.name}_quantized{suffix}", domain="com.microsoft")]


def _spelt_out(
    writer: Writer,
    node: ir.Node,
    suffix: str,
    operands: tuple[ir.Value, ir.Value, ir.Value],
    bias: ir.Value | None,
    shared: bool,
) -> list[ir.Node]:
    source, weight, scale = operands
    a = _quantized(writer, source)
    product = _node(
        writer, "MatMulInteger", [a.values, weight, a.zero_point], f"{node.name}_quantized{suffix}"
    )
    return [product, *_to_float(writer, node, suffix, product, a.scale, scale)]


def _to_float(
    writer: Writer, node: ir.Node, suffix: str, product: ir.Node, a_scale: ir.Value, w_scale: ir.Value
) -> list[ir.Node]:
    """int32 sums times the product of both scales."""
    to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    cast = _node(writer, "Cast", [product.outputs[0]], f"{node.name}_Cast{suffix}", attributes=to_float)
    scales = _node(writer, "Mul", [a_scale, w_scale], f"{node.name}_scales{suffix}")
    return [
        cast,
        scales,
        _node(writer, "Mul", [cast.outputs[0], scales.outputs[0]], f"{node.name}_Mul{suffix}"),
    ]


def _conv(writer: Writer, node: ir.Node) -> None:
    """A Conv with a constant weight [O, I/group, ..] and perhaps a bias [O]."""
    source = node.inputs[0]
    if source is None:
        raise KeyError(f"'{node.name}' has no input")
    site = writer.sites_of[node.name or "", 1]
    value = writer.view.values[site.value]
    array, found, graph = float_array(value), params(site), home(node)
    spatial = (1,) * (array.ndim - 2)
    # ConvInteger has no kernel for s8 weights in onnxruntime (1.31): the same integers, 128 higher.
    q = (quantize(array, found, site.spec.qtype, site.spec.granularity).astype(np.int16) + 128).astype(
        np.uint8
    )
    key = (site.value, site.spec)
    w = writer.once(("conv", *key), graph, f"{site.value}_quantized", q)
    zero = writer.once(("conv zero",), graph, "conv_weight_zero_point", np.asarray(128, np.uint8))
    scales = found.scale.reshape(-1, *spatial)
    scale = writer.once(("conv scale", *key), graph, f"{site.value}_scale", scales)
    a = _quantized(writer, source)
    conv = _node(
        writer,
        "ConvInteger",
        [a.values, w, a.zero_point, zero],
        f"{node.name}_quantized",
        attributes=dict(node.attributes),
    )
    nodes = [conv, *_to_float(writer, node, "", conv, a.scale, scale)]
    bias = float_constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        spread = add_initializer(graph, writer.namer(f"{node.name}_bias"), bias.reshape(-1, *spatial))
        nodes.append(_node(writer, "Add", [nodes[-1].outputs[0], spread], f"{node.name}_bias"))
    _settle(writer, node, node, nodes)


def _settle(writer: Writer, node: ir.Node, last: ir.Node, nodes: list[ir.Node]) -> None:
    """Put the new nodes where the last of the old ones stood, and take the old ones out."""
    replace_node(last, nodes, last.outputs[0], nodes[-1].outputs[0], writer.namer)
    if node is not last and node.graph is not None:
        node.graph.remove(node, safe=True)


def _main(writer: Writer) -> ir.Graph:
    return writer.model.graph


def _node(
    writer: Writer,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    *,
    domain: str = "",
    attributes: dict[str, ir.Attr] | None = None,
) -> ir.Node:
    """A node with one output, named after it."""
    return new_node(
        op_type,
        inputs,
        name=writer.namer(name),
        outputs=[writer.namer(f"{name}_output")],
        domain=domain,
        attributes=attributes,
    )


_WRITERS = {"MatMul": _product, "Gemm": _product, "Conv": _conv, "LSTM": fuse_lstm}
