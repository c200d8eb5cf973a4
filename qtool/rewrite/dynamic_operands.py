"""Operands that are quantized at run time, and the nodes that split and transpose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, insert_after_value, new_node, owner
from qtool.rewrite.writer import Writer


@dataclass(frozen=True)
class Quantized:
    """A tensor of integers: stored in the file, or made of floats at every run.

    Args:
        scale: of a stored weight [], or [N] over the last axis.
        zero_point: None where it is 0.
    """

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None = None


def at_run_time(writer: Writer, source: ir.Value) -> Quantized:
    """Quantize a value by DynamicQuantizeLinear, once for all consumers."""
    key = ("quantized", source.name)
    if key not in writer.made:
        name, namer = source.name or "", writer.namer
        node = new_node(
            "DynamicQuantizeLinear",
            [source],
            name=namer(f"{name}_DynamicQuantizeLinear"),
            outputs=[namer(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")],
        )
        insert_after_value(source, [node], owner(source))
        writer.made[key] = node.outputs
    return Quantized(*writer.made[key])


def transposed(writer: Writer, matrix: Quantized) -> Quantized:
    """Transpose a matrix, once for all consumers."""
    source = matrix.values
    key = ("transposed", source.name)
    if key not in writer.made:
        name = f"{source.name}_Transpose"
        node = new_node(
            "Transpose",
            [source],
            name=writer.namer(name),
            outputs=[writer.namer(f"{source.name}_transposed")],
        )
        insert_after_value(source, [node], owner(source))
        writer.made[key] = node.outputs
    return replace(matrix, values=writer.made[key][0])


def split(writer: Writer, source: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
    """Split floats along an axis, once for all consumers."""
    if len(sizes) == 1:
        return [source]
    key = ("split", source.name, axis, tuple(sizes))
    if key not in writer.made:
        name, namer = source.name or "", writer.namer
        lengths = add_initializer(writer.model.graph, namer(f"{name}_lengths"), np.asarray(sizes, np.int64))
        node = new_node(
            "Split",
            [source, lengths],
            name=namer(f"{name}_Split"),
            outputs=[namer(f"{name}_part_{i}") for i in range(len(sizes))],
            attributes={"axis": ir.AttrInt64("axis", axis)},
        )
        insert_after_value(source, [node], owner(source))
        writer.made[key] = node.outputs
    return writer.made[key]


def one_node(
    writer: Writer,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    *,
    domain: str = "",
    attributes: dict[str, ir.Attr] | None = None,
) -> ir.Node:
    """Return a node with one output that is named after it."""
    return new_node(
        op_type,
        inputs,
        name=writer.namer(name),
        outputs=[writer.namer(f"{name}_output")],
        domain=domain,
        attributes=attributes,
    )
