"""Check that the data of tensors has the size that their types and shapes need, before it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
import onnx_ir as ir
from onnx import TensorProto

from qtool.errors import ModelError, printable
from qtool.graph.limits import LIMITS

_BYTES = 8
# Types of at most this number of bits are packed outside raw_data too: one byte an entry.
_PACKED = 4
# The field of a type's values outside raw_data, and the entries of an element; other types use int32_data.
_ENTRIES: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}


def check_tensors(tensors: Iterable[onnx.TensorProto], name: str) -> None:
    """Check the tensors of a model.

    Raises:
        ModelError: an unknown type, an impossible shape, or data of another size.
    """
    for tensor in tensors:
        if problem := _problem(tensor):
            raise ModelError(f"{name}: tensor '{printable(tensor.name, 80)}' {problem}")


def tensor_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return the bytes of a tensor's data; None for strings, which have no fixed width."""
    bits = math.prod(tensor.dims) * _bits(tensor)
    return -(-bits // _BYTES) if bits or tensor.data_type != TensorProto.STRING else None


def _bits(tensor: onnx.TensorProto) -> int:
    """Return the bits of an element; 0 for strings."""
    return 0 if tensor.data_type == TensorProto.STRING else int(ir.DataType(tensor.data_type).bitwidth)


def _problem(tensor: onnx.TensorProto) -> str:
    """Return the problem of a tensor; '' where there is none."""
    dims = list(tensor.dims)
    try:
        bits = _bits(tensor)
    except (ValueError, TypeError, KeyError):
        return f"is of an unknown type ({tensor.data_type})"
    if len(dims) > LIMITS.rank:
        return f"has {len(dims):,} axes"
    if any(d < 0 for d in dims) or math.prod(max(d, 1) for d in dims) * max(bits, 1) >= LIMITS.tensor_bits:
        return f"has an impossible shape: {printable(str(dims), 80)}"
    if tensor.HasField("segment"):
        return "is a segment of a larger one"
    if not bits and (tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL):
        return "holds strings as raw data"
    if tensor.data_location == TensorProto.EXTERNAL:
        return ""
    elements = math.prod(dims)
    if tensor.HasField("raw_data"):
        unit, needed, actual = "bytes", -(-elements * bits // _BYTES), len(tensor.raw_data)
    else:
        entries, each = _ENTRIES.get(tensor.data_type, ("int32_data", 1))
        packed = -(-elements * bits // _BYTES) if 0 < bits <= _PACKED else elements
        unit, needed, actual = "values", packed * each, len(getattr(tensor, entries))
    return "" if needed == actual else f"holds {actual:,} {unit}; its shape needs {needed:,}"
