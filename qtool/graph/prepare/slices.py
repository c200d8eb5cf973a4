"""Merge a chain of Slices over different axes into one Slice."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import constant, is_op, sole_consumer


def merge_slices(model: ir.Model) -> str:
    """x[:, :, ::2][:, :, :, ::2] as exporters write it -> x[:, :, ::2, ::2]: one pass over memory.

    Only constant, non-negative axes that differ, where the first result has no other consumer.
    """
    namer = Namer(model)
    merged = 0
    for node in list(model.graph.all_nodes()):
        source = node.inputs[0] if is_op(node, "Slice") else None
        first = source.producer() if source is not None else None
        if source is None or first is None or not is_op(first, "Slice") or sole_consumer(source) is not node:
            continue
        before, after = _parameters(first), _parameters(node)
        if before is None or after is None or set(before[2]) & set(after[2]):
            continue
        graph = node.graph
        if not isinstance(graph, ir.Graph) or graph is not first.graph:
            continue
        joined = [np.concatenate(pair) for pair in zip(before, after, strict=True)]
        names = [namer(f"{node.name}_{part}") for part in ("starts", "ends", "axes", "steps")]
        node.resize_inputs(5)
        node.replace_input_with(0, first.inputs[0])
        for index, (name, array) in enumerate(zip(names, joined, strict=True), start=1):
            node.replace_input_with(index, add_initializer(graph, name, array))
        graph.remove(first, safe=True)
        merged += 1
    return f"{merged} Slices merged" if merged else ""


def _parameters(node: ir.Node) -> list[NDArray[np.int64]] | None:
    """Return starts, ends, axes, steps as int64 [n]; None where one is computed, or axes are negative."""
    if len(node.inputs) < 3:
        return None
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    if starts is None or ends is None:
        return None
    optional = [constant(v) if v is not None else None for v in node.inputs[3:5]]
    if any(v is not None and g is None for v, g in zip(node.inputs[3:5], optional, strict=True)):
        return None
    axes = optional[0] if optional and optional[0] is not None else np.arange(starts.size)
    steps = optional[1] if len(optional) > 1 and optional[1] is not None else np.ones(starts.size)
    if np.any(np.asarray(axes) < 0):
        return None
    return [np.asarray(a, np.int64).reshape(-1) for a in (starts, ends, axes, steps)]
