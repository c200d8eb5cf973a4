"""Data that is what type and shape say: everything onnx writes passes, everything changed does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qtool.errors import ModelError
from qtool.graph.tensors import check_tensors, tensor_bytes

TYPES = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED})
NAMES = [TensorProto.DataType.Name(t) for t in TYPES]
DATA = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def made(kind: int, shape: tuple[int, ...], raw: bool = False) -> onnx.TensorProto:
    """A tensor of ones as onnx writes it."""
    count = int(np.prod(shape))
    if kind == TensorProto.STRING:
        return helper.make_tensor("t", kind, shape, [b"1"] * count)
    array = np.ones(shape).astype(helper.tensor_dtype_to_np_dtype(kind))
    if raw:
        return onnx.numpy_helper.from_array(array, "t")
    return helper.make_tensor("t", kind, shape, array.reshape(-1))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (4, 1, 2)], ids=str)
@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("kind", TYPES, ids=NAMES)
def test_tensors_of_onnx_are_accepted(kind: int, raw: bool, shape: tuple[int, ...]) -> None:
    tensor = made(kind, shape, raw)
    check_tensors([tensor], "m")
    if raw and kind != TensorProto.STRING:
        assert tensor_bytes(tensor) == len(tensor.raw_data)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("kind", TYPES, ids=NAMES)
def test_more_or_less_data_is_refused(kind: int, raw: bool) -> None:
    for shape in ((16,), (4, 40)):
        tensor = made(kind, (4, 10), raw)
        tensor.dims[:] = shape
        with pytest.raises(ModelError, match="'t' holds"):
            check_tensors([tensor], "m")


@given(
    st.integers(-10, 100),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=70),
    st.sampled_from(DATA),
    st.integers(0, 9),
)
def test_any_tensor_is_accepted_or_refused(kind: int, dims: list[int], field: str, count: int) -> None:
    tensor = onnx.TensorProto(data_type=kind, dims=dims, name="\x1b[2J")
    if field == "raw_data":
        tensor.raw_data = bytes(count)
    else:
        getattr(tensor, field).extend([b"" if field == "string_data" else 0] * count)
    try:
        check_tensors([tensor], "m")
    except ModelError as error:
        assert error.message.isprintable()
    else:
        assert len(onnx.numpy_helper.to_array(tensor).shape) == len(dims)


def test_a_segment_is_refused() -> None:
    tensor = made(TensorProto.FLOAT, (3,))
    tensor.segment.begin = 0
    with pytest.raises(ModelError, match="segment"):
        check_tensors([tensor], "m")
