"""Queries on a graph, from an index that is built once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.shelf import Shelved

Use = tuple[ir.Node, int]
T = TypeVar("T")


class View:
    """An index over a model whose nodes and values all have unique names (prepare sees to that).

    It shows the model as it was when the index was made.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._answers: dict[Hashable, Any] = {}
        self.nodes: list[ir.Node] = list(model.graph.all_nodes())
        self.main_nodes: list[ir.Node] = list(model.graph)
        self.node_by_name: dict[str, ir.Node] = {n.name or "": n for n in self.nodes}
        self.values: dict[str, ir.Value] = {}
        for graph in model.graphs():
            for value in (*graph.inputs, *graph.initializers.values()):
                self.values[value.name or ""] = value
        for node in self.nodes:
            for value in node.outputs:
                self.values[value.name or ""] = value

    @cached_property
    def tied(self) -> Mapping[str, str]:
        """Constant -> the table that it is, perhaps transposed: an embedding and the output projection.

        A Gather picks rows of the table, and another node multiplies with it.
        """
        matrices = [v for v in self.values.values() if rank(v) == 2 and v.is_initializer()]
        tied: dict[str, str] = {}
        for table in matrices:
            if not _is_table(table):
                continue
            others = [v for v in matrices if v is not table and _are_transposed(table, v)]
            if others or not all(is_op(use.node, "Gather") for use in table.uses()):
                tied |= {v.name or "": table.name or "" for v in (table, *others)}
        return tied

    @property
    def owners(self) -> dict[str, str]:
        """Names of nodes and of their outputs -> the node: the runtime names its kernels after either."""
        outputs = {v.name: n.name or "" for n in self.nodes for v in n.outputs if v.name}
        return outputs | {name: name for name in self.node_by_name}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result of a function of the model, computed at the first call with this key.

        Args:
            key: the question, with everything that the answer depends on beside the model.
            compute: answers it, at some cost.
        """
        if key not in self._answers:
            self._answers[key] = compute()
        answer: T = self._answers[key]
        return answer

    def in_main(self, value: ir.Value) -> bool:
        """Return whether a value is in the main graph, where it can be observed."""
        producer = value.producer()
        return (value.graph if producer is None else producer.graph) is self.model.graph

    def is_fed(self, value: ir.Value | None) -> bool:
        """Return whether a value is an input that callers must feed; optional ones are constants."""
        return value is not None and value.is_graph_input() and self.in_main(value)

    def in_subgraph(self, node: ir.Node) -> bool:
        """Return whether the node is in an If, Loop or Scan."""
        return node.graph is not self.model.graph


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Return whether a node is one of these ops of the standard domain."""
    return node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx")


def op_key(node: ir.Node) -> str:
    """`Conv` for the standard domain, `domain::Op` for any other."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the numpy array of an initializer; None for a computed or fed value.

    Callers can override an initializer that is also a graph input; prepare takes those out of the inputs.
    """
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def float_constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Like `constant`, but None unless it is float32."""
    if value is None or not value.is_initializer() or value.dtype != ir.DataType.FLOAT:
        return None
    array = constant(value)
    return None if array is None else np.asarray(array, np.float32)


def in_side_file(value: ir.Value) -> bool:
    """Return whether a constant is computed as it is written: it came from a side file (graph/mapped.py)."""
    tensor = value.const_value
    return isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, Shelved)


def is_tied(weight: ir.Value) -> bool:
    """Return whether a weight is the transpose of a table that a Gather picks rows of."""
    graph = weight.graph
    others = graph.initializers.values() if isinstance(graph, ir.Graph) and rank(weight) == 2 else ()
    return any(v is not weight and _is_table(v) and _are_transposed(v, weight) for v in others)


def _is_table(value: ir.Value) -> bool:
    return any(is_op(use.node, "Gather") and use.idx == 0 for use in value.uses())


def _are_transposed(one: ir.Value, other: ir.Value) -> bool:
    """Return whether a float matrix is the transpose of another."""
    if one.shape is None or other.shape is None or list(one.shape) != list(other.shape)[::-1]:
        return False
    a, b = float_constant(one), float_constant(other)
    if a is None or b is None or not np.array_equal(a[:1, :], b.T[:1, :]):
        return False
    return np.array_equal(a, b.T)


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes; None where it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """Return an int attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the only consumer of a value, where it is no graph output; else None."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def is_read(value: ir.Value) -> bool:
    """Return whether a value has a consumer: a node, or the caller of the graph."""
    return bool(value.uses()) or value.is_graph_output()


def is_vector(array: NDArray[np.generic], length: int) -> bool:
    """Return whether an array has one value for each index of the last axis: [length], or [1, .., length]."""
    return array.size == length and array.shape[-1:] == (length,)


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operator set."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
