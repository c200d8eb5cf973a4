"""The weights of a model in one temporary file, from the moment it is loaded.

Nothing but the pages that are read takes memory, and a session that needs a file refers to this one: a run
opens dozens of sessions, and each would write the weights anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qtool.graph.side_file import SIDE_TENSOR_BYTES, layout, write_side

# Bytes of the weights of a model that stays in memory, and whose sessions are opened from memory.
IN_MEMORY = 8 << 20


class Shelf:
    """A file in a temporary folder, which goes when no tensor refers to it any more.

    Args:
        tensors: to write to it.

    Raises:
        OSError: there is no room.
    """

    def __init__(self, tensors: Sequence[ir.TensorProtocol]) -> None:
        folder = tempfile.mkdtemp(prefix="qtool-weights-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.file = Path(folder, "weights.data")
        write_side(self.file, tensors, durable=False)


class Shelved(ir.LazyTensor):
    """A tensor that is mapped at each access.

    Args:
        tensor: as it was in memory.
        shelf: its file.
        offset: its place there.
    """

    def __init__(self, tensor: ir.TensorProtocol, shelf: Shelf, offset: int) -> None:
        dtype, shape, name = tensor.dtype, ir.Shape(tensor.shape.numpy()), tensor.name

        def read() -> ir.TensorProtocol:
            array = np.memmap(shelf.file, dtype.numpy(), "r", offset, tuple(shape.numpy()))
            return ir.Tensor(np.asarray(array), dtype=dtype, name=name)

        super().__init__(read, dtype, shape, name=name)
        self._shelf, self._offset = shelf, offset

    def linked(self, folder: Path) -> ir.ExternalTensor | None:
        """Return the tensor for a model in a folder, which gets a link to the file; None where it can't."""
        link = folder / self._shelf.file.name
        try:
            if not link.exists():
                os.link(self._shelf.file, link)
        except OSError:  # another file system, or one without links
            return None
        place, shape = (link.name, self._offset, self.nbytes, self.dtype), ir.Shape(self.shape.numpy())
        return ir.ExternalTensor(*place, shape=shape, name=self.name or "", base_dir=folder)


def link(value: ir.Value, folder: Path) -> bool:
    """Let a constant that is shelved refer to a link to its file; False where it is not, or can't."""
    tensor = value.const_value
    external = tensor.linked(folder) if isinstance(tensor, Shelved) else None
    if external is not None:
        value.const_value = external
    return external is not None


def shelve(model: ir.Model) -> None:
    """Move the arrays of a model's weights to a file, if they are many bytes. Without room they stay."""
    initializers = [v for graph in model.graphs() for v in graph.initializers.values()]
    pairs = [
        (value, tensor)
        for value in initializers
        if isinstance(tensor := value.const_value, ir.Tensor) and tensor.nbytes >= SIDE_TENSOR_BYTES
    ]
    tensors = [tensor for _, tensor in pairs]
    if sum(tensor.nbytes for tensor in tensors) <= IN_MEMORY:
        return
    with contextlib.suppress(OSError):
        shelf = Shelf(tensors)
        for (value, tensor), offset in zip(pairs, layout(tensors), strict=True):
            value.const_value = Shelved(tensor, shelf, offset)
    for value in initializers:
        if isinstance(value.const_value, ir.TensorProtoTensor):
            value.const_value = _alone(value.const_value)
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if isinstance(attribute.value, ir.TensorProtoTensor):
                node.attributes[name] = ir.AttrTensor(name, _alone(attribute.value))


def _alone(tensor: ir.TensorProtoTensor) -> ir.TensorProtoTensor:
    """Return a tensor of a protobuf of its own: any part of a model's keeps all of it in memory."""
    return ir.TensorProtoTensor(onnx.TensorProto.FromString(tensor.raw.SerializeToString()))
