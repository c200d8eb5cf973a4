"""Equalization pairs: constants before and after a value between which factors can move exactly.

The channels of the value are divided in the constants that produce it, and multiplied in the weights that
read it. Between them may be any ops that pass on a positive factor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View, attribute_int, float_constant, is_op, is_vector, sole_consumer

# f(c x) = c f(x) for c > 0.
_POSITIVE = ("Relu", "LeakyRelu", "Identity", "Dropout")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_NORMS = ("LayerNormalization", "RMSNormalization")

ConstantAxis = tuple[str, int]
"""A constant, and the axis of it along which the channels lie."""


@dataclass(frozen=True)
class EqualizationPair:
    """A value whose channels can be scaled, with the constants on both sides.

    Args:
        value: its name.
        channels, axis: their number, and their axis of the value.
        before: constants to divide: the value is linear in them.
        after: weights to multiply, each with the node that reads it.
        after_norm: a norm or a constant vector produces the value, not a layer's weights.
    """

    value: str
    channels: int
    axis: int
    before: tuple[ConstantAxis, ...]
    after: tuple[tuple[str, ConstantAxis], ...]
    after_norm: bool


def find_pairs(view: View, values: Collection[str]) -> list[EqualizationPair]:
    """Return the equalization pairs at these values of the main graph, in graph order."""
    outputs = (v for node in view.main_nodes for v in node.outputs if v.name in values)
    return [pair for value in outputs if (pair := _pair(view, value)) is not None]


def _pair(view: View, value: ir.Value) -> EqualizationPair | None:
    consumers = [_consumer(view, use.node, use.idx) for use in value.uses()]
    if not consumers or None in consumers or value.is_graph_output():
        return None
    after = tuple(dict.fromkeys((name, weight) for name, weight, _ in filter(None, consumers)))
    axes = {axis for _, _, axis in filter(None, consumers)}
    sizes = {_length(view, weight) for _, weight in after}
    rank = None if value.shape is None else len(value.shape)
    if rank is None or len(sizes) != 1 or len({axis % rank for axis in axes}) != 1:
        return None
    axis, channels = axes.pop() % rank, sizes.pop()
    before = _before(value, axis, rank, channels)
    if before is None:
        return None
    names = [name for name, _ in (*before, *(weight for _, weight in after))]
    if len(set(names)) < len(names) or any(n in view.tied for n in names):
        return None
    if any(sole_consumer(view.values[n]) is None for n in names):
        return None
    arrays = (float_constant(view.values[name]) for name, _ in before)
    after_norm = all(array is not None and array.size == channels for array in arrays)
    return EqualizationPair(value.name or "", channels, axis, before, after, after_norm)


def _length(view: View, weight: ConstantAxis) -> int:
    array = float_constant(view.values[weight[0]])
    return 0 if array is None else int(array.shape[weight[1]])


def _consumer(view: View, node: ir.Node, index: int) -> tuple[str, ConstantAxis, int] | None:
    """A node that multiplies a value with a weight: its name, the weight, and the axis of the value."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    array = float_constant(weight)
    if index != 0 or weight is None or array is None or view.in_subgraph(node):
        return None
    name, groups = weight.name or "", attribute_int(node, "group", 1)
    if is_op(node, "Conv") and groups == 1:
        return node.name or "", (name, 1), 1
    if is_op(node, "Conv") and groups == len(array) and array.shape[1] == 1:
        return node.name or "", (name, 0), 1
    if is_op(node, "ConvTranspose") and groups == 1:
        return node.name or "", (name, 0), 1
    if is_op(node, "MatMul") and array.ndim == 2:
        return node.name or "", (name, 0), -1
    if is_op(node, "Gemm") and not attribute_int(node, "transA", 0):
        return node.name or "", (name, attribute_int(node, "transB", 0)), -1
    return None


def _before(value: ir.Value, axis: int, rank: int, channels: int) -> tuple[ConstantAxis, ...] | None:
    """The constants in which a value is linear, channel by channel; None where there are none."""
    node = value.producer()
    if node is None:
        return None
    if is_op(node, "Add", "Mul"):
        return _before_binary(node, axis, rank, channels)
    if is_op(node, *_POSITIVE) or (is_op(node, *_POOLS) and axis == 1):
        return _before_input(node.inputs[0], axis, rank, channels)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    array = float_constant(weight)
    if weight is None or array is None:
        return None
    if is_op(node, *_NORMS):
        fits = attribute_int(node, "axis", -1) % rank == rank - 1 == axis and array.ndim == 1
        constants: list[ConstantAxis] = [(weight.name or "", -1)] if fits else []
    elif (weight_axis := _weight_axis(node, axis, rank)) is not None:
        constants = [(weight.name or "", weight_axis)]
    else:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        own = float_constant(bias)
        if own is None or own.size != channels:
            return None
        constants.append((bias.name or "", -1))
    return tuple(constants) if constants and array.shape[constants[0][1]] == channels else None


def _weight_axis(node: ir.Node, axis: int, rank: int) -> int | None:
    """The axis of a node's weight that becomes an axis of its output; None where it has none."""
    last = axis == rank - 1
    table: dict[str, Callable[[], int | None]] = {
        "Conv": lambda: 0 if axis == 1 else None,
        "ConvTranspose": lambda: 1 if axis == 1 and attribute_int(node, "group", 1) == 1 else None,
        "Gemm": lambda: (1 - attribute_int(node, "transB", 0)) if last else None,
        "MatMul": lambda: 1 if last and _is_matrix(node.inputs[1]) else None,
    }
    return table[node.op_type]() if is_op(node, *table) else None


def _is_matrix(weight: ir.Value | None) -> bool:
    array = float_constant(weight)
    return array is not None and array.ndim == 2


def _before_input(
    value: ir.Value | None, axis: int, rank: int, channels: int
) -> tuple[ConstantAxis, ...] | None:
    """The constants before a node's input; None where another node reads that input too."""
    if value is None or sole_consumer(value) is None:
        return None
    return _before(value, axis, rank, channels)


def _before_binary(node: ir.Node, axis: int, rank: int, channels: int) -> tuple[ConstantAxis, ...] | None:
    """The constants before an Add or Mul: of a sum both operands are divided, of a product one."""
    vector = next((v for v in node.inputs if float_constant(v) is not None), None)
    others = [v for v in node.inputs if v is not vector]
    array = float_constant(vector)
    if vector is not None and array is not None:
        if axis != rank - 1 or not is_vector(array, channels):
            return None
        own: tuple[ConstantAxis, ...] = ((vector.name or "", -1),)
        if is_op(node, "Mul"):
            return own
        rest = _before_input(others[0], axis, rank, channels) if others else None
        return None if rest is None else (*own, *rest)
    if is_op(node, "Add"):
        return None
    operands = (v for v in others if v is not None and _has_all_channels(v, rank, channels))
    return next(filter(None, (_before_input(v, axis, rank, channels) for v in operands)), None)


def _has_all_channels(value: ir.Value, rank: int, channels: int) -> bool:
    """Whether an operand has all channels: one that is broadcast can't be divided by channel."""
    shape = value.shape
    return shape is not None and len(shape) == rank and channels in shape
