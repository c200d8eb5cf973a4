"""Count the work of a node, and find its row in the cost table (tables/kernels.py)."""

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

# A convolution from or to fewer channels than this leaves most of a vector unit idle.
_THIN = 32
# The most channels of an image.
_STEM_CHANNELS = 4
# With more rows, the time of a product for each row no longer falls.
_FEW_ROWS = 32


def shape_of(value: ir.Value | None, shapes: Shapes) -> Shape | None:
    """Return the shape of a value, of a constant or in `shapes`; None if it is missing."""
    if value is None:
        return None
    array = constant(value)
    return array.shape if array is not None else shapes.get(value.name or "")


def row_of(node: ir.Node, shapes: Shapes) -> str | None:
    """Return the row of a node in the cost table; None where it has none, or a shape is missing."""
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
    """Return the work of a node; None where a shape is missing.

    It is the multiply-accumulates of a product, and for other nodes the elements of the inputs or outputs,
    whichever are more.
    """
    count = _WORK.get(SAME_AS.get(node.op_type, node.op_type))
    if count is not None:
        return count(node, shapes)
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name and constant(v) is None]
    sizes = [math.prod(shape) for v in values if (shape := shape_of(v, shapes)) is not None]
    return max(sizes) if sizes and len(sizes) == len(values) else None


def is_fused(node: ir.Node, form: Form | None) -> bool:
    """Whether the runtime fuses a node with another, whose time includes it.

    In float, the node before must be float, too.
    """
    if form is Form.INT8:
        return is_op(node, *FUSED_IN_INT8) or _is_bias(node)
    return form is None and (_is_gate(node) or _is_bias(node) or _is_behind(node))


def _is_behind(node: ir.Node) -> bool:
    """Whether a node is fused with the producer of its operand."""
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
    """Whether a float value has the blocked layout of image convolutions, so that one can add to it.

    The layout passes through a chain of residual sums.
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
    """Whether a node is the Sigmoid of a SiLU: the Mul behind it multiplies by its input."""
    reader = sole_consumer(node.outputs[0]) if is_op(node, "Sigmoid") else None
    return reader is not None and is_op(reader, "Mul") and variant(reader) == "silu"


def _is_bias(node: ir.Node) -> bool:
    """Whether a node adds a constant vector to a product, so that the two become a Gemm."""
    producers = [v.producer() for v in node.inputs if v is not None] if is_op(node, "Add") else []
    return any(is_op(m, "MatMul") and added_bias(m) is not None for m in producers if m is not None)


def _conv_row(node: ir.Node, shapes: Shapes) -> str | None:
    weight = shape_of(node.inputs[1], shapes)
    if weight is None:
        return None
    kind, strides = variant(node), node.attributes.get("strides")
    if len(weight) == 3:
        return {"": "1d", "stem": "1d", "depthwise": "1d-depthwise"}.get(kind)
    if len(weight) != 4 or kind:
        return kind or None
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
    """Return the sums over [I / group, ..kernel] for all values of the output."""
    weight, result = shape_of(node.inputs[1], shapes), shape_of(node.outputs[0], shapes)
    return math.prod(result) * math.prod(weight[1:]) if weight and result else None


def _conv_transpose(node: ir.Node, shapes: Shapes) -> int | None:
    """Return the products of all values of the input with [O / group, ..kernel]."""
    weight, data = shape_of(node.inputs[1], shapes), shape_of(node.inputs[0], shapes)
    return math.prod(data) * math.prod(weight[1:]) if weight and data else None


def _product(node: ir.Node, shapes: Shapes) -> int | None:
    left, result = shape_of(node.inputs[0], shapes), shape_of(node.outputs[0], shapes)
    if not left or result is None:
        return None
    summed = left[0] if is_op(node, "Gemm") and attribute_int(node, "transA", 0) else left[-1]
    return math.prod(result) * summed


def _lstm(node: ir.Node, shapes: Shapes) -> int | None:
    """Return the size of both weights, [D, 4H, I] and [D, 4H, H], times the steps of all sequences."""
    data, *weights = (shape_of(value, shapes) for value in node.inputs[:3])
    if not data or len(weights) < 2 or None in weights:
        return None
    return math.prod(data[:2]) * sum(math.prod(w) for w in weights if w is not None)


def _pool(node: ir.Node, shapes: Shapes) -> int | None:
    """Return the elements of all windows."""
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
