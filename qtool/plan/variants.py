"""Variants of an op, which tables/targets.py lists as op/variant: one function for each op type."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from qtool.graph.view import attribute_int, float_constant

# With fewer products for each output value, a first convolution is all overhead: 3 channels 3x3 (27 products)
# run 0.5x as fast in int8, 3 channels 7x7 (147) pay.
_STEM_PRODUCTS = 48


def variant(node: ir.Node) -> str:
    """Return the variant of a node; '' for the plain op."""
    return _VARIANTS[node.op_type](node) if node.op_type in _VARIANTS else ""


def _conv(node: ir.Node) -> str:
    weight = float_constant(node.inputs[1])
    if weight is None:
        return ""
    group = attribute_int(node, "group", 1)
    if group > 1:
        return "depthwise" if weight.shape[1] == 1 else "grouped"
    products = weight[0].size
    return "stem" if weight.shape[1] <= 4 and products < _STEM_PRODUCTS else ""


def _matmul(node: ir.Node) -> str:
    """Return the kind of the right operand: '' for a weight, fed for a model input, else activations."""
    weight = node.inputs[1]
    if weight is None or float_constant(weight) is not None:
        return ""
    return "fed" if weight.is_graph_input() else "activations"


def _mul(node: ir.Node) -> str:
    """x * x, or x * Sigmoid(x)."""
    if node.inputs[0] is node.inputs[1]:
        return "square"
    for data, gate in (node.inputs, tuple(reversed(node.inputs))):
        producer = gate.producer() if gate is not None else None
        if producer is not None and producer.op_type == "Sigmoid" and producer.inputs[0] is data:
            return "silu"
    return ""


def _add(node: ir.Node) -> str:
    """Return 'residual' for the sum of a convolution's result, perhaps behind a clamp, and another result."""
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type in ("Relu", "Clip") and producer.inputs[0] is not None:
            producer = producer.inputs[0].producer()
        if producer is not None and producer.op_type in ("Conv", "ConvTranspose"):
            return "residual"
    return ""


_VARIANTS: dict[str, Callable[[ir.Node], str]] = {"Conv": _conv, "MatMul": _matmul, "Mul": _mul, "Add": _add}
