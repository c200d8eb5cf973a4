"""Inputs of a model, and the shapes of --shape."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from qtool.data.model_inputs import ModelInput, inputs_of, with_shapes
from qtool.errors import UsageError
from tests.graphs import model, node, weights


def of(*inputs: object, **options: object) -> dict[str, ModelInput]:
    graph = helper.make_graph([], "g", list(inputs), [], **options)
    return inputs_of(ir.from_proto(helper.make_model(graph)))


def tensor(kind: int, shape: list | None) -> object:
    return helper.make_tensor_value_info("x", kind, shape)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.STRING, "str"),
        (TensorProto.BFLOAT16, ""),
        (TensorProto.FLOAT8E4M3FN, ""),
        (TensorProto.INT4, ""),
    ],
)
def test_types_have_the_names_of_numpy(kind: int, dtype: str) -> None:
    assert of(tensor(kind, [1]))["x"].dtype == dtype


@pytest.mark.parametrize(
    ("shape", "axes", "text"),
    [
        ([1, 3], (1, 3), "float32 [1, 3]"),
        (["N", 3], ("N", 3), "float32 [N, 3]"),
        ([None, 3], (None, 3), "float32 [?, 3]"),
        ([0, 3], (None, 3), "float32 [?, 3]"),
        ([], (), "float32 []"),
        (None, None, "float32 of any shape"),
    ],
    ids=str,
)
def test_axes_are_numbers_names_or_open(shape: list | None, axes: tuple | None, text: str) -> None:
    spec = of(tensor(TensorProto.FLOAT, shape))["x"]
    assert spec.shape == axes
    assert str(spec) == text


def test_an_input_with_a_value_of_its_own_needs_no_sample() -> None:
    made = model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4], "w": [4, 2]}, ["y"], {"w": weights(4, 2)}
    )
    assert list(inputs_of(ir.from_proto(made))) == ["x"]


TWO = {
    "x": ModelInput("x", ("N", 3, None, None), "float32"),
    "ids": ModelInput("ids", None, "int64"),
    "z": ModelInput("z", (0, 4), "float32"),
}


@pytest.mark.parametrize(
    ("shapes", "name", "shape"),
    [({"x": (2, 3, 8, 8)}, "x", (2, 3, 8, 8)), ({"ids": (1, 5)}, "ids", (1, 5)), ({"z": (7, 4)}, "z", (7, 4)), ({}, "x", ("N", 3, None, None))],
)  # fmt: skip
def test_a_shape_settles_open_axes(shapes: dict, name: str, shape: tuple) -> None:
    result = with_shapes(TWO, shapes)
    assert result[name].shape == shape
    assert list(result) == list(TWO)


def test_without_a_name_the_only_input_is_meant() -> None:
    assert with_shapes({"x": TWO["x"]}, {"": (1, 3, 2, 2)})["x"].shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("shapes", "message", "hint"),
    [
        ({"": (1, 3)}, "--shape 1,3: which of the 3 inputs?", "--shape x=1,3"),
        ({"idz": (1,)}, "--shape: no input 'idz'", "did you mean 'ids'?"),
        ({"qqq": (1,)}, "no input 'qqq'", "inputs: x, ids, z"),
        ({"x": (1, 4, 8, 8)}, "--shape x=1,4,8,8: the model wants float32 [N, 3, ?, ?]", ""),
        ({"x": (1, 3, 8)}, "--shape x=1,3,8: the model wants", ""),
    ],
    ids=str,
)
def test_a_shape_that_the_model_does_not_take_is_refused(shapes: dict, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_shapes(TWO, shapes)
    assert message in caught.value.message
    assert hint in caught.value.hint
