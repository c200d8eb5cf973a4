"""Graph edits that prepare and rewrite share. They change clones of the user's model only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.mapped import SideTensor
from qtool.graph.view import in_side_file


class Namer:
    """Returns value and node names that the model does not use yet."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        for graph in model.graphs():
            self._taken.update(v.name or "" for v in (*graph.inputs, *graph.initializers.values()))
        for node in model.graph.all_nodes():
            self._taken.add(node.name or "")
            self._taken.update(v.name or "" for v in node.outputs)

    def __call__(self, base: str) -> str:
        """Return the base itself where it is free, else with a number appended."""
        # Names are never freed, so a search continues where the last one for this base ended.
        number = self._last.get(base, 0)
        name = f"{base}_{number}" if number else base
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._last[base] = number
        self._taken.add(name)
        return name


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Register an array as an initializer of a graph; rank 0 stays rank 0.

    `np.ascontiguousarray` would give a scalar rank 1, and the runtime does not fuse nodes around a scale of
    shape [1].
    """
    # `ir.tensor` takes ten times as long as `ir.Tensor`.
    return add_constant(graph, name, ir.Tensor(np.array(array, order="C", copy=True)))


def add_constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a tensor as an initializer of a graph."""
    tensor.name = name
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


class Computed(SideTensor):
    """A constant that is made of one in a side file at each access."""


def computed(
    value: ir.Value, compute: Callable[[NDArray[Any]], NDArray[Any]], dtype: ir.DataType, shape: Sequence[int]
) -> ir.TensorProtocol:
    """Return the tensor that a function makes of a constant: at each access, of one in a side file.

    Args:
        value: the constant.
        compute: takes its array, and returns a new one.
        dtype, shape: of the new one.
    """
    source = value.const_value
    if source is None:
        raise KeyError(f"'{value.name}' is no constant")

    def made() -> ir.TensorProtocol:
        return ir.tensor(np.array(compute(source.numpy()), order="C"))

    return Computed(made, dtype, ir.Shape(shape)) if in_side_file(value) else made()


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    name: str,
    outputs: Sequence[str],
    domain: str = "",
    attributes: Mapping[str, ir.Attr] | None = None,
) -> ir.Node:
    """Return a node with named outputs, not yet in a graph."""
    node = ir.Node(domain, op_type, inputs, (attributes or {}).values(), num_outputs=len(outputs), name=name)
    for value, output in zip(node.outputs, outputs, strict=True):
        value.name = output
    return node


def insert_after_value(value: ir.Value, nodes: Iterable[ir.Node], graph: ir.Graph) -> None:
    """Insert nodes right after the producer of a value, or at the start of its graph."""
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.insert_after(producer, list(nodes))
    elif len(graph):
        graph.insert_before(graph[0], list(nodes))
    else:
        graph.extend(list(nodes))


def take_output_name(old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """Make `new` the graph output in place of `old`, with its name."""
    graph = old.graph
    if graph is None or not old.is_graph_output():
        return
    name = old.name or ""
    old.name = namer(f"{name}_raw")
    new.name = name
    new.shape, new.type = old.shape, old.type
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new


def take_over(old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """Replace all uses of `old` by `new`, which gets its name."""
    name = old.name
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = namer(f"{name}_float") if name else name
    new.name = name


def append_node(
    value: ir.Value,
    op_type: str,
    operands: Sequence[ir.Value],
    graph: ir.Graph,
    namer: Namer,
    attributes: Mapping[str, ir.Attr] | None = None,
) -> ir.Value:
    """Insert an op behind a computed value; return its result, which gets the value's name and consumers."""
    producer = value.producer()
    name = namer(f"{producer.name if producer is not None else value.name}_{op_type}")
    output = namer(f"{value.name}_{op_type}")
    node = new_node(op_type, [value, *operands], name=name, outputs=[output], attributes=attributes)
    take_over(value, node.outputs[0], namer)
    node.replace_input_with(0, value)
    insert_after_value(value, [node], graph)
    return node.outputs[0]


def owner(value: ir.Value) -> ir.Graph:
    """Return the graph of a value."""
    graph = value.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"{value.name!r} is in no graph")
    return graph


def replace_node(node: ir.Node, nodes: Iterable[ir.Node], old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """Replace a node by others: their value `new` takes the place of its value `old`."""
    if node.graph is None:
        raise ValueError(f"'{node.name}' is in no graph")
    node.graph.insert_before(node, list(nodes))
    take_over(old, new, namer)
    node.graph.remove(node, safe=True)
