"""Inspect a model."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.graph.inspection.dtypes import dtype_name, infer_dtypes
from qtool.graph.inspection.missing import missing_pairs
from qtool.graph.inspection.model import RECIPE, GraphValue, Inspection
from qtool.graph.inspection.precision import QUANTIZE, Precisions, count_ops
from qtool.graph.inspection.walk import walk
from qtool.graph.inspection.weights import count_constants, find_constants
from qtool.graph.load import Source, from_model, load

ModelLike = str | Path | onnx.ModelProto


def inspect_model(model: ModelLike) -> Inspection:
    """Return the contents of a model: its interface, ops, weights, and its quantized share.

    Raises:
        ModelError: it can't be read, or is invalid.
    """
    return inspect_source(open_model(model))


def open_model(model: ModelLike) -> Source:
    """Load a path, or take a model in memory.

    Raises:
        ModelError: it can't be read, or is invalid.
    """
    return from_model(model) if isinstance(model, onnx.ModelProto) else load(Path(model))


def inspect_source(source: Source) -> Inspection:
    """Return the contents of a loaded model."""
    model = source.model
    walked = walk(model)
    constants = find_constants(walked)
    precisions = Precisions(walked.nodes, infer_dtypes(model, walked), constants)
    ops, forms = count_ops(walked.nodes, precisions)
    weights, others = count_constants(constants)
    foreign = not any(key.startswith(RECIPE) for key in model.metadata_props)
    half_types = tuple(name for name in ("float16", "bfloat16") if name in weights and name not in forms)
    return Inspection(
        path=source.name,
        bytes=source.size,
        sha256=source.sha256,
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        opsets={"" if domain == "ai.onnx" else domain: v for domain, v in model.opset_imports.items()},
        inputs=tuple(_graph_value(v) for v in model.graph.inputs if not v.is_initializer()),
        outputs=tuple(_graph_value(v) for v in model.graph.outputs),
        ops=ops,
        graphs=len(walked.graphs) - 1,
        functions=len(model.functions),
        weights=weights,
        constants=others,
        forms=(*forms, *half_types),
        metadata=dict(sorted(model.metadata_props.items())),
        external=_external(source),
        missing=missing_pairs(walked.nodes, precisions) if foreign and QUANTIZE & ops.keys() else (),
    )


def _graph_value(value: ir.Value) -> GraphValue:
    shape = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return GraphValue(value.name or "", _type_name(value.type), shape)


def _type_name(kind: ir.TypeProtocol | None) -> str:
    match kind:
        case ir.SequenceType():
            return f"sequence({_type_name(kind.elem_type)})"
        case ir.OptionalType():
            return f"optional({_type_name(kind.elem_type)})"
        case ir.SparseTensorType():
            return f"sparse({dtype_name(kind.dtype)})"
        case None:
            return "unknown"
        case _:
            return dtype_name(kind.dtype)


def _external(source: Source) -> dict[str, int]:
    """Return the sizes of the data files, by their path below the model's folder."""
    if source.path is None:
        return {}
    folder = source.path.parent
    return {str(f.relative_to(folder)): f.stat().st_size for f in source.files if f != source.path}
