"""Types and shapes, as far as they can be inferred."""

from __future__ import annotations

import logging

import onnx_ir as ir
import onnx_ir.passes.common as common


def infer_shapes(model: ir.Model) -> str:
    """Infer anew what the file may have wrong or lack; nothing below needs it to succeed.

    Recorded shapes of inner values go first: a stale one contradicts what the checker infers.
    """
    inner = [v for node in model.graph.all_nodes() for v in node.outputs if not v.is_graph_output()]
    recorded = [v.shape for v in inner]
    for value in inner:
        value.shape = None
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its warning is a traceback; what matters is said below
    try:
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    finally:
        logger.setLevel(level)
    if all(v.shape is None for v in inner):  # it failed as a whole: what was recorded is all there is
        for value, shape in zip(inner, recorded, strict=True):
            value.shape = shape
    return ""
