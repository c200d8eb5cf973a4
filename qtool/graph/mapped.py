"""Constants in side files: mapped at each access, so that their memory is free when the array is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.numerics.qparams import PART
from qtool.runtime.heartbeat import beat
from qtool.runtime.threads import in_threads

# Types whose bytes in the file are those of an array.
ARRAYS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8}
)
_LEAST_NORMAL = 1 << 23  # the bits of the least normal float32


@dataclass(frozen=True)
class Facts:
    """The properties of a float32 weight that decide its form, from one pass over it.

    Args:
        least, greatest: of its values and 0; NaN if there is one.
        energy: the sum of squares, to five digits.
        denormals: whether it has values too small for the full precision of float32.
    """

    least: float
    greatest: float
    energy: float
    denormals: bool


def facts_of(array: NDArray[np.float32]) -> Facts:
    """Return the facts of an array."""
    flat = array.reshape(-1)
    least = greatest = np.float32(0)
    energy, denormals = 0.0, False
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat.size, PART):
            part = flat[start : start + PART]
            least, greatest = np.minimum(least, part.min()), np.maximum(greatest, part.max())
            energy += float(np.einsum("i,i->", part, part))
            if not denormals:
                sizes = part.view(np.uint32) << np.uint32(1)  # without the sign
                sizes -= np.uint32(1)  # 0 becomes the largest number
                denormals = int(sizes.min()) < 2 * _LEAST_NORMAL - 1
    return Facts(float(least), float(greatest), energy, denormals)


class SideTensor(ir.LazyTensor):
    """A constant that is made at each access, of a side file. Its facts are found once."""

    @cached_property
    def facts(self) -> Facts:
        """The facts of a float32 constant."""
        return facts_of(np.asarray(self.numpy(), np.float32))


def weight_facts(value: ir.Value) -> Facts:
    """Return the facts of a float32 constant.

    Raises:
        KeyError: it is no constant.
    """
    tensor = value.const_value
    if tensor is None:
        raise KeyError(f"'{value.name}' is no constant")
    return (
        tensor.facts if isinstance(tensor, SideTensor) else facts_of(np.asarray(tensor.numpy(), np.float32))
    )


def find_facts(model: ir.Model) -> None:
    """Read the float32 constants in side files once, several at a time: later passes have their facts."""
    tensors = [
        v.const_value
        for graph in model.graphs()
        for v in graph.initializers.values()
        if isinstance(v.const_value, SideTensor) and v.dtype == ir.DataType.FLOAT
    ]
    for _ in in_threads(lambda tensor: tensor.facts, tensors):
        beat()


def mapped(tensor: ir.ExternalTensor) -> SideTensor:
    """Return a tensor that maps its file at each access.

    onnx-ir keeps a side file mapped once it was read, and looks at its path again at each access.
    """
    file, offset = Path(tensor.path), tensor.offset or 0
    shape = tuple(tensor.shape.numpy())

    def read() -> ir.TensorProtocol:
        array: NDArray[Any]
        if tensor.dtype in ARRAYS and tensor.size:
            array = np.asarray(np.memmap(file, tensor.dtype.numpy(), "r", offset, shape))
            return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )

    return SideTensor(read, tensor.dtype, tensor.shape, name=tensor.name)
