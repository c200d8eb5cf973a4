"""How much a node computes, and in which row of the cost table its time is found (tables/kernels.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from qtool.graph.view import attribute_int, constant, is_op, sole_consumer
from qtool.plan.variants import variant
from qtool.plan.weights import added_bias
from qtool.tables.forms import Form
from qtool.tables.kernels import FUSED_IN_FLOAT, FUSED_IN_INT8, KERNELS, POOLS, SAME_AS

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# A convolution from or to fewer channels leaves most of a vector unit idle.
_THIN = 32
# Those that an image has, and no more.
_STEM_CHANNELS = 4
# A product of more rows is as fast a row as one of very many.
_FEW_ROWS = 32


def shape_of(value: ir.Value | None, shapes: Shapes) -> Shape | None:
    """The shape of a value: a constant's own, else the one that is given; None where that is not."""
    if value is None:
        return None
    array = constant(value)
    return array.shape if array is not None else shapes.get(value.name or "")


def row_of(node: ir.Node, shapes: Shapes) -> str | None:
    """The row of the cost table that a node is in; None where it is in none, or a shape is missing."""
    if node.domain not in ("", "ai.onnx"):
        return None
    op_type = SAME_AS.get(node.op_type, node.op_type)
    if op_type not in _ROWS:
        return op_type if op_type in KERNELS else None
    kind = _ROWS[op_type](node, shapes)
    if kind is None:
        return None
    row = f"{op_type}/{kind}" if kind else op_type
    return row if row in KERNELS else None


def work_of(node: ir.Node, shapes: Shapes) -> int | None:
    """Multiply-accumulates of a node that multiplies by a weight or another activation; of any other one the
    elements that it reads or makes, whichever are more. None where a shape is missing.
    """
    count = _WORK.get(SAME_AS.get(node.op_type, node.op_type))
    if count is not None:
        return count(node, shapes)
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and constant(v) is None]
    known = [shape_of(v, shapes) for v in values]
    sizes = [math.prod(shape) for shape in known if shape is not None]
    return max(sizes) if sizes and len(sizes) == len(known) else None


def is_fused(node: ir.Node, form: Form | None) -> bool:
    """Whether the runtime makes a node part of another, whose time has it already.

    In float that takes the node before it to be in float, too.
    """
    if form is Form.INT8:
        return is_op(node, *FUSED_IN_INT8) or _is_bias(node)
    return form is None and (_is_gate(node) or _is_bias(node) or _is_behind(node))


def _is_behind(node: ir.Node) -> bool:
    """Part of what makes its operand."""
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None or value is None or node.op_type not in FUSED_IN_FLOAT.get(producer.op_type, ()):
            continue
        if sole_consumer(value) is not node:
            continue
        if is_op(node, "Add"):
            return all(_is_blocked(v) for v in node.inputs)
        return producer.op_type != "Add" or _is_behind(producer) or _is_bias(producer)
    return False


def _is_blocked(value: ir.Value | None) -> bool:
    """Whether a float value is in the layout that convolutions of images make, and can be added to by one.

    Through a chain of residual sums it is, as far back as it goes.
    """
    while value is not None and (producer := value.producer()) is not None:
        if is_op(producer, "Conv"):
            weight = constant(producer.inputs[1])
            return weight is not None and weight.ndim == 4
        if is_op(producer, *POOLS):
            return True
        sources = [v for v in producer.inputs if v is not None and constant(v) is None]
        if is_op(producer, "Add"):
            sources = [v for v in sources if not is_op(v.producer(), "Conv")] or sources[:1]
        elif producer.op_type not in FUSED_IN_FLOAT["Conv"]:
            return False
        if len(sources) != 1:
            return False
        value = sources[0]
    return False


def _is_gate(node: ir.Node) -> bool:
    """A Sigmoid that makes, with the Mul behind it, a SiLU."""
    reader = sole_consumer(node.outputs[0]) if is_op(node, "Sigmoid") else None
    return reader is not None and is_op(reader, "Mul") and variant(reader) == "silu"


