"""Share equal constants: inlined functions and the branches of an If hold copies of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from qtool.graph.edit import Computed

# Smaller ones (shapes, axes) stay: shape inference inside a branch needs them there.
_SHARED_FROM_BYTES = 1024
_BEGINNING = 1024  # values


def share_duplicates(model: ir.Model) -> str:
    """Replace equal initializers by one, in the main graph where they are in several graphs.

    1. Equal means the same type, shape and bytes.
    2. An initializer that is a graph's input or output keeps its own.
    """
    saved = 0
    for values in equal_constants(list(large_constants(model))):
        first, *others = values
        if others and any(v.graph is not first.graph for v in others):
            hoist(first, model.graph)
        for other in others:
            other.replace_all_uses_with(first)
            take_out(other)
            saved += 1
    return f"{saved} copies of constants shared" if saved else ""


def equal_constants(constants: Sequence[tuple[ir.Value, ir.TensorProtocol]]) -> list[list[ir.Value]]:
    """Return the constants of the same type, shape and bytes in groups, those without an equal left out.

    Only constants that begin alike are read in full.
    """
    alike: dict[tuple[object, ...], list[tuple[ir.Value, ir.TensorProtocol]]] = {}
    for value, tensor in constants:
        beginning = tensor.numpy().reshape(-1)[:_BEGINNING].tobytes()
        alike.setdefault((tensor.dtype, *tensor.shape.numpy(), beginning), []).append((value, tensor))
    equal: dict[tuple[object, ...], list[ir.Value]] = {}
    for key, members in alike.items():
        for value, tensor in members if len(members) > 1 else ():
            digest = hashlib.sha256(tensor.tobytes()).digest()
            equal.setdefault((*key, digest), []).append(value)
    return [values for values in equal.values() if len(values) > 1]


def large_constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the initializers that are worth sharing, and that are no graph's input or output.

    One that is computed while the model is saved equals no other: its source is one of a kind.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING or isinstance(tensor, Computed):
                continue
            if tensor.nbytes < _SHARED_FROM_BYTES:
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
