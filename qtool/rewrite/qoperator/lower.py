"""Lower a QDQ graph to integer operators (format qoperator).

In the graph that the other writers have made, by the rows of tables/qoperators.py:

1. DequantizeLinear -> op -> QuantizeLinear becomes the integer operator of the op. A Relu or Clip before the
   Q disappears where saturation does the same, and else clips integers, which is exact.
2. A product without a Q behind it becomes an integer product with a float result.
3. An op that moves or selects values takes the integers themselves, where all of its grids are equal.
4. A Q that reads a DQ of the same grid is removed.

A node whose types, scales or attributes no kernel takes stays between its DQs and Q. Real results differ from
those of QDQ by the rounding of one product, so by one step at most.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, owner
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.view import float_constant, is_op, is_read
from qtool.rewrite.qoperator.lowering import Lowering, insert_before, remove, take_place
from qtool.rewrite.qoperator.patterns import (
    Grid,
    Operand,
    activation,
    clamp_limits,
    grid_of,
    int32_bias,
    integer_bounds,
    operand,
    result,
)
from qtool.rewrite.qoperator.products import lower_product
from qtool.tables.qoperators import ELEMENTWISE, MICROSOFT, MOVES, QLINEAR_CONV, Elementwise


def lower_to_qoperator(model: ir.Model, contrib: bool) -> None:
    """Replace the nodes of a QDQ graph by integer operators, in place; subgraphs stay as they are.

    Args:
        model: its inputs and outputs keep their names and types.
        contrib: whether the runtime has the operators of com.microsoft.
    """
    lowering = Lowering(model, contrib)
    for node in list(model.graph):
        if node.graph is not None and is_op(node, node.op_type):
            any(lower(lowering, node) for lower in _LOWER.get(node.op_type, ()))
    drop_unused(model)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.opset_imports[MICROSOFT] = 1


def _conv(lowering: Lowering, node: ir.Node) -> bool:
    x, w, to = activation(node, 0), operand(node, 1), result(node.outputs[0])
    if x is None or w is None or to is None or w.grid.axis not in (None, 0):
        return False
    if (x.grid.type, w.grid.type) not in QLINEAR_CONV.pairs or to.grid.type != x.grid.type:
        return False
    if np.unique(w.grid.zero_points).size != 1:
        return False  # the kernel has one for all channels
    inputs: list[ir.Value | None] = [*x.parts, *w.parts, *to.parts]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = int32_bias(node, 2, x.grid, w.grid)
        if bias is None:
            return False
        inputs.append(bias)
    lowering.replace(node, to, QLINEAR_CONV.op_type, inputs, attributes=node.attributes)
    return True


def _move(lowering: Lowering, node: ir.Node) -> bool:
    """Let an op that moves or selects values do so with integers."""
    operands = _operands(node, MOVES[node.op_type])
    read = [v for v in node.outputs if is_read(v) and v.dtype in (None, ir.DataType.FLOAT)]
    if not operands or not read or (node.op_type == "Resize" and not _picks_nearest(node)):
        return False
    grid = next(iter(operands.values())).grid
    results = [to for v in read if (to := result(v)) is not None]
    grids = [*(each.grid for each in operands.values()), *(to.grid for to in results)]
    if len(results) < len(read) or any(to.clamp for to in results) or not all(map(grid.same_as, grids)):
        return False
    if node.op_type == "Pad" and not _fill_with_integer(lowering, node, grid):
        return False
    for index, each in operands.items():
        node.replace_input_with(index, each.integers)
    for value, to in zip(read, results, strict=True):
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(grid.type)))
        take_place(to.q.outputs[0], value, lowering.namer)
        remove([to.q])
    return True


def _fill_with_integer(lowering: Lowering, node: ir.Node, grid: Grid) -> bool:
    """Let a Pad fill in the integer of its value, 0 by default; False where that is no finite constant."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filling = float_constant(value) if value is not None else np.zeros((), np.float32)
    if filling is None or filling.size != 1 or not np.isfinite(filling).all():
        return False
    fill = np.asarray(grid.quantize(float(filling.reshape(-1)[0])), grid.type)
    node.resize_inputs(max(len(node.inputs), 3))
    node.replace_input_with(2, add_initializer(owner(grid.scale), lowering.namer(f"{node.name}_fill"), fill))
    return True


