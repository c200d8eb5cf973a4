"""What is fed and what is returned has a shape: the checker demands it of any model that is written."""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import ModelError, printable


def require_shapes(model: ir.Model) -> str:
    """Refuse tensors at the borders of the model of which not even the number of axes is known.

    Raises:
        ModelError: there is one.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        if isinstance(value.type, ir.TensorType) and value.shape is None:
            what = "input" if value.is_graph_input() else "output"
            raise ModelError(
                f"{what} '{printable(value.name or '', 80)}' has no shape, and the model does not tell which",
                "export the model with one; names can stand for sizes",
            )
    return ""
