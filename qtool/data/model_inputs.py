"""What a model wants to be fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable

Axis = int | str | None
ModelInputs = Mapping[str, "ModelInput"]


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Args:
        shape: an int where an axis is fixed, a name or None where it is not; None: of any rank.
        dtype: numpy's name, 'str' for text; '' where numpy has no such type.
    """

    name: str
    shape: tuple[Axis, ...] | None
    dtype: str

    @property
    def floating(self) -> bool:
        """Whether it takes floats."""
        return self.dtype.startswith("float")

    def __str__(self) -> str:
        axes = "of any shape" if self.shape is None else "[" + ", ".join(shown(a) for a in self.shape) + "]"
        return f"{self.dtype or 'of a type numpy lacks'} {printable(axes, 80)}"


def shown(axis: Axis) -> str:
    """An axis as a person reads it."""
    return "?" if axis is None else str(axis)


def inputs_of(model: ir.Model) -> dict[str, ModelInput]:
    """The inputs that a sample must have: those without a value of their own in the model."""
    graph = model.graph
    return {
        v.name or "": ModelInput(v.name or "", _axes(v.shape), _numpy_name(v.dtype))
        for v in graph.inputs
        if v.name not in graph.initializers
    }


def with_shapes(inputs: ModelInputs, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ModelInput]:
    """The inputs with the shapes that the user gave; the name '' stands for a model's only input.

    Raises:
        UsageError: no such input, or a shape that the model does not take.
    """
    found = dict(inputs)
    for name, shape in shapes.items():
        if not name and len(inputs) != 1:
            raise UsageError(
                f"--shape {_text(shape)}: which of the {len(inputs)} inputs?",
                f"--shape {next(iter(inputs), 'NAME')}={_text(shape)}",
            )
        key = name or next(iter(inputs))
        if key not in inputs:
            hint = did_you_mean(key, inputs) or f"inputs: {printable(', '.join(inputs))}"
            raise UsageError(f"--shape: no input '{key}'", hint)
        spec = inputs[key]
        fits = spec.shape is None or (
            len(spec.shape) == len(shape)
            and all(not isinstance(a, int) or a in (0, b) for a, b in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            raise UsageError(f"--shape {key}={_text(shape)}: the model wants {spec}")
        found[key] = replace(spec, shape=shape)
    return found


def _axes(shape: ir.Shape | None) -> tuple[Axis, ...] | None:
    if shape is None:
        return None
    # An axis of 0 is how some exporters write 'unknown'.
    return tuple((axis if axis > 0 else None) if isinstance(axis, int) else axis.value for axis in shape)


def _numpy_name(dtype: ir.DataType | None) -> str:
    if dtype is None:
        return ""
    if dtype == ir.DataType.STRING:
        return "str"
    try:
        name = dtype.numpy().name
    except TypeError:
        return ""
    return name if hasattr(np, name) or name == "bool" else ""


def _text(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))
