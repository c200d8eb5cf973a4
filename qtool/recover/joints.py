"""Where a factor can be moved from one layer into the next without changing what they come to.

A value's channels are divided by what makes the value, and multiplied with by whoever reads it. In between
there may be whatever passes a positive factor on.
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

Port = tuple[str, int]
"""A constant, and its axis along which the channels lie."""


@dataclass(frozen=True)
class Joint:
    """A value whose channels can be scaled.

    Args:
        value: as its readers read it.
        channels, axis: how many, and along which axis of it.
        before: constants that are divided; what they make is what the value is made of.
        after: weights that are multiplied, each with the node that reads it.
        normed: a norm or a constant vector makes the value, not a layer's weights.
    """

    value: str
    channels: int
    axis: int
    before: tuple[Port, ...]
    after: tuple[tuple[str, Port], ...]
    normed: bool


def joints(view: View, among: Collection[str]) -> list[Joint]:
    """The joints at values of the main graph, of those that are asked for, in graph order."""
    found = []
    for node in view.main_nodes:
        for value in node.outputs:
            if value.name in among and (joint := _joint(view, value)) is not None:
                found.append(joint)
    return found


def _joint(view: View, value: ir.Value) -> Joint | None:
    readers = [_reader(view, use.node, use.idx) for use in value.uses()]
    if not readers or None in readers or value.is_graph_output():
        return None
    after = tuple(dict.fromkeys((name, port) for name, port, _ in filter(None, readers)))
    axes = {axis for _, _, axis in filter(None, readers)}
    sizes = {_size(view, port) for _, port in after}
    rank = None if value.shape is None else len(value.shape)
    if rank is None or len(sizes) != 1 or len({axis % rank for axis in axes}) != 1:
        return None
    axis, channels = axes.pop() % rank, sizes.pop()
    before = _absorbers(value, axis, rank, channels)
    if before is None:
        return None
    names = [name for name, _ in (*before, *(port for _, port in after))]
    if len(set(names)) < len(names) or any(sole_consumer(view.values[n]) is None for n in names):
        return None
    normed = all(_count(view, port) == channels for port in before)
    return Joint(value.name or "", channels, axis, before, after, normed)


def _size(view: View, port: Port) -> int:
    array = float_constant(view.values[port[0]])
    return 0 if array is None else int(array.shape[port[1]])


def _count(view: View, port: Port) -> int:
    array = float_constant(view.values[port[0]])
    return 0 if array is None else array.size


def _reader(view: View, node: ir.Node, index: int) -> tuple[str, Port, int] | None:
    """Who multiplies a value with a weight: its name, the weight, and the axis of the value."""
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


def _absorbers(value: ir.Value, axis: int, rank: int, channels: int) -> tuple[Port, ...] | None:
    """The constants that make a value linearly, channel by channel; None where there are none."""
    node = value.producer()
    if node is None:
        return None
    if is_op(node, "Add", "Mul"):
        return _of_pair(node, axis, rank, channels)
    if is_op(node, *_POSITIVE) or (is_op(node, *_POOLS) and axis == 1):
        return _through(node.inputs[0], axis, rank, channels)
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    array = float_constant(weight)
    if weight is None or array is None:
        return None
    if is_op(node, *_NORMS):
        own = attribute_int(node, "axis", -1) % rank == rank - 1 == axis
        ports: list[Port] = [(weight.name or "", -1)] if own and array.ndim == 1 else []
    elif (place := _made_along(node, axis, rank)) is not None:
        ports = [(weight.name or "", place)]
    else:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        held = float_constant(bias)
        if held is None or held.size != channels:
            return None
        ports.append((bias.name or "", -1))
    return tuple(ports) if ports and array.shape[ports[0][1]] == channels else None


def _made_along(node: ir.Node, axis: int, rank: int) -> int | None:
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


def _through(value: ir.Value | None, axis: int, rank: int, channels: int) -> tuple[Port, ...] | None:
    """The same of a value that nobody else reads."""
    if value is None or sole_consumer(value) is None:
        return None
    return _absorbers(value, axis, rank, channels)


def _of_pair(node: ir.Node, axis: int, rank: int, channels: int) -> tuple[Port, ...] | None:
    """Of a sum both parts are divided, of a product one."""
    vector = next((v for v in node.inputs if float_constant(v) is not None), None)
    others = [v for v in node.inputs if v is not vector]
    array = float_constant(vector)
    if vector is not None and array is not None:
        if axis != rank - 1 or not is_vector(array, channels):
            return None
        own: tuple[Port, ...] = ((vector.name or "", -1),)
        if is_op(node, "Mul"):
            return own
        rest = _through(others[0], axis, rank, channels) if others else None
        return None if rest is None else (*own, *rest)
    if is_op(node, "Add"):
        return None
    found = (_through(v, axis, rank, channels) for v in others if v is not None and _whole(v, rank, channels))
    return next((ports for ports in found if ports), None)


def _whole(value: ir.Value, rank: int, channels: int) -> bool:
    """Whether a factor of a product has all its channels: what is broadcast can't be divided by channel."""
    shape = value.shape
    return shape is not None and len(shape) == rank and channels in shape
