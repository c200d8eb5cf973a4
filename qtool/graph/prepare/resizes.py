"""Resize with the coordinates that it had before opset 11, where it had no choice of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.view import constant, is_op

# Resize, and Upsample before it, had one way to find coordinates up to the opset before this one.
FIRST_WITH_COORDINATES = 11


def settle_coordinates(model: ir.Model) -> None:
    """Say of each Resize how it worked in opset 10, which the version converter (onnx 1.23) leaves out.

    1. A coordinate is divided by the scale, and that is all: 'asymmetric'; the default since is 'half_pixel'.
    2. 'nearest' then rounds down where the map grows, and up where it shrinks: so onnxruntime (1.31), where
       the specification says nothing.

    Raises:
        ValueError: scales that are computed, or of both kinds: no mode since stands for that.
    """
    for node in model.graph.all_nodes():
        if not is_op(node, "Resize"):
            continue
        mode = node.attributes.get("mode")
        if mode is None or mode.as_string() == "nearest":
            node.attributes.add(ir.AttrString("nearest_mode", _rounding(_scales(node))))
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))


def _rounding(scales: np.ndarray | None) -> str:
    if scales is not None and np.all(scales >= 1):
        return "floor"
    if scales is not None and np.all(scales <= 1):
        return "ceil"
    raise ValueError("a Resize to the nearest neighbour whose scales are not known, or go both ways")


def _scales(node: ir.Node) -> np.ndarray | None:
    value = node.inputs[2]
    producer = value.producer() if value is not None else None
    made = producer.attributes.get("value") if is_op(producer, "Constant") and producer is not None else None
    return constant(value) if made is None else np.asarray(made.as_tensor().numpy())
