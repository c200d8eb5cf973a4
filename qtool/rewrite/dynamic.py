"""Write products and convolutions whose activations are quantized at run time.

Standard: DynamicQuantizeLinear -> MatMulInteger or ConvInteger -> Cast -> Mul(scales) (-> Add bias).
A weight that the plan quantizes at run time has a DynamicQuantizeLinear of its own.

onnxruntime has one node for a whole product: com.microsoft DynamicQuantizeMatMul, or MatMulIntegerToFloat
where several products read the same activation, which is then quantized once
(onnxruntime docs/ContribOperators.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import add_initializer, replace_node
from qtool.graph.view import (
    attribute_float,
    attribute_int,
    float_constant,
    rank,
)
from qtool.numerics.qparams import QParams, scale_shape
from qtool.plan.eligible import summed_axis
from qtool.plan.model import Kind
from qtool.rewrite.dynamic_operands import Quantized, at_run_time, one_node, split, transposed
from qtool.rewrite.weights import dtype_in_file, rounded, weight_constant, weight_shape
from qtool.rewrite.writer import Writer, home, vector
from qtool.tables.qtypes import PerBlock


def write_dynamic_quantize_matmul(writer: Writer, node: ir.Node) -> None:
    """Replace a product by DynamicQuantizeMatMul, one for each part of its operands."""
    _fused(writer, node, "DynamicQuantizeMatMul", shared=False)


def write_matmul_integer_to_float(writer: Writer, node: ir.Node) -> None:
    """Replace a product by MatMulIntegerToFloat, one for each part; other products read the same integers."""
    _fused(writer, node, "MatMulIntegerToFloat", shared=True)


def _fused(writer: Writer, node: ir.Node, op_type: str, *, shared: bool) -> None:
    """Write onnxruntime's own operator for each part; the first adds the bias of the Gemm or the Add."""
    writer.use_contrib()
    site = writer.added.get(node.name or "")
    bias, last = node.inputs[2] if len(node.inputs) > 2 else None, node
    if site is not None and site.uses:
        bias, last = writer.view.values[site.value], writer.view.node_by_name[site.uses[0][0]]
    nodes: list[ir.Node] = []
    for suffix, source, w in _parts(writer, node):
        own = vector(writer, home(node), bias) if bias is not None and not nodes else None
        if shared:
            a = at_run_time(writer, source)
            inputs = [a.values, w.values, a.scale, w.scale, a.zero_point, None, own]
        else:
            inputs = [source, w.values, w.scale, None, own]
        while inputs[-1] is None:
            inputs.pop()
        nodes.append(
            one_node(writer, op_type, inputs, f"{node.name}_quantized{suffix}", domain="com.microsoft")
        )
    _replace(writer, node, last, [*nodes, *_summed(writer, node, nodes)])


def write_matmul_integer(writer: Writer, node: ir.Node) -> None:
    """Replace a product by MatMulInteger -> Cast -> Mul for each part, then their sum, and then beta * C."""
    alpha = attribute_float(node, "alpha", 1.0)
    nodes: list[ir.Node] = []
    ends: list[ir.Node] = []
    for suffix, source, w in _parts(writer, node):
        a = at_run_time(writer, source)
        if attribute_int(node, "transA", 0):
            a = transposed(writer, a)
        inputs = [a.values, w.values, a.zero_point, w.zero_point]
        while inputs[-1] is None:
            inputs.pop()
        product = one_node(writer, "MatMulInteger", inputs, f"{node.name}_quantized{suffix}")
        nodes += [product, *_to_float(writer, node, suffix, product, a.scale, w.scale, alpha)]
        ends.append(nodes[-1])
    nodes += _summed(writer, node, ends)
    beta = attribute_float(node, "beta", 1.0)
    bias = node.inputs[2] if len(node.inputs) > 2 and beta else None
    if bias is not None and beta != 1.0:
        nodes.append(
            one_node(writer, "Mul", [bias, _number(writer, node, "beta", beta)], f"{node.name}_scaled")
        )
        nodes.append(_plus(writer, node, nodes[-2], nodes[-1].outputs[0]))
    elif bias is not None:
        nodes.append(_plus(writer, node, nodes[-1], bias))
    _replace(writer, node, node, nodes)


