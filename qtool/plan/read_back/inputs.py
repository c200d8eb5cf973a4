"""Read the quantized inputs of each node: QDQ, integer operators, run-time scales, stored weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.inspection.ops import QUANTIZED_OPS
from qtool.graph.prepare.folding import evaluate
from qtool.graph.view import attribute_int, constant, is_op, op_key, opset_of
from qtool.numerics.qparams import QParams
from qtool.plan.model import Kind
from qtool.plan.read_back.nbits import nbits_weight
from qtool.tables.qoperators import FLOAT_OP, LAYOUTS, MOVES, Layout
from qtool.tables.qtypes import QTYPES, QType

# Ops between a stored weight and its consumer, beside DequantizeLinear.
_RESTORING = ("Cast", "Sub", "Add", "Mul", "Reshape", "Slice", "Transpose", "Pad", "Expand", "Identity")
_CONVERTING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_INTEGERS = frozenset("uint8 int8 uint16 int16 uint4 int4 uint2 int2 int32".split())
# onnx.reference has the integer types of these ops since then.
_EVALUATED_AS = 21
# Mul nodes between an integer product and its scales.
_MOST_FACTORS = 3


@dataclass(frozen=True)
class Stored:
    """A constant that is stored as integers.

    Args:
        array: its floats.
        steps: the scale of each value, of any shape that broadcasts to `array`; None where it is not known.
        scale: the name of the scale.
        qtype: the name of the integer type.
    """

    array: NDArray[np.float32]
    steps: NDArray[np.float32] | None
    scale: str
    qtype: str


@dataclass(frozen=True)
class QuantizedInput:
    """An input that a node reads quantized.

    Args:
        node: of the quantized model; None: the caller reads an output of the model.
        index: of the input of the float op; of the output for the caller.
        kind: ACTIVATION, RUNTIME, WEIGHT or BIAS.
        qtype: of an activation.
        qparams: of an ACTIVATION.
        scale: the name of the scale; '' at run time.
        stored: the constant of a WEIGHT or BIAS.
    """

    node: ir.Node | None
    index: int
    kind: Kind
    qtype: QType | None = None
    qparams: QParams | None = None
    scale: str = ""
    stored: Stored | None = None


def quantized_inputs(model: ir.Model) -> Iterator[QuantizedInput]:
    """Yield every quantized input of the nodes and of the caller, in graph order."""
    opset = max(opset_of(model), _EVALUATED_AS)
    for node in model.graph.all_nodes():
        if node.op_type in LAYOUTS:
            yield from _of_layout(node, LAYOUTS[node.op_type], opset)
        elif node.op_type in FLOAT_OP:
            yield from _of_layout(node, _elementwise_layout(node), opset)
        elif is_op(node, *MOVES) and (grid := grid_of(node.inputs[0])):
            yield QuantizedInput(node, 0, *grid)
        elif node.op_type == "MatMulNBits":
            stored = nbits_weight(node, lambda v: computed(v, opset))
            if stored is not None:
                yield QuantizedInput(node, 1, Kind.WEIGHT, stored=Stored(*stored))
        elif node.op_type not in _CONVERTING and not is_op(node, *_RESTORING[:1]):
            yield from _of_float_op(node, opset)
    for index, value in enumerate(model.graph.outputs):
        producer = value.producer()
        if producer is not None and (grid := _grid_behind(producer)):
            yield QuantizedInput(None, index, *grid)


def _grid_behind(node: ir.Node) -> _Grid | None:
    """Return the grid that a DequantizeLinear restores; None for any other node."""
    if node.op_type != "DequantizeLinear":
        return None
    return grid_of(node.inputs[0], *node.inputs[1:3])


def unread(model: ir.Model) -> list[str]:
    """Return the nodes that compute on integers and that `quantized_inputs` does not know."""
    read = {*LAYOUTS, *FLOAT_OP, "MatMulNBits", *_CONVERTING}
    return [
        node.name or ""
        for node in model.graph.all_nodes()
        if node.op_type not in read and (row := QUANTIZED_OPS.get(op_key(node))) and row.integers is not None
    ]


_Grid = tuple[Kind, QType, QParams | None, str]


def grid_of(
    value: ir.Value | None, scale: ir.Value | None = None, zero: ir.Value | None = None
) -> _Grid | None:
    """Return the grid of an integer activation; None for a value that is no such activation.

    Args:
        value: integers.
        scale, zero: its scale and zero point, where its consumer names them; else its producer does.
    """
    if value is None or constant(value) is not None:
        return None
    source: ir.Value | None = value
    while source is not None and (producer := source.producer()) is not None and is_op(producer, *MOVES):
        source = producer.inputs[0]
    producer = source.producer() if source is not None else None
    if producer is not None and producer.op_type == "DynamicQuantizeLinear":
        return Kind.RUNTIME, QTYPES["uint8"], None, ""
    if scale is None and producer is not None:
        scale, zero = _result_grid(producer)
    step = constant(scale)
    if scale is None or step is None or step.size != 1:
        return None
    origin = constant(zero)
    name = "uint8" if origin is None else origin.dtype.name
    if name not in QTYPES:
        return None
    point = np.zeros((), np.int64) if origin is None else origin.reshape(()).astype(np.int64)
    qparams = QParams(step.reshape(()).astype(np.float32), point)
    return Kind.ACTIVATION, QTYPES[name], qparams, scale.name or ""


def _result_grid(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the scale and the zero point of the integers that a node returns."""
    inputs = node.inputs
    if node.op_type == "QuantizeLinear":
        return inputs[1], inputs[2] if len(inputs) > 2 else None
    if node.op_type in FLOAT_OP and FLOAT_OP[node.op_type][1].result_first:
        return inputs[0], inputs[1]
    if node.op_type in LAYOUTS or node.op_type in FLOAT_OP:
        last = {"QLinearConv": 6}.get(node.op_type, len(inputs) - 2)
        return inputs[last], inputs[last + 1]
    return None, None


