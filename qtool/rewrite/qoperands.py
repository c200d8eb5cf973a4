"""Integers in a QDQ graph: read before and behind a float node, and written in its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, new_node, owner
from qtool.graph.view import attribute_int, constant, float_constant, is_op, rank, sole_consumer
from qtool.tables.qoperators import EIGHT_BITS

UNBOUNDED = (-math.inf, math.inf)


@dataclass
class Fusion:
    """One rewrite from QDQ to integer operators: what it may use, free names, and what it has made.

    Args:
        transposed: weights that were transposed, by what they were before.
    """

    contrib: bool
    opset: int
    namer: Namer
    transposed: dict[ir.Value, ir.Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Scaled:
    """Integers as reals: (integers - zero_point) * scale.

    Args:
        scale: a constant, float32 [] or [C].
        zero_point: a constant of the integers' type, of the scale's shape.
        axis: what [C] runs along, from the front; None for one scale.
    """

    scale: ir.Value
    zero_point: ir.Value
    axis: int | None

    @property
    def type(self) -> str:
        """The integers' type, by numpy's name."""
        return str(_array(self.zero_point).dtype)

    def same_as(self, other: Scaled) -> bool:
        """Whether equal integers stand for equal reals."""
        return (
            self.type == other.type
            and self.axis == other.axis
            and np.array_equal(_array(self.scale), _array(other.scale))
            and np.array_equal(_array(self.zero_point), _array(other.zero_point))
        )

    def parts(self) -> list[ir.Value]:
        return [self.scale, self.zero_point]

    def zero_is_0(self) -> bool:
        return not _array(self.zero_point).any()

    def one_zero_point(self) -> bool:
        """Whether all channels have the same zero point."""
        return np.unique(_array(self.zero_point)).size == 1


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
    """A float value that nobody but a QuantizeLinear reads, perhaps through a Relu or Clip.

    Args:
        q: the QuantizeLinear.
        clamp: the Relu or Clip.
        bounds: the clamp's, in integers; None when all integers of the type lie within.
    """

    q: ir.Node
    scaled: Scaled
    clamp: ir.Node | None
    bounds: tuple[int, int] | None


def _array(value: ir.Value) -> np.ndarray:
    array = constant(value)
    if array is None:
        raise KeyError(f"'{value.name}' is no constant")
    return array


def scaled_by(node: ir.Node) -> Scaled | None:
    """The scale and zero point of a Q or DQ, where they are constants and of 8 bits."""
    if len(node.inputs) < 3 or attribute_int(node, "block_size", 0):
        return None
    scale, zero = node.inputs[1], node.inputs[2]
    scales, zeros = float_constant(scale), constant(zero)
    if scale is None or zero is None or scales is None or zeros is None or scales.shape != zeros.shape:
        return None
    if str(zeros.dtype) not in EIGHT_BITS or scales.ndim > 1:
        return None
    if scales.ndim == 0:
        return Scaled(scale, zero, None)
    axis, axes = attribute_int(node, "axis", 1), rank(node.inputs[0])
    if axis < 0 and axes is None:
        return None
    return Scaled(scale, zero, axis if axis >= 0 else axis + (axes or 0))


def operand(value: ir.Value | None) -> Operand | None:
    """The integers behind a value that a DequantizeLinear makes."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    scaled, integers = scaled_by(node), node.inputs[0]
    return Operand(integers, scaled) if scaled is not None and integers is not None else None


def activation(value: ir.Value | None) -> Operand | None:
    """The same with one scale for the whole tensor."""
    found = operand(value)
    return found if found is not None and found.scaled.axis is None else None


def bias(value: ir.Value | None, a: Scaled, b: Scaled) -> ir.Value | None:
    """The int32 [N] integers of a bias at the product of two scales; None when it is none of that kind."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    integers, scale = node.inputs[0], float_constant(node.inputs[1])
    array = constant(integers)
    if array is None or scale is None or array.dtype != np.int32 or array.ndim != 1:
        return None
    if len(node.inputs) > 2 and (zero := constant(node.inputs[2])) is not None and zero.any():
        return None
    wanted = product_scale(a, b)
    fits = scale.size in (1, wanted.size) or wanted.size == 1
    return integers if fits and np.allclose(scale, wanted, rtol=1e-6, atol=0) else None


def product_scale(a: Scaled, b: Scaled) -> np.ndarray:
    """What one step of an int32 sum of products stands for: float32 [] or [N]."""
    return np.asarray(_array(a.scale) * _array(b.scale), np.float32)


def result(value: ir.Value) -> Result | None:
    """The Q that a value goes into, when that is all that becomes of it."""
    reader = sole_consumer(value)
    clamp: ir.Node | None = None
    limits = UNBOUNDED
    if is_op(reader, "Relu", "Clip") and reader is not None and reader.inputs[0] is value:
        found = clamp_limits(reader)
        if found is None:
            return None
        clamp, limits = reader, found
        reader = sole_consumer(reader.outputs[0])
        value = clamp.outputs[0]
    if reader is None or not is_op(reader, "QuantizeLinear") or reader.inputs[0] is not value:
        return None
    scaled = scaled_by(reader)
    if scaled is None or scaled.axis is not None:
        return None
    return Result(reader, scaled, clamp, integer_bounds(limits, scaled))


def clamp_limits(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or Clip holds values between; None when that is not known beforehand."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    limits = list(UNBOUNDED)
    for index in (1, 2):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        array = float_constant(value)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        limits[index - 1] = float(array.reshape(-1)[0])
    return limits[0], limits[1]


def quantized(real: float, scaled: Scaled) -> int:
    """What QuantizeLinear makes of a number: rounding and saturation keep order, so a clamp's limits
    are as exact in integers as in floats."""
    ends = np.iinfo(scaled.type)
    with np.errstate(over="ignore"):  # beyond float32 is beyond the type's ends, too
        steps = np.rint(np.float32(real) / np.float32(_array(scaled.scale)))
    return int(np.clip(steps + np.float32(_array(scaled.zero_point)), ends.min, ends.max))


def integer_bounds(limits: tuple[float, float], scaled: Scaled) -> tuple[int, int] | None:
    """A clamp's limits in integers; None when saturation at the ends of the type does the same."""
    ends = np.iinfo(scaled.type)
    bounds = quantized(limits[0], scaled), quantized(limits[1], scaled)
    return None if bounds == (ends.min, ends.max) else bounds


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
