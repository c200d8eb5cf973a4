"""A full-integer model behind float ports: fed and read as its own metadata says, or refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qtool.errors import ModelError
from qtool.evaluate.ports import FloatPorts, bare, feed, in_floats
from qtool.rewrite.ports import METADATA_KEY
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


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("io", TYPES)
def test_it_is_fed_and_read_in_floats(io: str, optimize: bool) -> None:
    """The oracle is the same arithmetic in numpy, and the raw integers."""
    model = in_floats(session(doubled(io, rows(io)), optimize))
    y, z = model.run({"x": X, "ids": IDS})
    limits = np.iinfo(io)
    q = np.clip(np.rint(X / SCALE) + ZERO[io], limits.min, limits.max)
    wanted = (q - ZERO[io]) * SCALE + IDS
    np.testing.assert_allclose(z, wanted, atol=1e-6)
    (raw,) = run(doubled(io), [{"x": q.astype(io), "ids": IDS}])
    assert y.dtype == z.dtype == np.float32
    np.testing.assert_array_equal(y, (raw["y"].astype(np.float32) - ZERO[io] - 1) * (SCALE * 2))


@pytest.mark.parametrize("io", TYPES)
def test_it_looks_like_a_float_model(io: str) -> None:
    plain = session(doubled(io, rows(io)))
    model = in_floats(plain)
    assert isinstance(model, FloatPorts)
    assert (model.name, model.outputs) == ("tiny", ["y", "z"])
    assert model.input_dtypes == {"x": "float32", "ids": "int64"}
    assert model.inputs["x"].type == "tensor(float)"
    assert model.inputs["x"].shape == ["N", 4]
    assert model.inputs["ids"] is plain.inputs["ids"]
    assert bare(model) is plain


@pytest.mark.parametrize("io", TYPES)
@pytest.mark.parametrize("outputs", [["y"], ["z"], ["z", "y"], None])
def test_any_outputs_can_be_asked_for(io: str, outputs: list[str] | None) -> None:
    model = in_floats(session(doubled(io, rows(io))))
    everything = dict(zip(["y", "z"], model.run({"x": X, "ids": IDS}), strict=True))
    found = model.run({"x": X, "ids": IDS}, outputs)
    for name, array in zip(outputs or ["y", "z"], found, strict=True):
        np.testing.assert_array_equal(array, everything[name])


@pytest.mark.parametrize("io", TYPES)
def test_what_is_out_of_range_saturates_at_the_ends_of_the_type(io: str) -> None:
    """int8's -128 too: a port uses all of its type."""
    model = in_floats(session(doubled(io, rows(io))))
    fed = feed(model, {"x": np.array([[-1e9, 1e9, 0, -0.0]], np.float32), "ids": IDS})
    limits = np.iinfo(io)
    assert fed["x"].dtype == io
    np.testing.assert_array_equal(fed["x"], [[limits.min, limits.max, ZERO[io], ZERO[io]]])
    assert fed["ids"] is IDS


@pytest.mark.parametrize("io", TYPES)
def test_only_what_the_metadata_names_is_translated(io: str) -> None:
    only_x = {"x": rows(io)["x"]}
    model = in_floats(session(doubled(io, only_x)))
    y, z = model.run({"x": X, "ids": IDS})
    assert (y.dtype, z.dtype) == (np.dtype(io), np.float32)


@pytest.mark.parametrize("io", TYPES)
def test_without_metadata_the_session_is_itself(io: str) -> None:
    plain = session(doubled(io))
    assert in_floats(plain) is plain
    assert bare(plain) is plain
    fed = {"x": X, "ids": IDS}
    assert feed(plain, fed) == fed


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
    "a port that is not there": {**GOOD, "w": GOOD["x"]},
}


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG)
def test_metadata_that_says_what_is_not_so_is_refused_by_name(metadata: object) -> None:
    with pytest.raises(ModelError, match="tiny") as caught:
        in_floats(session(doubled("int8", metadata)))
    assert METADATA_KEY in caught.value.message


def test_what_has_no_session_behind_it_is_our_own_mistake() -> None:
    with pytest.raises(TypeError):
        bare(object())  # type: ignore[arg-type]
