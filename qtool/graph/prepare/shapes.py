"""Infer types and shapes: by onnx, and by the runtime where onnx does not know an op."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.errors import ModelError
from qtool.graph.inspection.dtypes import parse_types
from qtool.runtime.session import Session

# Larger constants become inputs for the inference: it serializes the model, and needs small ones only.
_SHOWN_BYTES = 1000


def infer_shapes(model: ir.Model) -> str:
    """Infer shapes that the file lacks or has wrong; later passes work without them.

    1. Recorded shapes of inner values are ignored, since stale ones contradict the inferred ones. They are
       kept only where inference fails for the whole model.
    2. Behind an op of another domain onnx knows nothing. The runtime knows the types, where it has the op.
    """
    inner = [v for node in model.graph.all_nodes() for v in node.outputs if not v.is_graph_output()]
    recorded = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    with contextlib.suppress(Exception):  # unknown ops, contradictory models
        inferred = onnx.shape_inference.infer_shapes(light(model), strict_mode=False, data_prop=True)
        _merge(model, ir.from_proto(inferred))
    if any(v.type is None and v.name for v in inner):
        with contextlib.suppress(ModelError):  # it lacks an op
            _ask_runtime(model)
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


def light_file(path: Path) -> bytes:
    """Return a model file without its large constants: the runtime checks its nodes, and reads no weights."""
    return bytes(light(ir.load(path)).SerializeToString())


def _ask_runtime(model: ir.Model) -> None:
    """Set missing types and shapes of the main graph's tensors to those that the runtime infers.

    Raises:
        ModelError: it does not take the model.
    """
    made = [v for node in model.graph for v in node.outputs if v.name and not v.is_graph_output()]
    missing = {str(v.name): v for v in made if v.type is None or v.shape is None}
    proto = light(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    session = Session(proto.SerializeToString(), name="model", optimize=False)
    named = {d for i in session.inputs.values() for d in i.shape if isinstance(d, str)}
    for name, value in missing.items():
        text = session.output_types[name]
        types = parse_types([text]) if text.startswith("tensor(") else ()
        if not types:
            continue
        value.type = ir.TensorType(next(iter(types)))
        # Names that the runtime gives by itself are no names of the model.
        axes = (d if isinstance(d, int) or d in named else None for d in session.output_shapes[name])
        value.shape = ir.Shape(axes) if value.shape is None else value.shape


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