def _elementwise_layout(node: ir.Node) -> Layout:
    """Return the inputs of an elementwise operator, such as QLinearAdd."""
    row = FLOAT_OP[node.op_type][1]
    if row.result_first:
        count = (len(node.inputs) - 2) // 3
        return Layout({i: (2 + 3 * i, 3 + 3 * i, 4 + 3 * i) for i in range(count)})
    operands = row.operands or (0,)
    before = len(node.inputs) - 2 - 3 * len(operands)
    return Layout({i: (s, s + 1, s + 2) for n, i in enumerate(operands) for s in (before + 3 * n,)})


def _of_layout(node: ir.Node, layout: Layout, opset: int) -> Iterator[QuantizedInput]:
    inputs = [*node.inputs, *[None] * 16]
    factors: list[NDArray[np.float32]] = []
    behind = _behind(node)
    bias = constant(inputs[layout.bias]) if layout.bias is not None else behind.bias
    for index, (tensor, scale, zero) in layout.inputs.items():
        value = inputs[tensor]
        step = inputs[scale] if scale is not None else None
        origin = inputs[zero] if zero is not None else None
        if constant(value) is None:
            grid = grid_of(value, step, origin)
            if grid is None and scale is None:
                grid = Kind.RUNTIME, QTYPES["uint8"], None, ""
            if grid is not None:
                yield QuantizedInput(node, index, *grid)
                factors += [] if grid[2] is None else [grid[2].scale]
        elif (stored := _stored_operand(node, value, step, origin, behind, factors)) is not None:
            yield QuantizedInput(node, index, Kind.WEIGHT, stored=stored)
            factors += [] if stored.steps is None else [stored.steps.reshape(-1)]
    if bias is not None and len(factors) == 2:
        steps = np.asarray(factors[0] * factors[1], np.float32)
        stored = Stored(np.asarray(bias.astype(np.float64) * steps, np.float32), steps, "", "int32")
        yield QuantizedInput(node, 2, Kind.BIAS, stored=stored)


@dataclass(frozen=True)
class _Behind:
    """The nodes behind an integer product: Add (a bias), Cast, Mul (the scales).

    Args:
        named: the first constant scale.
        factor: the product of all of them; None where there is none.
        bias: int32.
    """

    named: ir.Value | None = None
    factor: NDArray[np.float32] | None = None
    bias: NDArray[np.generic] | None = None


def _stored_operand(
    node: ir.Node,
    value: ir.Value | None,
    scale: ir.Value | None,
    zero: ir.Value | None,
    behind: _Behind,
    factors: list[NDArray[np.float32]],
) -> Stored | None:
    """Return the weight of an integer operator.

    Its scale may be behind the operator, multiplied by that of an activation with a scale in the file.
    """
    q, named, step = constant(value), scale, constant(scale)
    if scale is None:
        named, step = behind.named, behind.factor
        step = np.asarray(step / factors[0]) if step is not None and factors else step
    if q is None or step is None:
        return None
    # A scale a channel: of a convolution on the first axis, of a product on the last one.
    first = node.op_type.endswith(("Conv", "ConvInteger"))
    if node.op_type == "QGemm" and attribute_int(node, "transB", 0):
        first = True
    if node.op_type == "DynamicQuantizeLSTM":  # [D] or [D, 4H] of [D, K, 4H]
        step = step.reshape(len(q), 1, -1)
    origin = constant(zero)
    if step.size > 1 and step.ndim != q.ndim:
        step = step.reshape((-1,) + (1,) * (q.ndim - 1) if first else (1,) * (q.ndim - 1) + (-1,))
    elif first and step.ndim == q.ndim:
        step = step.reshape((-1,) + (1,) * (q.ndim - 1))  # it multiplies a result [N, C, ..]
    if origin is not None and origin.size > 1:
        origin = origin.reshape(step.shape)
    steps = step.astype(np.float32)
    offset = np.zeros((), np.float32) if origin is None else origin.astype(np.float32)
    return Stored((q.astype(np.float32) - offset) * steps, steps, _name(named), q.dtype.name)


