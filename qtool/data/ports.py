"""What a model wants to be fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable

Axis = int | str | None
Ports = Mapping[str, "Port"]


@dataclass(frozen=True)
class Port:
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


def ports_of(model: ir.Model) -> dict[str, Port]:
    """The inputs that a sample must have: those without a value of their own in the model."""
    graph = model.graph
    return {
        v.name or "": Port(v.name or "", _axes(v.shape), _numpy_name(v.dtype))
        for v in graph.inputs
        if v.name not in graph.initializers
    }


def shaped(ports: Ports, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Port]:
    """The ports with the shapes that the user gave; the name '' stands for a model's only input.

    Raises:
        UsageError: no such input, or a shape that the model does not take.
    """
    found = dict(ports)
    for name, shape in shapes.items():
        if not name and len(ports) != 1:
            raise UsageError(
                f"--shape {_text(shape)}: which of the {len(ports)} inputs?",
                f"--shape {next(iter(ports), 'NAME')}={_text(shape)}",
            )
        key = name or next(iter(ports))
        if key not in ports:
            hint = did_you_mean(key, ports) or f"inputs: {printable(', '.join(ports))}"
            raise UsageError(f"--shape: no input '{key}'", hint)
        port = ports[key]
        fits = port.shape is None or (
            len(port.shape) == len(shape)
            and all(not isinstance(a, int) or a in (0, b) for a, b in zip(port.shape, shape, strict=True))
        )
        if not fits:
            raise UsageError(f"--shape {key}={_text(shape)}: the model wants {port}")
        found[key] = replace(port, shape=shape)
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
