"""Store each constant of a written model once, also where one is the other reshaped or transposed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node
from qtool.graph.prepare.duplicates import hoist, large_constants, share_duplicates, take_out

# Of matrices, and of matrices in blocks, whose axis of channels is first or last.
_PERMUTATIONS = {2: ((1, 0),), 3: ((1, 2, 0), (2, 0, 1))}


def share_constants(model: ir.Model, namer: Namer) -> None:
    """Store equal constants once; write the transpose of a constant as a Transpose of it, in place.

    1. The branches of an If, and the bodies of loops, read one constant of the main graph.
    2. An embedding table, and the output projection that is tied to it, read one table, and the scales of its
       rows. onnxruntime computes the Transpose and the Reshape once, when it loads the model.
    """
    share_duplicates(model)
    groups: dict[tuple[object, ...], list[ir.Value]] = {}
    for value, tensor in large_constants(model):
        dims = sorted(d for d in tensor.shape.numpy() if d > 1)
        groups.setdefault((tensor.dtype, *dims), []).append(value)
    for values in groups.values():
        gone: set[int] = set()
        for first, other in combinations(values, 2):
            if gone & {id(first), id(other)} or (node := _move(model, first, other, namer)) is None:
                continue
            _replace(model.graph, first, other, node)
            gone.add(id(other))


def _move(model: ir.Model, first: ir.Value, other: ir.Value, namer: Namer) -> ir.Node | None:
    """Return the node that makes one constant of the other; None if none does."""
    if first.const_value is None or other.const_value is None:
        return None
    a, b, name = first.const_value.numpy(), other.const_value.numpy(), other.name or ""
    if a.tobytes() == b.tobytes():
        shape = add_initializer(model.graph, namer(f"{name}_shape"), np.asarray(b.shape, np.int64))
        return new_node(
            "Reshape", [first, shape], name=namer(f"{name}_Reshape"), outputs=[namer(f"{name}_shared")]
        )
    for axes in _PERMUTATIONS.get(a.ndim, ()):
        moved = a.transpose(axes)
        if moved.shape == b.shape and all(
            moved[part].tobytes() == b[part].tobytes() for part in (slice(1), slice(None))
        ):
            perm: dict[str, ir.Attr] = {"perm": ir.AttrInt64s("perm", axes)}
            outputs = [namer(f"{name}_shared")]
            return new_node(
                "Transpose", [first], name=namer(f"{name}_Transpose"), outputs=outputs, attributes=perm
            )
    return None


def _replace(main: ir.Graph, first: ir.Value, other: ir.Value, node: ir.Node) -> None:
    """Let all consumers of a constant read the result of a node on the first, in the main graph."""
    hoist(first, main)
    made = node.outputs[0]
    made.type, made.shape = other.type, other.shape
    take_out(other)
    other.replace_all_uses_with(made)
    insert_after_value(first, [node], main)
