"""Models whose outputs get their types and shapes from inference, mixed types included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Shape


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    input_type: int = TensorProto.FLOAT,
    output_rank: int = 2,
) -> onnx.ModelProto:
    """A checked model; float32 in unless told.

    Args:
        output_rank: of float outputs that inference can't know, behind ops that are not ONNX's.
    """
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(k, input_type, list(v)) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name=k) for k in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    domains = sorted({n.domain for n in nodes} - {"", "ai.onnx"})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(made).graph.output}
    for index, name in enumerate(outputs):
        inferred_type = inferred[name].type.tensor_type
        kind = inferred_type.elem_type or TensorProto.FLOAT
        shape: list[int | str | None] = [None] * output_rank
        if inferred_type.HasField("shape"):
            shape = [
                d.dim_value if d.HasField("dim_value") else d.dim_param or None
                for d in inferred_type.shape.dim
            ]
        made.graph.output[index].CopyFrom(helper.make_tensor_value_info(name, kind, shape))
    onnx.checker.check_model(made)
    return made