def _is_bias(node: ir.Node) -> bool:
    """An Add of a constant vector to a product, which makes a Gemm of the two."""
    producers = [v.producer() for v in node.inputs if v is not None] if is_op(node, "Add") else []
    return any(is_op(m, "MatMul") and added_bias(m) is not None for m in producers if m is not None)


def _conv_row(node: ir.Node, shapes: Shapes) -> str | None:
    weight = shape_of(node.inputs[1], shapes)
    if weight is None:
        return None
    known, strides = variant(node), node.attributes.get("strides")
    if len(weight) == 3:
        return {"": "1d", "stem": "1d", "depthwise": "1d-depthwise"}.get(known)
    if len(weight) != 4 or known:
        return known or None
    strided = strides is not None and max(strides.as_ints()) > 1
    thin = min(weight[0], weight[1]) < _THIN
    taps = math.prod(weight[2:])
    if taps == 1:
        return "1x1-thin" if thin else "1x1"
    if taps > 9:
        return "larger-stem" if weight[1] <= _STEM_CHANNELS else "larger"
    return "3x3-strided" if strided else "3x3-thin" if thin else "3x3"


def _product_row(node: ir.Node, shapes: Shapes) -> str | None:
    if constant(node.inputs[1]) is None:
        return "activations"
    result = shape_of(node.outputs[0], shapes)
    if result is None:
        return None
    rows = math.prod(result[:-1])
    return "1" if rows <= 1 else "few" if rows <= _FEW_ROWS else "many"


def _mul_row(node: ir.Node, shapes: Shapes) -> str:
    return "silu" if variant(node) == "silu" else ""


def _conv(node: ir.Node, shapes: Shapes) -> int | None:
    """Every value of the output is a sum over [I / group, ..kernel]."""
    weight, result = shape_of(node.inputs[1], shapes), shape_of(node.outputs[0], shapes)
    return math.prod(result) * math.prod(weight[1:]) if weight and result else None


def _conv_transpose(node: ir.Node, shapes: Shapes) -> int | None:
    """Every value of the input goes to [O / group, ..kernel] of the output."""
    weight, data = shape_of(node.inputs[1], shapes), shape_of(node.inputs[0], shapes)
    return math.prod(data) * math.prod(weight[1:]) if weight and data else None


def _product(node: ir.Node, shapes: Shapes) -> int | None:
    left, result = shape_of(node.inputs[0], shapes), shape_of(node.outputs[0], shapes)
    if not left or result is None:
        return None
    summed = left[0] if is_op(node, "Gemm") and attribute_int(node, "transA", 0) else left[-1]
    return math.prod(result) * summed


def _lstm(node: ir.Node, shapes: Shapes) -> int | None:
    """Both weights, [D, 4H, I] and [D, 4H, H], at every step of every sequence."""
    data, *weights = (shape_of(value, shapes) for value in node.inputs[:3])
    if not data or len(weights) < 2 or None in weights:
        return None
    return math.prod(data[:2]) * sum(math.prod(w) for w in weights if w is not None)


def _pool(node: ir.Node, shapes: Shapes) -> int | None:
    """Elements of the input, each as often as a window is over it."""
    result, window = shape_of(node.outputs[0], shapes), node.attributes.get("kernel_shape")
    return math.prod(result) * math.prod(window.as_ints()) if result and window is not None else None


def _made(node: ir.Node, shapes: Shapes) -> int | None:
    result = shape_of(node.outputs[0], shapes)
    return None if result is None else math.prod(result)


_ROWS: dict[str, Callable[[ir.Node, Shapes], str | None]] = {
    "Conv": _conv_row,
    "MatMul": _product_row,
    "Mul": _mul_row,
}
_WORK: dict[str, Callable[[ir.Node, Shapes], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _product,
    "LSTM": _lstm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Gather": _made,
    "Slice": _made,
}
