"""Make a LeakyRelu, which has an integer kernel, of a PRelu with one slope for all channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.view import float_constant, is_op


def merge_slopes(model: ir.Model) -> str:
    """PRelu(x, [a, .., a]) -> LeakyRelu<alpha = a>(x): the same products."""
    count = 0
    for node in model.graph.all_nodes():
        slopes = float_constant(node.inputs[1]) if is_op(node, "PRelu") else None
        if slopes is None or not slopes.size:
            continue
        slope = float(slopes.reshape(-1)[0])
        if not np.isfinite(slope) or (slopes != slope).any():
            continue
        node.op_type = "LeakyRelu"
        node.resize_inputs(1)
        node.attributes["alpha"] = ir.AttrFloat32("alpha", slope)
        count += 1
    return f"{count} PRelus with one slope made LeakyRelus" if count else ""
