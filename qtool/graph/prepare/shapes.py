"""Infer types and shapes."""

from __future__ import annotations

import contextlib

import onnx
import onnx_ir as ir

# Larger constants become inputs for the inference: it serializes the model, and needs small ones only.
_SHOWN_BYTES = 1000


def infer_shapes(model: ir.Model) -> str:
    """Infer shapes that the file lacks or has wrong; later passes work without them.

    Recorded shapes of inner values are ignored, since stale ones contradict the inferred ones. They are kept
    only where inference fails for the whole model.
    """
    inner = [v for node in model.graph.all_nodes() for v in node.outputs if not v.is_graph_output()]
    recorded = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    with contextlib.suppress(Exception):  # unknown ops, contradictory models
        inferred = onnx.shape_inference.infer_shapes(light(model), strict_mode=False, data_prop=True)
        _merge(model, ir.from_proto(inferred))
    if all(v.shape is None for v in inner):  # it failed for the whole model
        for value, shape in zip(inner, recorded, strict=True):
            value.shape = shape
    return ""


def light(model: ir.Model) -> onnx.ModelProto:
    """Return the model without its large constants, which are inputs of it, for onnx to infer or check."""
    clone = model.clone()
    for name, value in list(clone.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SHOWN_BYTES:
            continue
        del clone.graph.initializers[name]
        value.const_value = None
        value.shape, value.type = tensor.shape, ir.TensorType(tensor.dtype)  # type: ignore[assignment]
        if not value.is_graph_input():
            clone.graph.inputs.append(value)
    proto: onnx.ModelProto = ir.to_proto(clone)
    return proto


def _merge(model: ir.Model, inferred: ir.Model) -> None:
    """Copy the inferred types and shapes into the model.

    onnx-ir's own pass (1.1) confuses the type of a sequence with that of its elements.
    """
    for ours, theirs in zip(model.graphs(), inferred.graphs(), strict=True):
        by_name = {v.name: v for node in theirs for v in node.outputs} | {v.name: v for v in theirs.inputs}
        for value in (*ours.inputs, *(v for node in ours for v in node.outputs)):
            other = by_name.get(value.name)
            if other is None or not value.name:
                continue
            value.shape = value.shape if other.shape is None else other.shape
            value.type = value.type if other.type is None else other.type
