"""The gate for a tensor in a file of its own (.pb): it holds what it says, before anything is made of it."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import OptionalProto, SequenceProto, TensorProto

from qtool.data.files import WHOLE_BYTES, opened, shown
from qtool.errors import DataError, printable

_RANK = 64  # axes that a numpy array can have
_ELEMENTS = 1 << 31
# Type -> numpy's name of it, and the field that holds it where raw_data does not. Types that numpy lacks
# (bfloat16, float8, int4) are no model's input that samples could feed.
_TYPES: dict[int, tuple[str, str]] = {
    TensorProto.FLOAT: ("float32", "float_data"),
    TensorProto.DOUBLE: ("float64", "double_data"),
    TensorProto.FLOAT16: ("float16", "int32_data"),
    TensorProto.INT8: ("int8", "int32_data"),
    TensorProto.INT16: ("int16", "int32_data"),
    TensorProto.INT32: ("int32", "int32_data"),
    TensorProto.INT64: ("int64", "int64_data"),
    TensorProto.UINT8: ("uint8", "int32_data"),
    TensorProto.UINT16: ("uint16", "int32_data"),
    TensorProto.UINT32: ("uint32", "uint64_data"),
    TensorProto.UINT64: ("uint64", "uint64_data"),
    TensorProto.BOOL: ("bool", "int32_data"),
    TensorProto.STRING: ("str", "string_data"),
}


def tensor_in(file: Path) -> tuple[str, NDArray[np.generic]]:
    """The name and the value of the tensor in a file.

    Raises:
        DataError: it can't be read, is no tensor, is of a type that numpy lacks, is kept elsewhere, or does
            not hold what its shape takes.
    """
    with opened(file, WHOLE_BYTES) as stream:
        data = stream.read()
        try:
            tensor = TensorProto.FromString(data)
        except MemoryError:
            raise
        except Exception as error:  # DecodeError, of whichever protobuf is installed
            other = _other(data) or "no tensor in ONNX's format"
            raise DataError(f"{shown(file)}: {other}") from error
        if problem := _problem(tensor):
            raise DataError(f"{shown(file)}: {_other(data) or problem}")
        return tensor.name, _array(tensor, file)


def _other(data: bytes) -> str:
    """What the bytes are when they are no tensor; '' when that can't be told."""
    for kind in (SequenceProto, OptionalProto):
        with contextlib.suppress(Exception):
            value = kind.FromString(data)
            value.DiscardUnknownFields()
            if len(value.ListFields()) > 1 and value.ByteSize() == len(data):
                return "a sequence or an optional value, not a tensor; inputs of such types take no samples"
    return ""


def _problem(tensor: TensorProto) -> str:
    """What is wrong with a tensor; '' when nothing is."""
    dims = list(tensor.dims)
    if tensor.HasField("segment"):
        return "a segment of a larger tensor"
    if tensor.data_type not in _TYPES:
        named = {number: name for name, number in TensorProto.DataType.items() if number}
        called = named.get(tensor.data_type)
        return f"of the type {called}, which numpy lacks" if called else "no tensor in ONNX's format"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        return "its data is in another file, which samples may not have"
    if len(dims) > _RANK or min(dims, default=0) < 0:
        return f"has an impossible shape: {printable(str(dims), 80)}"
    name, field = _TYPES[tensor.data_type]
    elements = math.prod(dims)
    if tensor.HasField("raw_data"):
        if name == "str":
            return "holds strings as raw data"
        unit, found, wanted = "bytes", len(tensor.raw_data), elements * np.dtype(name).itemsize
    else:
        unit, found, wanted = "values", len(getattr(tensor, field)), elements
    if math.prod(max(d, 1) for d in dims) > _ELEMENTS:  # [0, 10**18] is none that numpy makes
        return f"has an impossible shape: {printable(str(dims), 80)}"
    return "" if found == wanted else f"holds {found:,} {unit}; its shape {dims} takes {wanted:,}"


def _array(tensor: TensorProto, file: Path) -> NDArray[np.generic]:
    """The value of a tensor without a problem."""
    name, field = _TYPES[tensor.data_type]
    shape = tuple(tensor.dims)
    if name == "str":
        texts = [text.decode("utf-8") for text in tensor.string_data]
        return np.array(texts, np.str_).reshape(shape)
    if tensor.HasField("raw_data"):
        raw = np.frombuffer(tensor.raw_data, "u1" if name == "bool" else np.dtype(name).newbyteorder("<"))
        return (raw != 0 if name == "bool" else raw.astype(name, copy=False)).reshape(shape)
    values = np.array(getattr(tensor, field))
    if name == "float16":  # kept as its bits
        bits = values.astype(np.uint16)
        fits, array = np.array_equal(bits, values), bits.view(np.float16)
    else:
        array = values.astype(name)
        fits = values.dtype.kind == "f" or np.array_equal(array, values)
    if not fits:
        raise DataError(f"{shown(file)}: holds values that are no {name}")
    return array.reshape(shape)
