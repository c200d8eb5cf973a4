"""A model with integer inputs and outputs, run in floats by its metadata; damaged metadata is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qtool.data.samples import Sample
from qtool.errors import ModelError
from qtool.evaluate.float_io import FloatSession, session_inputs, with_float_io
from qtool.rewrite.integer_io import METADATA_KEY
from qtool.runtime.session import Session
from tests.graphs import node
from tests.rewrite.flow import run

TYPES = ("uint8", "int8")
ONNX = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
ZERO = {"uint8": 128, "int8": -3}
SCALE = np.float32(0.05)


def doubled(io: str, metadata: object = None) -> onnx.ModelProto:
    """x (integers) -> DQ -> +ids -> Q -> y (integers), and z, the float between."""
    nodes = [
        node("DequantizeLinear", ["x", "s", "zp"], ["f"]),
        node("Cast", ["ids"], ["g"], to=TensorProto.FLOAT),
        node("Add", ["f", "g"], ["z"]),
        node("QuantizeLinear", ["z", "s2", "zp2"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "integers",
        [info("x", ONNX[io], ["N", 4]), info("ids", TensorProto.INT64, [4])],
        [info("y", ONNX[io], ["N", 4]), info("z", TensorProto.FLOAT, ["N", 4])],
        [
            onnx.numpy_helper.from_array(np.asarray(SCALE), "s"),
            onnx.numpy_helper.from_array(np.asarray(ZERO[io], io), "zp"),
            onnx.numpy_helper.from_array(np.asarray(SCALE * 2), "s2"),
            onnx.numpy_helper.from_array(np.asarray(ZERO[io] + 1, io), "zp2"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(proto, {METADATA_KEY: text})
    return proto


def rows(io: str) -> dict[str, dict[str, Any]]:
    return {
        "x": {"type": io, "scale": float(SCALE), "zero_point": ZERO[io]},
        "y": {"type": io, "scale": float(SCALE * 2), "zero_point": ZERO[io] + 1},
    }


def session(proto: onnx.ModelProto, optimize: bool = True) -> Session:
    return Session(proto.SerializeToString(), threads=1, name="tiny", optimize=optimize)


IDS = np.array([0, 1, 2, 3])
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(("io", "optimize"), [("uint8", True), ("int8", False)])
def test_outputs_are_those_of_the_same_arithmetic_in_numpy(io: str, optimize: bool) -> None:
    model = with_float_io(session(doubled(io, rows(io)), optimize))
    y, z = model.run({"x": X, "ids": IDS})
    limits = np.iinfo(io)
    q = np.clip(np.rint(X / SCALE) + ZERO[io], limits.min, limits.max)
    np.testing.assert_allclose(z, (q - ZERO[io]) * SCALE + IDS, atol=1e-6)
    (raw,) = run(doubled(io), [{"x": q.astype(io), "ids": IDS}])
    assert y.dtype == z.dtype == np.float32
    np.testing.assert_array_equal(y, (raw["y"].astype(np.float32) - ZERO[io] - 1) * (SCALE * 2))
    for names in (["z", "y"], ["y"]):
        for name, array in zip(names, model.run({"x": X, "ids": IDS}, names), strict=True):
            np.testing.assert_array_equal(array, {"y": y, "z": z}[name])


def test_it_is_described_as_a_float_model() -> None:
    plain = session(doubled("int8", rows("int8")))
    model = with_float_io(plain)
    assert isinstance(model, FloatSession)
    assert (model.name, model.outputs) == ("tiny", ["y", "z"])
    assert model.input_dtypes == {"x": "float32", "ids": "int64"}
    assert (model.inputs["x"].type, model.inputs["x"].shape) == ("tensor(float)", ["N", 4])
    assert model.inputs["ids"] is plain.inputs["ids"]


@pytest.mark.parametrize("io", TYPES)
def test_values_out_of_range_saturate_at_the_limits_of_the_type(io: str) -> None:
    plain = session(doubled(io, rows(io)))
    sample = Sample("0", {"x": np.array([[-9e8, 9e8, 0, -0.0]], np.float32), "ids": IDS})
    (inputs,) = session_inputs(plain, [sample], "eval")
    limits = np.iinfo(io)
    assert inputs["x"].dtype == io
    np.testing.assert_array_equal(inputs["x"], [[limits.min, limits.max, ZERO[io], ZERO[io]]])
    np.testing.assert_array_equal(inputs["ids"], IDS)


def test_only_inputs_and_outputs_in_the_metadata_are_converted() -> None:
    y, z = with_float_io(session(doubled("int8", {"x": rows("int8")["x"]}))).run({"x": X, "ids": IDS})
    assert (y.dtype, z.dtype) == (np.int8, np.float32)


def test_without_metadata_the_session_itself_is_returned() -> None:
    plain = session(doubled("int8"))
    assert with_float_io(plain) is plain


GOOD = rows("int8")
WRONG = {
    "no json": "{",
    "a list": [],
    "a number": 3,
    "a string": '"x"',
    "rows that are no objects": {"x": 3},
    "a row that is a list": {"x": ["int8", 0.1, 0]},
    "no type": {"x": {"scale": 0.1, "zero_point": 0}},
    "no scale": {"x": {"type": "int8", "zero_point": 0}},
    "no zero point": {"x": {"type": "int8", "scale": 0.1}},
    "an unknown type": {"x": {**GOOD["x"], "type": "int9"}},
    "a float type": {"x": {**GOOD["x"], "type": "float32"}},
    "a type that is a list": {"x": {**GOOD["x"], "type": ["int8"]}},
    "a scale of 0": {"x": {**GOOD["x"], "scale": 0}},
    "a negative scale": {"x": {**GOOD["x"], "scale": -1}},
    "a scale that is text": {"x": {**GOOD["x"], "scale": "much"}},
    "a scale that is nan": '{"x": {"type": "int8", "scale": NaN, "zero_point": 0}}',
    "an endless scale": '{"x": {"type": "int8", "scale": Infinity, "zero_point": 0}}',
    "a scale beyond float32": {"x": {**GOOD["x"], "scale": 1e39}},
    "a zero point beyond the type": {"x": {**GOOD["x"], "zero_point": 128}},
    "a zero point beyond int64": {"x": {**GOOD["x"], "zero_point": 2**70}},
    "many scales": {"x": {**GOOD["x"], "scale": [0.1, 0.2]}},
    "many zero points": {"x": {**GOOD["x"], "zero_point": [0, 0, 0, 0]}},
    "no number as zero point": {"x": {**GOOD["x"], "zero_point": None}},
    "an input that is not there": {**GOOD, "w": GOOD["x"]},
}


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG)
def test_damaged_metadata_is_a_model_error(metadata: object) -> None:
    with pytest.raises(ModelError, match="tiny") as caught:
        with_float_io(session(doubled("int8", metadata)))
    assert METADATA_KEY in caught.value.message