def _parts(writer: Writer, node: ir.Node) -> list[tuple[str, ir.Value, Quantized]]:
    """Return (name suffix, left operand in floats, right one as integers [.., K, N]) of each part of K."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None:
        raise KeyError(f"'{node.name}' lacks an operand")
    site, upright = writer.sites_of[node.name or "", 1], not attribute_int(node, "transB", 0)
    if site.kind is Kind.RUNTIME:
        weight = at_run_time(writer, right)
        return [("", left, weight if upright else transposed(writer, weight))]
    shape, granularity = weight_shape(writer, site), site.spec.granularity
    shape = shape if upright else shape[::-1]
    blocks = isinstance(granularity, PerBlock)
    count = shape[0] // granularity.size if isinstance(granularity, PerBlock) else 1
    sources, graph, parts = (
        split(writer, left, [shape[0] // count] * count, summed_axis(node)),
        home(node),
        [],
    )
    for index, source in enumerate(sources):
        suffix = f"_{index}" if count > 1 else ""
        key = (node.op_type, upright)

        def matrix(q: NDArray[Any], _: QParams, index: int = index) -> NDArray[Any]:
            rows = q if upright else q.T
            return np.asarray(np.split(rows, count)[index] if blocks else rows)

        def scale(_: NDArray[Any], params: QParams, index: int = index) -> NDArray[Any]:
            rows = params.scale if upright else params.scale.T
            return np.asarray(rows[index] if blocks else rows)

        w = weight_constant(
            writer,
            site,
            f"{site.value}_quantized{suffix}",
            matrix,
            dtype_in_file(site.spec.qtype),
            (shape[0] // count, *shape[1:]),
            graph=graph,
            key=key,
        )
        dims = shape[1:] if blocks else scale_shape(weight_shape(writer, site), granularity)
        s = weight_constant(
            writer, site, f"{site.value}_scale{suffix}", scale, ir.DataType.FLOAT, dims, graph=graph, key=key
        )
        parts.append((suffix, source, Quantized(w, s)))
    return parts


def _summed(writer: Writer, node: ir.Node, parts: list[ir.Node]) -> list[ir.Node]:
    """Return the Sum of the parts; none for a single part."""
    if len(parts) == 1:
        return []
    return [one_node(writer, "Sum", [p.outputs[0] for p in parts], f"{node.name}_Sum")]


def _plus(writer: Writer, node: ir.Node, product: ir.Node, bias: ir.Value) -> ir.Node:
    return one_node(writer, "Add", [product.outputs[0], bias], f"{node.name}_bias")


def _to_float(
    writer: Writer,
    node: ir.Node,
    suffix: str,
    product: ir.Node,
    a_scale: ir.Value,
    w_scale: ir.Value,
    factor: float = 1.0,
) -> list[ir.Node]:
    """Return the nodes that multiply int32 sums by both scales and a factor."""
    to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    cast = one_node(writer, "Cast", [product.outputs[0]], f"{node.name}_Cast{suffix}", attributes=to_float)
    scales = [one_node(writer, "Mul", [a_scale, w_scale], f"{node.name}_scales{suffix}")]
    if factor != 1.0:
        inputs = [scales[0].outputs[0], _number(writer, node, "alpha", factor)]
        scales.append(one_node(writer, "Mul", inputs, f"{node.name}_factor{suffix}"))
    step = scales[-1].outputs[0]
    return [cast, *scales, one_node(writer, "Mul", [cast.outputs[0], step], f"{node.name}_Mul{suffix}")]


def _number(writer: Writer, node: ir.Node, name: str, number: float) -> ir.Value:
    key = (name, node.name)
    return writer.once(key, home(node), f"{node.name}_{name}", np.asarray(number, np.float32))


def write_conv_integer(writer: Writer, node: ir.Node) -> None:
    """Replace a Conv with a weight [O, I/group, ..] and perhaps a bias [O]."""
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None:
        raise KeyError(f"'{node.name}' lacks an input")
    spatial = (1,) * ((rank(weight) or 2) - 2)
    a, w = at_run_time(writer, source), _filters(writer, node, weight, spatial)
    conv = one_node(
        writer,
        "ConvInteger",
        [a.values, w.values, a.zero_point, w.zero_point],
        f"{node.name}_quantized",
        attributes=dict(node.attributes),
    )
    nodes = [conv, *_to_float(writer, node, "", conv, a.scale, w.scale)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    array = float_constant(bias)
    if array is not None:
        spread = add_initializer(home(node), writer.namer(f"{node.name}_bias"), array.reshape(-1, *spatial))
        nodes.append(_plus(writer, node, nodes[-1], spread))
    elif bias is not None:
        shape = writer.once(("column", len(spatial)), home(node), "bias_shape", np.asarray((-1, *spatial)))
        column = one_node(writer, "Reshape", [bias, shape], f"{node.name}_column")
        nodes += [column, _plus(writer, node, nodes[-1], column.outputs[0])]
    _replace(writer, node, node, nodes)


def _filters(writer: Writer, node: ir.Node, weight: ir.Value, spatial: tuple[int, ...]) -> Quantized:
    """Return the weight of a convolution as integers, with scales that broadcast over its result."""
    site = writer.sites_of[node.name or "", 1]
    if site.kind is Kind.RUNTIME:
        return at_run_time(writer, weight)
    key, graph = (site.value, site.spec), home(node)
    q, qparams = rounded(writer, site)
    # ConvInteger has no kernel for s8 weights in onnxruntime (1.31): the same integers, 128 higher.
    q = (q.astype(np.int16) + 128).astype(np.uint8)
    scales = qparams.scale.reshape(-1, *spatial)
    return Quantized(
        writer.once(("conv", *key), graph, f"{site.value}_quantized", q),
        writer.once(("conv scale", *key), graph, f"{site.value}_scale", scales),
        writer.once(("conv zero",), graph, "conv_weight_zero_point", np.asarray(128, np.uint8)),
    )


def _replace(writer: Writer, node: ir.Node, last: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes in the place of a product and its bias."""
    replace_node(last, nodes, last.outputs[0], nodes[-1].outputs[0], writer.namer)
    if node is not last and node.graph is not None:
        node.graph.remove(node, safe=True)
