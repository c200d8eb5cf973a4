"""The differences between two models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import onnx_ir as ir

from qtool.graph.inspection.dtypes import dtype_name
from qtool.graph.inspection.model import (
    Change,
    Difference,
    GraphValue,
    Inspection,
    TensorChange,
    format_order,
)
from qtool.graph.inspection.read import ModelLike, inspect_source, open_model
from qtool.graph.inspection.walk import walk
from qtool.graph.inspection.weights import find_constants
from qtool.graph.load import Source

K = TypeVar("K")
V = TypeVar("V")


def difference(before: ModelLike, after: ModelLike) -> Difference:
    """Return the differences between two models, the content of their constants included.

    Raises:
        ModelError: one of them can't be read, or is invalid.
    """
    a, b = open_model(before), open_model(after)
    return _with_tensors(changes(inspect_source(a), inspect_source(b)), _tensors(a), _tensors(b))


def changes(before: Inspection, after: Inspection) -> Difference:
    """Return the differences between two inspections: all but the content of constants."""
    ops = _changed(*({op: row.nodes for op, row in i.ops.items()} for i in (before, after)))
    computes = _counts(_changed(before.computes, after.computes))
    return Difference(
        before,
        after,
        opsets=_changed(before.opsets, after.opsets),
        inputs=_changed_values(before.inputs, after.inputs),
        outputs=_changed_values(before.outputs, after.outputs),
        ops=dict(sorted(_counts(ops).items(), key=lambda row: (-abs(row[1][1] - row[1][0]), row[0]))),
        computes=dict(sorted(computes.items(), key=lambda row: format_order(row[0]))),
        weights=_changed(before.weights, after.weights),
        metadata=_changed(before.metadata, after.metadata),
    )


def _changed(before: dict[K, V], after: dict[K, V]) -> dict[K, Change[V]]:
    """Return the keys whose values differ, in the order of the first, then of the second."""
    keys = dict.fromkeys((*before, *after))
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def _counts(changed: dict[str, Change[int]]) -> dict[str, tuple[int, int]]:
    return {k: (a or 0, b or 0) for k, (a, b) in changed.items()}


def _changed_values(
    before: Iterable[GraphValue], after: Iterable[GraphValue]
) -> tuple[Change[GraphValue], ...]:
    """Return pairs of one name that differ, then renamed ones, then the removed and the added."""
    old, new = {p.name: p for p in before}, {p.name: p for p in after}
    pairs: list[Change[GraphValue]] = [(p, new[name]) for name, p in old.items() if new.get(name, p) != p]
    added = [p for name, p in new.items() if name not in old]
    for port in (p for name, p in old.items() if name not in new):
        twin = next((p for p in added if replace(p, name=port.name) == port), None)
        if twin is not None:
            added.remove(twin)
        pairs.append((port, twin))
    return (*pairs, *((None, p) for p in added))


def _tensors(source: Source) -> dict[str, ir.TensorProtocol]:
    """Return the constants by name; a name that nested graphs repeat gets a number."""
    tensors: dict[str, ir.TensorProtocol] = {}
    for value, tensor in find_constants(walk(source.model)).tensors.items():
        name, number = value.name or "", 1
        while name in tensors:
            number += 1
            name = f"{value.name}#{number}"
        tensors[name] = tensor
    return tensors


def _with_tensors(
    difference: Difference, before: dict[str, ir.TensorProtocol], after: dict[str, ir.TensorProtocol]
) -> Difference:
    shared = [name for name in before if name in after]
    differing = [
        TensorChange(name, _described(before[name]), _described(after[name]))
        for name in shared
        if not _same(before[name], after[name])
    ]
    return replace(
        difference,
        tensors=tuple(differing),
        same_tensors=len(shared) - len(differing),
        only_before=tuple(name for name in before if name not in after),
        only_after=tuple(name for name in after if name not in before),
    )


def _described(tensor: ir.TensorProtocol) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"


def _same(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Return whether two tensors are equal bit for bit; one pair is in memory at a time."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == ir.DataType.STRING:
        return bool((a.numpy() == b.numpy()).all())
    same = a.tobytes() == b.tobytes()
    for tensor in (a, b):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
    return same