def _picks_nearest(node: ir.Node) -> bool:
    """Return whether a Resize only selects values, and fills in no number outside of the image."""
    mode, coordinates = (node.attributes.get(k) for k in ("mode", "coordinate_transformation_mode"))
    crops = coordinates is not None and coordinates.as_string() == "tf_crop_and_resize"
    return not crops and (mode is None or mode.as_string() == "nearest")


def _clamp(lowering: Lowering, node: ir.Node) -> bool:
    """Let a Relu or Clip that reads and writes one grid clip integers."""
    source, to, limits = activation(node, 0), result(node.outputs[0]), clamp_limits(node)
    if source is None or to is None or limits is None or to.clamp or not to.grid.same_as(source.grid):
        return False
    bounds = integer_bounds(limits, source.grid)
    if bounds is None:
        return _skip_q(source, to.q)
    clipped = lowering.clip(node, source.integers, bounds, source.grid)
    insert_before(node, [clipped])
    take_place(to.q.outputs[0], clipped.outputs[0], lowering.namer)
    remove([to.q, node])
    return True


def _elementwise(lowering: Lowering, node: ir.Node) -> bool:
    """Replace an op without weights by com.microsoft's operator for it."""
    row = ELEMENTWISE[node.op_type]
    operands, to = _operands(node, row.operands), result(node.outputs[0])
    if not lowering.contrib or not operands or to is None or not _has_attributes(node, row):
        return False
    if any(each.grid.type != to.grid.type for each in operands.values()):
        return False
    attributes = {name: a for name, a in node.attributes.items() if name in row.attributes}
    if row.names_opset:
        attributes["opset"] = ir.AttrInt64("opset", lowering.opset)
    others = [value for index, value in enumerate(node.inputs) if index not in operands]
    parts = [part for each in operands.values() for part in each.parts]
    inputs = [*others, *to.parts, *parts] if row.result_first else [*others, *parts, *to.parts]
    lowering.replace(node, to, row.op_type, inputs, domain=MICROSOFT, attributes=attributes)
    return True


def _has_attributes(node: ir.Node, row: Elementwise) -> bool:
    """Return whether the integer operator has all attributes of a node; dilations of 1 change nothing."""
    return all(
        name in row.attributes or (name == "dilations" and set(attribute.as_ints()) <= {1})
        for name, attribute in node.attributes.items()
    )


def _requantize(lowering: Lowering, node: ir.Node) -> bool:
    """Remove a Q that reads a DQ of the same grid."""
    source, grid = activation(node, 0), grid_of(node)
    return source is not None and grid is not None and grid.same_as(source.grid) and _skip_q(source, node)


def _skip_q(source: Operand, q: ir.Node) -> bool:
    """Let the consumers of a Q read the integers that it would give; False where they are a model output."""
    if q.outputs[0].is_graph_output():
        return False
    q.outputs[0].replace_all_uses_with(source.integers)
    remove([q])
    return True


def _operands(node: ir.Node, indices: tuple[int, ...] | None) -> dict[int, Operand]:
    """Return the operands at some inputs, or at all; empty unless each has one scale."""
    indices = tuple(range(len(node.inputs))) if indices is None else indices
    operands = {i: operand for i in indices if (operand := activation(node, i)) is not None}
    return operands if len(operands) == len(indices) else {}


# The first that returns True has lowered the node.
_LOWER: dict[str, list[Callable[[Lowering, ir.Node], bool]]] = {
    "Conv": [_conv],
    "MatMul": [lower_product],
    "Gemm": [lower_product],
    "Relu": [_clamp],
    "Clip": [_clamp],
    "QuantizeLinear": [_requantize],
    **{op: [_move] for op in MOVES if op not in ELEMENTWISE},
    **{op: [_move, _elementwise] if op in MOVES else [_elementwise] for op in ELEMENTWISE},
}
