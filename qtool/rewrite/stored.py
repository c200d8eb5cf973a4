"""Write weights that are stored as integers and restored to floats before a float node reads them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, insert_after_value, new_node, owner, replace_node
from qtool.plan.model import Dequantizer, Site
from qtool.rewrite.weights import integers, scales, weight_shape, zero_points
from qtool.rewrite.writer import Writer, redirect
from qtool.tables.qtypes import Granularity, PerBlock, PerChannel, PerRowOfLast, PerRun


def write_stored(writer: Writer, site: Site) -> None:
    """Write a weight as integers with scales a channel or a block, and the nodes that restore floats."""
    value = writer.view.values[site.value]
    nodes = _NODES[site.dequantizer](writer, site, value)
    last = nodes[-1].outputs[0]
    insert_after_value(value, nodes, owner(value))
    redirect(writer, site.uses, value, last)


def _folded(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """Return Cast (-> Sub(zero point)) -> Mul(scale) (-> Reshape, for blocks): folded by onnxruntime at load.

    It does not fold a DequantizeLinear, and would run that at every inference.
    """
    name, q = site.value, integers(writer, site)
    scale = scales(writer, site, f"{name}_storage_scale", spread_out=True)
    nodes = [_node(writer, "Cast", [q], name, "cast", {"to": ir.AttrInt64("to", ir.DataType.FLOAT)})]
    if not site.spec.symmetric:
        zero = zero_points(writer, site, f"{name}_zero_point", spread_out=True)
        to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
        nodes.append(_node(writer, "Cast", [zero], name, "zero_point_cast", to_float))
        nodes.append(_node(writer, "Sub", [nodes[0].outputs[0], nodes[1].outputs[0]], name, "centred"))
    nodes.append(_node(writer, "Mul", [nodes[-1].outputs[0], scale], name, "restored"))
    return nodes + _folded_back(writer, value, site.spec.granularity, nodes[-1].outputs[0])


def _node(
    writer: Writer,
    op_type: str,
    inputs: list[ir.Value | None],
    stem: str,
    what: str,
    attributes: dict[str, ir.Attr] | None = None,
) -> ir.Node:
    name = writer.namer(f"{stem}_{what}")
    return new_node(op_type, inputs, name=f"{name}_{op_type}", outputs=[name], attributes=attributes)


def _standard(writer: Writer, site: Site, value: ir.Value) -> list[ir.Node]:
    """Return DequantizeLinear, per channel or (opset 21) in blocks, and a Reshape where runs cross axes."""
    name, namer, granularity = site.value, writer.namer, site.spec.granularity
    shape = weight_shape(writer, site)
    match granularity:
        case PerChannel(axis):
            stored, block = shape, 0
        case PerBlock(axis, block):
            stored = shape
        case PerRun(block):
            stored, axis = (shape[0], math.prod(shape[1:])), 1
        case PerRowOfLast():
            stored, axis, block = shape, len(shape) - 1, shape[-1]
        case _:
            raise KeyError(f"'{name}' has no scale a channel or a block")
    by_row = isinstance(granularity, PerRowOfLast)  # its one block takes the whole axis
    inputs = [integers(writer, site, shape=stored), scales(writer, site, f"{name}_scale", spread_out=by_row)]
    if not site.spec.symmetric:
        inputs.append(zero_points(writer, site, f"{name}_zero_point", spread_out=by_row))
    attributes = {"axis": ir.AttrInt64("axis", axis)}
    if block:
        attributes["block_size"] = ir.AttrInt64("block_size", block)
    dq = new_node(
        "DequantizeLinear",
        inputs,
        name=namer(f"{name}_DequantizeLinear"),
        outputs=[namer(f"{name}_dequantized")],
        attributes=attributes,
    )
    return [dq] if stored == shape else [dq, _reshape(writer, value, dq.outputs[0], shape)]


def _folded_back(
    writer: Writer, value: ir.Value, granularity: Granularity, source: ir.Value
) -> list[ir.Node]:
    """Return the nodes that bring a weight of blocks back to its shape: Reshape (-> Slice (-> Reshape))."""
    shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else ()
    match granularity:
        case PerBlock(axis, size):
            folded = shape
        case PerRun(size):
            folded, axis = (shape[0], math.prod(shape[1:])), 1
        case _:
            return []
    if folded[axis] % size == 0:
        return [_reshape(writer, value, source, shape)]
    filled = tuple(d + -d % size if i == axis else d for i, d in enumerate(folded))
    nodes = [_reshape(writer, value, source, filled)]
    bounds = [
        add_initializer(owner(value), writer.namer(f"{value.name}_{what}"), np.asarray([number], np.int64))
        for what, number in (("start", 0), ("end", folded[axis]), ("axis", axis))
    ]
    nodes.append(_node(writer, "Slice", [nodes[0].outputs[0], *bounds], value.name or "", "sliced"))
    return nodes if folded == shape else [*nodes, _reshape(writer, value, nodes[-1].outputs[0], shape)]


def _reshape(writer: Writer, value: ir.Value, source: ir.Value, shape: tuple[int, ...]) -> ir.Node:
    name, namer = value.name or "", writer.namer
    return new_node(
        "Reshape",
        [source, add_initializer(owner(value), namer(f"{name}_shape"), np.asarray(shape, np.int64))],
        name=namer(f"{name}_Reshape"),
        outputs=[namer(f"{name}_reshaped")],
    )


def write_lookup(writer: Writer, site: Site) -> None:
    """Write a table [V, ..] of integers with a scale a row: Gather -> Cast -> Mul(Gather of the scales).

    The table stays small in memory, too; only the selected rows become floats.
    """
    q, scale = integers(writer, site), scales(writer, site, f"{site.value}_scale", spread_out=True)
    for name, _ in site.uses or ():
        gather = writer.view.node_by_name[name]
        _restore_rows(writer, gather, q, scale)


def _restore_rows(writer: Writer, gather: ir.Node, q: ir.Value, scale: ir.Value) -> None:
    name, namer, out = gather.name or "", writer.namer, gather.outputs[0]
    picks = [
        new_node(
            "Gather",
            [table, gather.inputs[1]],
            name=namer(f"{name}_{what}"),
            outputs=[namer(f"{out.name}_{what}")],
            attributes=dict(gather.attributes),
        )
        for table, what in ((q, "quantized"), (scale, "scale"))
    ]
    cast = new_node(
        "Cast",
        [picks[0].outputs[0]],
        name=namer(f"{name}_Cast"),
        outputs=[namer(f"{out.name}_cast")],
        attributes=_FLOAT,
    )
    mul = new_node(
        "Mul", [cast.outputs[0], picks[1].outputs[0]], name=name, outputs=[namer(f"{out.name}_rows")]
    )
    replace_node(gather, [*picks, cast, mul], out, mul.outputs[0], namer)


_NODES: dict[Dequantizer, Callable[[Writer, Site, ir.Value], list[ir.Node]]] = {
    Dequantizer.CAST_MUL: _folded,
    Dequantizer.OPERATOR: _standard,
}
_FLOAT = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
