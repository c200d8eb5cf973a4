"""Constants scaled in pairs: what a layer gives out is divided by what the next multiplies its weights with.

The factors are powers of two. With them products and sums round as before, so the model is the same to the
bit, but for numbers next to the ends of float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qtool.graph.view import float_constant
from qtool.plan.model import Scaled


def rescaled(model: ir.Model, scaled: Mapping[str, tuple[Scaled, ...]]) -> ir.Model:
    """A clone of a prepared model with some of its constants scaled.

    Raises:
        KeyError: it has no such constant, or none of that shape.
    """
    clone = model.clone()
    for name, every in scaled.items():
        value = clone.graph.initializers.get(name)
        array = float_constant(value)
        if value is None or array is None:
            raise KeyError(f"there is no float constant '{name}'")
        for one in every:
            if not -array.ndim <= one.axis < array.ndim or array.shape[one.axis] != len(one.factors):
                raise KeyError(f"'{name}' has no axis {one.axis} of {len(one.factors)}")
            array = array * along(np.asarray(one.factors, np.float32), one.axis, array.ndim)
        value.const_value = ir.tensor(array, name=name)
    return clone


def along(factors: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Factors [C], shaped to be multiplied with an array of so many axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return factors.reshape(shape)
