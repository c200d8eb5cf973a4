"""Share equal constants: inlined functions and the branches of an If hold copies of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_ir as ir

# Smaller ones (shapes, axes) stay: shape inference inside a branch needs them there.
_SHARED_FROM_BYTES = 1024


def share_duplicates(model: ir.Model) -> str:
    """Replace equal initializers by one, in the main graph where they are in several graphs.

    1. Equal means the same type, shape and bytes.
    2. An initializer that is a graph's input or output keeps its own.
    """
    groups: dict[tuple[object, ...], list[ir.Value]] = {}
    for value, tensor in large_constants(model):
        digest = hashlib.sha256(tensor.tobytes()).digest()
        groups.setdefault((tensor.dtype, tuple(tensor.shape), digest), []).append(value)
    saved = 0
    for values in groups.values():
        first, *others = values
        if others and any(v.graph is not first.graph for v in others):
            hoist(first, model.graph)
        for other in others:
            other.replace_all_uses_with(first)
            take_out(other)
            saved += 1
    return f"{saved} copies of constants shared" if saved else ""


def large_constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the initializers that are worth sharing, and that are no graph's input or output."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SHARED_FROM_BYTES:
                continue
            if not (value.is_graph_input() or value.is_graph_output()):
                yield value, tensor


def hoist(value: ir.Value, main: ir.Graph) -> None:
    """Move an initializer to the main graph."""
    if value.graph is not main:
        take_out(value)
        main.register_initializer(value)


def take_out(value: ir.Value) -> None:
    """Remove an initializer from its graph."""
    if isinstance(value.graph, ir.Graph) and value.name is not None:
        del value.graph.initializers[value.name]
