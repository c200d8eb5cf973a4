"""Access to the integers in a QDQ graph, before and behind a float node, and their writing in its place.

The plan says where they are (plan/integer_operators.py): what is not there is a KeyError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, new_node, owner
from qtool.graph.view import is_op, sole_consumer
from qtool.plan.grids import Grid, clamp_limits, grid_of, integer_bounds


@dataclass
class Fusion:
    """The state of one rewrite from QDQ to integer operators.

    Args:
        opset: of the model.
        namer: free names in it.
        transposed: weights that were transposed, by what they were before.
    """

    opset: int
    namer: Namer
    transposed: dict[ir.Value, ir.Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Scaled:
    """The grid of a Q or DQ, and the values that hold it: float32 and the integers' type, [] or [C]."""

    scale: ir.Value
    zero_point: ir.Value
    grid: Grid

    @property
    def type(self) -> str:
        """The integers' type, by numpy's name."""
        return self.grid.type

    def parts(self) -> list[ir.Value]:
        return [self.scale, self.zero_point]

    def zero_is_0(self) -> bool:
        return not self.grid.zero_point.any()


@dataclass(frozen=True)
class Operand:
    """A float value that DequantizeLinear makes of 8-bit integers."""

    integers: ir.Value
    scaled: Scaled

    def parts(self) -> list[ir.Value]:
        """integers, scale, zero point: as the QLinear operators read them."""
        return [self.integers, *self.scaled.parts()]


@dataclass(frozen=True)
class Result:
    """A float value whose only consumer is a QuantizeLinear, perhaps behind a Relu or Clip.

    Args:
        q: the QuantizeLinear.
        clamp: the Relu or Clip.
        bounds: the clamp's, in integers; None when all integers of the type lie within.
    """

    q: ir.Node
    scaled: Scaled
    clamp: ir.Node | None
    bounds: tuple[int, int] | None


def scaled_by(node: ir.Node) -> Scaled:
    """Return the scale and zero point of a Q or DQ.

    Raises:
        KeyError: they are no constants, or not of 8 bits.
    """
    grid = grid_of(node)
    scale, zero = (*node.inputs, None, None)[1:3]
    if grid is None or scale is None or zero is None:
        raise KeyError(f"'{node.name}' has no constant scale of 8-bit integers")
    return Scaled(scale, zero, grid)


def operand(node: ir.Node, index: int) -> Operand:
    """Return the integers behind an input of a node.

    Raises:
        KeyError: no DequantizeLinear makes it.
    """
    value = node.inputs[index]
    maker = value.producer() if value is not None else None
    integers = maker.inputs[0] if maker is not None and is_op(maker, "DequantizeLinear") else None
    if maker is None or integers is None:
        raise KeyError(f"input {index} of '{node.name}' is not dequantized")
    return Operand(integers, scaled_by(maker))


def bias(node: ir.Node, index: int) -> ir.Value | None:
    """Return the int32 integers of a bias; None where the node has none.

    Raises:
        KeyError: no DequantizeLinear makes it.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    maker = value.producer()
    if maker is None or not is_op(maker, "DequantizeLinear"):
        raise KeyError(f"input {index} of '{node.name}' is not dequantized")
    return maker.inputs[0]


def result(value: ir.Value) -> Result:
    """Return the Q that a value goes into.

    Raises:
        KeyError: something else reads the value.
    """
    reader, clamp, limits = sole_consumer(value), None, None
    if reader is not None and is_op(reader, "Relu", "Clip"):
        clamp, limits = reader, clamp_limits(reader)
        reader = sole_consumer(clamp.outputs[0])
    if reader is None or not is_op(reader, "QuantizeLinear"):
        raise KeyError(f"'{value.name}' is not quantized")
    scaled = scaled_by(reader)
    bounds = integer_bounds(limits, scaled.grid) if limits is not None else None
    return Result(reader, scaled, clamp, bounds)


def write_integers(
    fusion: Fusion,
    node: ir.Node,
    found: Result,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    domain: str = "",
    attributes: Mapping[str, ir.Attr] | None = None,
) -> None:
    """Replace a node, and the clamp and Q behind it, by an operator whose result is integers."""
    namer, replaced = fusion.namer, found.q.outputs[0]
    made = new_node(
        op_type,
        inputs,
        name=namer(f"{node.name}_quantized"),
        outputs=[namer(f"{node.outputs[0].name}_quantized")],
        domain=domain,
        attributes=attributes,
    )
    nodes = [made]
    if found.clamp is not None and found.bounds is not None:
        nodes.append(clip(fusion, found.clamp, made.outputs[0], found.bounds, found.scaled))
    for each in nodes:
        each.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(found.scaled.type)))
        each.outputs[0].shape = node.outputs[0].shape
    insert_before(node, nodes)
    take_place(replaced, nodes[-1].outputs[0], namer)
    remove([found.q, found.clamp, node])


def clip(
    fusion: Fusion, clamp: ir.Node, integers: ir.Value, bounds: tuple[int, int], scaled: Scaled
) -> ir.Node:
    """A Relu or Clip as a Clip of integers; not yet in any graph."""
    namer, graph, ends = fusion.namer, owner(scaled.scale), np.iinfo(scaled.type)
    inputs: list[ir.Value | None] = [integers]
    for bound, end, what in zip(bounds, (ends.min, ends.max), ("lowest", "highest"), strict=True):
        limit = np.asarray(bound, scaled.type)
        inputs.append(None if bound == end else add_initializer(graph, namer(f"{clamp.name}_{what}"), limit))
    while inputs[-1] is None:
        inputs.pop()
    name = f"{clamp.name}_quantized"
    return new_node("Clip", inputs, name=namer(name), outputs=[namer(f"{clamp.outputs[0].name}_clipped")])


def insert_before(node: ir.Node, nodes: Iterable[ir.Node]) -> None:
    """Put nodes where a node is."""
    if not isinstance(node.graph, ir.Graph):
        raise KeyError(f"'{node.name}' is in no graph")
    node.graph.insert_before(node, list(nodes))


def take_place(old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """Let all who read a value read another, which takes its name."""
    known_as = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = namer(f"{known_as}_replaced")
    new.name = known_as


def remove(nodes: Iterable[ir.Node | None]) -> None:
    """Take nodes out of their graphs, readers before what they read."""
    for node in nodes:
        if node is not None and isinstance(node.graph, ir.Graph):
            node.graph.remove(node, safe=True)
