"""The ranges that a user declares of a model's inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean


def input_ranges(model: ir.Model, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What '[INPUT=]LOW,HIGH' says of the float inputs; without a name, of all of them.

    Raises:
        UsageError: not of that form, or no such input.
    """
    floats = [v.name or "" for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            lo, hi = (float(n) for n in numbers.split(","))
        except ValueError:
            raise UsageError(f"--input-range '{text}' is not [INPUT=]LOW,HIGH", "for example: 0,1") from None
        if not -math.inf < lo < hi < math.inf:
            raise UsageError(f"--input-range '{text}': LOW must be below HIGH")
        if name and name not in floats:
            raise UsageError(f"--input-range '{text}': no float input '{name}'", did_you_mean(name, floats))
        found |= dict.fromkeys([name] if name else floats, (lo, hi))
    return found
