"""Require shapes of inputs and outputs: the checker demands them of a model that is written."""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import ModelError, printable


def require_shapes(model: ir.Model) -> str:
    """Check that all input and output tensors have a number of axes.

    Raises:
        ModelError: one has none.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if isinstance(value.type, ir.TensorType) and value.shape is None:
            what = "input" if value.is_graph_input() else "output"
            raise ModelError(
                f"{what} '{printable(value.name or '', 80)}' has no shape, and none can be inferred",
                "add --calib SRC or --data SRC, whose samples show it; or export the model with shapes",
            )
    return ""
