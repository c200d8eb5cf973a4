"""The writer of integer operators: QuantizeLinear and DequantizeLinear stay only where integers meet floats.

It starts from what rewrite/qdq.py has written. A node between DequantizeLinear and QuantizeLinear becomes the
operator that the plan has for it, which computes the same on the integers themselves; real results differ by
the rounding of one product, so by at most a step. A Relu or Clip before the Q disappears where saturation
does the same, and else clips integers, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, owner
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.view import float_constant, is_read, opset_of, sole_consumer
from qtool.plan.edits import EditKind
from qtool.plan.grids import clamp_limits, integer_bounds, quantized
from qtool.plan.model import Plan
from qtool.rewrite.products import (
    write_matmul_integer,
    write_matmul_integer_to_float,
    write_q_gemm,
    write_q_gemm_to_float,
    write_qlinear_matmul,
)
from qtool.rewrite.qoperands import (
    Fusion,
    Operand,
    Scaled,
    bias,
    clip,
    insert_before,
    operand,
    remove,
    result,
    take_place,
    write_integers,
)
from qtool.rewrite.writer import Writer
from qtool.tables.qoperators import ELEMENTWISE, MICROSOFT, MOVES, QLINEAR_CONV, IntegerOperator


def write_integer_operators(writer: Writer, plan: Plan) -> None:
    """Give every node its integer operator, in place. Graph inputs and outputs keep their names and types.

    Raises:
        KeyError: the plan has an operator for a node whose operands or result are not quantized.
    """
    model = writer.model
    fusion = Fusion(opset_of(model), Namer(model))
    for edit in plan.edits:
        if edit.kind is EditKind.KEPT_INTEGERS:
            q = writer.made["qdq", edit.value][0].producer()
            if q is None:
                raise KeyError(f"'{edit.value}' is not quantized")
            _pass_on(operand(q, 0), q)
    folded = {n for n, o in plan.integer_operators.items() if o is IntegerOperator.FOLDED}
    for node in list(model.graph):
        operator = plan.integer_operators.get(node.name or "")
        if operator in _PRODUCTS:
            reader = sole_consumer(node.outputs[0])
            is_bias = reader is not None and reader.name in folded and reader.op_type == "Add"
            _PRODUCTS[operator](fusion, node, reader if is_bias else None)
        elif operator in _WRITERS:
            _WRITERS[operator](fusion, node)
    drop_unused(model)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.opset_imports[MICROSOFT] = 1


def _conv(fusion: Fusion, node: ir.Node) -> None:
    """Conv -> QLinearConv."""
    to = result(node.outputs[0])
    inputs: list[ir.Value | None] = [
        *operand(node, 0).parts(),
        *operand(node, 1).parts(),
        *to.scaled.parts(),
    ]
    addend = bias(node, 2)
    if addend is not None:
        inputs.append(addend)
    write_integers(fusion, node, to, QLINEAR_CONV.op_type, inputs, attributes=node.attributes)


def _move(fusion: Fusion, node: ir.Node) -> None:
    """An op that moves or picks values does so with integers."""
    operands = _operands(node, MOVES[node.op_type])
    scaled = next(iter(operands.values())).scaled
    read = [v for v in node.outputs if is_read(v) and v.dtype in (None, ir.DataType.FLOAT)]
    results = [(value, result(value)) for value in read]
    if node.op_type == "Pad":
        _pad_with_integers(fusion, node, scaled)
    for index, each in operands.items():
        node.replace_input_with(index, each.integers)
    for value, found in results:
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(scaled.type)))
        take_place(found.q.outputs[0], value, fusion.namer)
        remove([found.q])


def _pad_with_integers(fusion: Fusion, node: ir.Node, scaled: Scaled) -> None:
    """Let a Pad fill in the integer of its value; 0, its default, is another number in integers."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return
    given = float_constant(node.inputs[2]) if len(node.inputs) > 2 else None
    filling = float(given.reshape(-1)[0]) if given is not None else 0.0
    fill = np.asarray(quantized(filling, scaled.grid), scaled.type)
    node.resize_inputs(max(len(node.inputs), 3))
    name = fusion.namer(f"{node.name}_fill")
    node.replace_input_with(2, add_initializer(owner(scaled.scale), name, fill))


def _clamp(fusion: Fusion, node: ir.Node) -> None:
    """Relu or Clip as a Clip of integers."""
    source, to, limits = operand(node, 0), result(node.outputs[0]), clamp_limits(node)
    bounds = integer_bounds(limits, source.scaled.grid) if limits is not None else None
    if bounds is None:
        raise KeyError(f"'{node.name}' has no bounds in integers")
    clipped = clip(fusion, node, source.integers, bounds, source.scaled)
    clipped.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(source.scaled.type)))
    clipped.outputs[0].shape = node.outputs[0].shape
    insert_before(node, [clipped])
    take_place(to.q.outputs[0], clipped.outputs[0], fusion.namer)
    remove([to.q, node])


def _elementwise(fusion: Fusion, node: ir.Node) -> None:
    """What com.microsoft has for ops without weights."""
    row, to = ELEMENTWISE[node.op_type], result(node.outputs[0])
    operands = _operands(node, row.operands)
    attributes = {name: a for name, a in node.attributes.items() if name in row.attributes}
    if row.names_opset:
        attributes["opset"] = ir.AttrInt64("opset", fusion.opset)
    others = [value for index, value in enumerate(node.inputs) if index not in operands]
    threes = [part for each in operands.values() for part in each.parts()]
    inputs = [*to.scaled.parts(), *threes] if row.result_first else [*threes, *to.scaled.parts()]
    write_integers(fusion, node, to, row.op_type, [*others, *inputs], domain=MICROSOFT, attributes=attributes)


def _passed(fusion: Fusion, node: ir.Node) -> None:
    """A Q, or a clamp before one, whose integers are those that it reads."""
    q = node if node.op_type == "QuantizeLinear" else result(node.outputs[0]).q
    _pass_on(operand(node, 0), q)


def _pass_on(source: Operand, q: ir.Node) -> None:
    """Let the consumers of a Q read the integers that it would give."""
    q.outputs[0].replace_all_uses_with(source.integers)
    remove([q])


def _operands(node: ir.Node, indices: tuple[int, ...] | None) -> dict[int, Operand]:
    """The integers behind a node's operands, by input; None: all inputs."""
    return {i: operand(node, i) for i in (range(len(node.inputs)) if indices is None else indices)}


_PRODUCTS: dict[IntegerOperator | None, Callable[[Fusion, ir.Node, ir.Node | None], None]] = {
    IntegerOperator.QLINEAR_MATMUL: write_qlinear_matmul,
    IntegerOperator.Q_GEMM: write_q_gemm,
    IntegerOperator.Q_GEMM_TO_FLOAT: write_q_gemm_to_float,
    IntegerOperator.MATMUL_INTEGER_TO_FLOAT: write_matmul_integer_to_float,
    IntegerOperator.MATMUL_INTEGER: write_matmul_integer,
}
_WRITERS: dict[IntegerOperator | None, Callable[[Fusion, ir.Node], None]] = {
    IntegerOperator.QLINEAR_CONV: _conv,
    IntegerOperator.MOVE: _move,
    IntegerOperator.CLAMP: _clamp,
    IntegerOperator.ELEMENTWISE: _elementwise,
    IntegerOperator.PASSED: _passed,
}
