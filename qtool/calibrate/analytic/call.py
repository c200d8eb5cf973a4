"""One node, as the rules see it: its inputs' spreads, its constants, its shapes and its attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.spread import Spread, constant_spread, unknown
from qtool.graph.view import constant

Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """A node, and what is believed of the values computed so far, by name."""

    node: ir.Node
    spreads: Mapping[str, Spread]

    def __getitem__(self, index: int) -> Spread:
        """The spread of an input that has to be there."""
        value = self.node.inputs[index]
        if value is None:
            raise ValueError(f"{self.node.op_type} lacks input {index}")
        array = constant(value)
        if array is not None:
            return constant_spread(array)
        return self.spreads.get(value.name or "") or unknown()

    def has(self, index: int) -> bool:
        """Whether an input is there."""
        return self.value(index) is not None

    @property
    def count(self) -> int:
        """The number of inputs, those left out too."""
        return len(self.node.inputs)

    def value(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def constant(self, index: int) -> F64 | None:
        """A constant numeric input as float64, None for anything else."""
        return numbers(constant(self.value(index)))

    def ints(self, index: int, attribute: str) -> list[int] | None:
        """A list of integers: a constant input, or in earlier opsets an attribute."""
        array = self.constant(index)
        if array is not None:
            return [int(i) for i in array.reshape(-1)]
        return self.attribute_ints(attribute)

    def attribute_ints(self, attribute: str) -> list[int] | None:
        found = self.node.attributes.get(attribute)
        return None if found is None else list(found.as_ints())

    def whole(self, attribute: str, default: int) -> int:
        found = self.node.attributes.get(attribute)
        return default if found is None else found.as_int()

    def real(self, attribute: str, default: float) -> float:
        found = self.node.attributes.get(attribute)
        return default if found is None else found.as_float()

    def text(self, attribute: str, default: str) -> str:
        found = self.node.attributes.get(attribute)
        return default if found is None else found.as_string()

    def dims(self, index: int = 0) -> Dims | None:
        """The shape of an input, None for what is dynamic."""
        return dims(self.value(index))

    def made(self, index: int = 0) -> Dims | None:
        """The shape of an output."""
        return dims(self.node.outputs[index])

    def rank(self, index: int = 0) -> int | None:
        shape = self.dims(index)
        return None if shape is None else len(shape)


def dims(value: ir.Value | None) -> Dims | None:
    """The shape of a value; None where an axis, or all of it, is dynamic or unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def numbers(array: NDArray[np.generic] | None) -> F64 | None:
    """An array as float64; None if it holds no numbers."""
    if array is None or array.dtype.kind in "OSUM":
        return None
    return np.asarray(array, np.float64)
