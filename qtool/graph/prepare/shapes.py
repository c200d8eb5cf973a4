"""Types and shapes, as far as they can be inferred."""

from __future__ import annotations

import contextlib

import onnx
import onnx_ir as ir

# Larger constants are shown to the inference as inputs: it serializes the model, and needs small ones only.
_SHOWN_BYTES = 1000


def infer_shapes(model: ir.Model) -> str:
    """Infer anew what the file may have wrong or lack; nothing below needs it to succeed.

    Recorded shapes of inner values do not count: a stale one contradicts what the checker infers. What
    can't be inferred anew keeps what was recorded only where inference fails as a whole.
    """
    inner = [v for node in model.graph.all_nodes() for v in node.outputs if not v.is_graph_output()]
    recorded = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    with contextlib.suppress(Exception):  # ops that nobody knows, models that contradict themselves
        inferred = onnx.shape_inference.infer_shapes(_light(model), strict_mode=False, data_prop=True)
        _merge(model, ir.from_proto(inferred))
    if all(v.shape is None for v in inner):  # it failed as a whole: what was recorded is all there is
        for value, shape in zip(inner, recorded, strict=True):
            value.shape = shape
    return ""


def _light(model: ir.Model) -> onnx.ModelProto:
    """The model without its large constants."""
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
    """Take over what was inferred.

    Not by onnx-ir's pass (1.1): it takes the type of a sequence's elements for that of the sequence.
    """
    for ours, theirs in zip(model.graphs(), inferred.graphs(), strict=True):
        known = {v.name: v for node in theirs for v in node.outputs} | {v.name: v for v in theirs.inputs}
        for value in (*ours.inputs, *(v for node in ours for v in node.outputs)):
            found = known.get(value.name)
            if found is None or not value.name:
                continue
            value.shape = value.shape if found.shape is None else found.shape
            value.type = value.type if found.type is None else found.type