def _behind(node: ir.Node) -> _Behind:
    """Return the bias and the constant scales that follow an integer product."""
    value, bias = node.outputs[0], None
    for _ in range(_MOST_FACTORS):
        readers = [u.node for u in value.uses()]
        if len(readers) != 1 or not is_op(readers[0], "Cast", "Mul", "Add"):
            break
        other = next((v for v in readers[0].inputs if v is not value), None)
        if is_op(readers[0], "Mul"):
            return _Behind(*_constant_factor(other, _MOST_FACTORS), bias)
        if is_op(readers[0], "Add"):
            bias = constant(other)
        value = readers[0].outputs[0]
    return _Behind()


def _constant_factor(
    value: ir.Value | None, depth: int
) -> tuple[ir.Value | None, NDArray[np.float32] | None]:
    """Return the product of the constants in a tree of Mul nodes, and the first of them."""
    array = constant(value)
    if array is not None:
        return value, array.astype(np.float32)
    producer = value.producer() if value is not None else None
    if not depth or not is_op(producer, "Mul"):
        return None, None
    parts = [_constant_factor(v, depth - 1) for v in producer.inputs]  # type: ignore[union-attr]
    constants = [(v, a) for v, a in parts if a is not None]
    if not constants:
        return None, None
    result = constants[0][1]
    for _, factor in constants[1:]:
        result = np.asarray(result * factor, np.float32)
    return constants[0][0], result


def _of_float_op(node: ir.Node, opset: int) -> Iterator[QuantizedInput]:
    """Yield the inputs of a float op that come from a DequantizeLinear, or from a stored weight."""
    if is_op(node, *_RESTORING) and all(computed(v, opset) is not None for v in node.inputs if v is not None):
        return  # it only restores a weight for its own consumer
    for index, value in enumerate(node.inputs):
        producer = value.producer() if value is not None else None
        if producer is None or value is None:
            continue
        stored = _restored(value, opset)
        if stored is not None:
            kind = Kind.BIAS if stored.qtype == "int32" else Kind.WEIGHT
            yield QuantizedInput(node, index, kind, stored=stored)
        elif grid := _grid_behind(producer):
            yield QuantizedInput(node, index, *grid)


def _restored(value: ir.Value, opset: int) -> Stored | None:
    """Return the stored constant that nodes restore to a value; None where it depends on an input."""
    root, scale, steps = value, "", None
    while (producer := root.producer()) is not None and is_op(producer, *_RESTORING, *_CONVERTING[1:2]):
        if steps is None and is_op(producer, "Mul", "DequantizeLinear"):
            factor = next((v for v in producer.inputs[::-1] if constant(v) is not None), None)
            factor = producer.inputs[1] if producer.op_type == "DequantizeLinear" else factor
            scale = scale or _name(factor)
            if root is value:
                steps = constant(factor) if is_op(producer, "Mul") else _steps(producer)
        first = producer.inputs[0]
        if first is None:
            return None
        root = first
    integers = constant(root)
    if integers is None or root is value or integers.dtype.name not in _INTEGERS:
        return None
    array = computed(value, opset)
    if array is None or array.dtype.kind != "f":
        return None
    spread = None if steps is None else np.asarray(steps, np.float32)
    return Stored(np.asarray(array, np.float32), spread, scale, integers.dtype.name)


def computed(value: ir.Value | None, opset: int) -> NDArray[Any] | None:
    """Return the array of a value that depends on constants only, if few simple ops compute it."""
    array = constant(value)
    producer = value.producer() if value is not None else None
    if array is not None or producer is None:
        return array
    if producer.op_type == "DequantizeLinear":
        return _dequantized(producer)
    if not is_op(producer, *_RESTORING):
        return None
    arrays = [computed(v, opset) for v in producer.inputs if v is not None]
    if any(a is None for a in arrays):
        return None
    return evaluate(producer, [a for a in arrays if a is not None], opset)


def _dequantized(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the floats of the constant behind a DequantizeLinear, of any domain."""
    q, steps = constant(node.inputs[0]), _steps(node)
    if q is None or steps is None:
        return None
    zero = _along(node, constant(node.inputs[2]) if len(node.inputs) > 2 else None)
    values = np.asarray(q, np.float64) - (0.0 if zero is None else zero)
    return np.asarray(values * steps, np.float32)


def _steps(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the scale of each value of a DequantizeLinear, of a shape that broadcasts."""
    return _along(node, constant(node.inputs[1]))


def _along(node: ir.Node, array: NDArray[np.generic] | None) -> NDArray[np.float32] | None:
    """Return the scales or zero points of a DequantizeLinear, laid along its axis."""
    q = constant(node.inputs[0])
    if array is None or q is None:
        return None
    axis, block = attribute_int(node, "axis", 1), attribute_int(node, "block_size", 0)
    numbers = array.astype(np.float32)
    if block:
        return np.repeat(numbers, block, axis=axis).take(range(q.shape[axis]), axis=axis)
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if i == axis % q.ndim else 1 for i in range(q.ndim)])


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""
