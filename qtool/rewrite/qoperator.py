"""The writer of integer operators: QuantizeLinear and DequantizeLinear stay only where integers meet floats.

It starts from what rewrite/qdq.py has written. A node between DequantizeLinear and QuantizeLinear
becomes the operator that computes the same on the integers themselves; real results differ by the
rounding of one product, so by at most a step. A Relu or Clip before the Q disappears where saturation
does the same, and else clips integers, which is exact. What has no integer form stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, owner
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.view import float_constant, is_read, opset_of
from qtool.rewrite.products import fuse_product
from qtool.rewrite.qoperands import (
    Fusion,
    Operand,
    Result,
    Scaled,
    activation,
    bias,
    clamp_limits,
    clip,
    insert_before,
    integer_bounds,
    operand,
    quantized,
    remove,
    result,
    scaled_by,
    take_place,
    write_integers,
)
from qtool.tables.qoperators import ELEMENTWISE, MICROSOFT, MOVES, QLINEAR_CONV, Elementwise


def fuse_qoperators(model: ir.Model, *, contrib: bool) -> None:
    """Give every node that computes between DequantizeLinear and QuantizeLinear its integer form.

    Edits the model in place; graph inputs and outputs keep their names and types.

    Args:
        model: what rewrite/qdq.py has written. Types of more than 8 bits stay as they are.
        contrib: whether com.microsoft's operators may be used, too.
    """
    fusion = Fusion(contrib, opset_of(model), Namer(model))
    for node in list(model.graph):
        if node.graph is not None and node.domain in ("", "ai.onnx"):
            for fuse in FORMS:
                if fuse(fusion, node):
                    break
    drop_unused(model)
    if any(node.domain == MICROSOFT for node in model.graph):
        model.opset_imports[MICROSOFT] = 1


def fuse_conv(fusion: Fusion, node: ir.Node) -> bool:
    """Conv -> QLinearConv."""
    if node.op_type != "Conv":
        return False
    x, w, to = activation(node.inputs[0]), operand(node.inputs[1]), result(node.outputs[0])
    if x is None or w is None or to is None or w.scaled.axis not in (None, 0):
        return False
    if (x.scaled.type, w.scaled.type) not in QLINEAR_CONV.pairs or to.scaled.type != x.scaled.type:
        return False
    if not w.scaled.one_zero_point():
        return False  # the kernel has one for all channels
    inputs: list[ir.Value | None] = [*x.parts(), *w.parts(), *to.scaled.parts()]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        addend = bias(node.inputs[2], x.scaled, w.scaled)
        if addend is None:
            return False
        inputs.append(addend)
    write_integers(fusion, node, to, QLINEAR_CONV.op_type, inputs, attributes=node.attributes)
    return True


def fuse_move(fusion: Fusion, node: ir.Node) -> bool:
    """An op that moves or picks values does so with integers, where one scale holds for all of them."""
    operands = _operands(node, MOVES[node.op_type]) if node.op_type in MOVES else None
    if not operands:
        return False
    scaled = next(iter(operands.values())).scaled
    to = _results(node)
    if not to or not all(o.scaled.same_as(scaled) for o in operands.values()):
        return False
    if not all(r.clamp is None and r.scaled.same_as(scaled) for r in to.values()):
        return False
    if node.op_type == "Pad" and not _pad_with_integers(fusion, node, scaled):
        return False
    if node.op_type == "Resize" and not _picks_nearest(node):
        return False
    for index, each in operands.items():
        node.replace_input_with(index, each.integers)
    for value, found in to.items():
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(scaled.type)))
        take_place(found.q.outputs[0], value, fusion.namer)
        remove([found.q])
    return True


def fuse_clamp(fusion: Fusion, node: ir.Node) -> bool:
    """Relu or Clip on integers, where it reads and writes the same scale."""
    source = activation(node.inputs[0]) if node.op_type in ("Relu", "Clip") else None
    to, limits = (result(node.outputs[0]), clamp_limits(node)) if source is not None else (None, None)
    if source is None or to is None or limits is None or to.clamp or not to.scaled.same_as(source.scaled):
        return False
    bounds = integer_bounds(limits, source.scaled)
    if bounds is None:
        return _pass_on(source, to.q)
    clipped = clip(fusion, node, source.integers, bounds, source.scaled)
    clipped.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(source.scaled.type)))
    clipped.outputs[0].shape = node.outputs[0].shape
    insert_before(node, [clipped])
    take_place(to.q.outputs[0], clipped.outputs[0], fusion.namer)
    remove([to.q, node])
    return True


def fuse_elementwise(fusion: Fusion, node: ir.Node) -> bool:
    """What com.microsoft has for ops without weights."""
    row = ELEMENTWISE.get(node.op_type) if fusion.contrib else None
    operands = _operands(node, row.operands) if row is not None else None
    to = result(node.outputs[0]) if operands else None
    if row is None or not operands or to is None:
        return False
    if any(o.scaled.type != to.scaled.type for o in operands.values()):
        return False
    attributes = _attributes(node, row, fusion.opset)
    if attributes is None:
        return False
    others = [value for index, value in enumerate(node.inputs) if index not in operands]
    threes = [part for each in operands.values() for part in each.parts()]
    inputs = [*to.scaled.parts(), *threes] if row.result_first else [*threes, *to.scaled.parts()]
    write_integers(fusion, node, to, row.op_type, [*others, *inputs], domain=MICROSOFT, attributes=attributes)
    return True


def cancel(fusion: Fusion, node: ir.Node) -> bool:
    """DQ -> Q at the same scale: the integers are what they were."""
    source = activation(node.inputs[0]) if node.op_type == "QuantizeLinear" else None
    scaled = scaled_by(node) if source is not None else None
    if source is None or scaled is None or not scaled.same_as(source.scaled):
        return False
    return _pass_on(source, node)


FORMS = (fuse_conv, fuse_product, fuse_move, fuse_clamp, fuse_elementwise, cancel)


def _pass_on(source: Operand, q: ir.Node) -> bool:
    """Let those who read a Q read the integers that it would come to; who runs the graph can't be told."""
    if q.outputs[0].is_graph_output():
        return False
    q.outputs[0].replace_all_uses_with(source.integers)
    remove([q])
    return True


