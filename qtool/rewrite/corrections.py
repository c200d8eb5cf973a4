"""Biases with what makes up for the error that quantization adds to the means of a layer's results."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.view import float_constant
from qtool.plan.model import Plan


def correct_biases(model: ir.Model, plan: Plan) -> None:
    """Add a plan's corrections to the biases of a clone of the prepared model, before anything is quantized.

    Raises:
        KeyError: the model has no such bias.
    """
    for name, offsets in plan.corrections.items():
        value = model.graph.initializers[name]
        array = float_constant(value)
        if array is None or array.size != len(offsets):
            raise KeyError(f"'{name}' is no bias of {len(offsets)} floats")
        shifted = array + np.asarray(offsets, np.float32).reshape(array.shape)
        value.const_value = ir.tensor(shifted, name=name)