def _operands(node: ir.Node, indices: tuple[int, ...] | None) -> dict[int, Operand] | None:
    """The integers behind a node's operands, by input; None unless all of them are there."""
    found = {}
    for index in range(len(node.inputs)) if indices is None else indices:
        each = activation(node.inputs[index]) if index < len(node.inputs) else None
        if each is None:
            return None
        found[index] = each
    return found


def _results(node: ir.Node) -> dict[ir.Value, Result] | None:
    """The Q behind each float output that is read; None unless each goes into one."""
    found = {}
    for value in node.outputs:
        if not is_read(value) or value.dtype not in (None, ir.DataType.FLOAT):
            continue
        to = result(value)
        if to is None:
            return None
        found[value] = to
    return found


def _attributes(node: ir.Node, row: Elementwise, opset: int) -> dict[str, ir.Attr] | None:
    """What the integer operator is told; None when it can't be told all that the node says."""
    kept: dict[str, ir.Attr] = {}
    for name, attribute in node.attributes.items():
        if name in row.attributes:
            kept[name] = attribute
        elif name != "dilations" or any(d != 1 for d in attribute.as_ints()):
            return None
    if row.names_opset:
        kept["opset"] = ir.AttrInt64("opset", opset)
    return kept


def _pad_with_integers(fusion: Fusion, node: ir.Node, scaled: Scaled) -> bool:
    """Let a Pad fill in the integer of its value; 0, its default, is another number in integers."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    given = node.inputs[2] if len(node.inputs) > 2 else None
    filling = float_constant(given) if given is not None else np.zeros((), np.float32)
    if filling is None or filling.size != 1 or not np.isfinite(filling).all():
        return False
    fill = np.asarray(quantized(float(filling.reshape(-1)[0]), scaled), scaled.type)
    node.resize_inputs(max(len(node.inputs), 3))
    name = fusion.namer(f"{node.name}_fill")
    node.replace_input_with(2, add_initializer(owner(scaled.scale), name, fill))
    return True


def _picks_nearest(node: ir.Node) -> bool:
    """Whether a Resize only picks values; outside of the image it may fill in a number of its own."""
    mode, coordinates = (node.attributes.get(k) for k in ("mode", "coordinate_transformation_mode"))
    crops = coordinates is not None and coordinates.as_string() == "tf_crop_and_resize"
    return not crops and (mode is None or mode.as_string() == "nearest")
