"""Computing in integers, and computing in floats."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qtool.graph.inspection.read import inspect_model
from tests.graph.inspection.graphs import contrib, integers, microsoft, scales
from tests.graphs import model, node, weights

Q = {"s": np.float32(0.1), "z": np.uint8(128)}
WEIGHT = {"w": integers(8, 8), "ws": scales(8)}


def q(source: str, name: str) -> onnx.NodeProto:
    return node("QuantizeLinear", [source, "s", "z"], [name])


def dq(source: str, name: str) -> onnx.NodeProto:
    return node("DequantizeLinear", [source, "s", "z"], [name])


IN = [q("x", "xq"), dq("xq", "xd")]
OUT = [q("r", "rq"), dq("rq", "y")]
WD = [node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1)]

# nodes, constants -> what each op computes in
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], dict[str, str]]] = {
    "between": ([*IN, *WD, node("MatMul", ["xd", "wd"], ["r"]), *OUT], WEIGHT, {"MatMul": "int8"}),
    "a product with a float result": ([*IN, *WD, node("MatMul", ["xd", "wd"], ["y"])], WEIGHT, {"MatMul": "int8"}),
    "another op with a float result": ([*IN, node("Sigmoid", ["xd"], ["y"])], {}, {"Sigmoid": "float32"}),
    "only the weight": ([*WD, node("MatMul", ["x", "wd"], ["r"]), *OUT], WEIGHT, {"MatMul": "float32"}),
    "only the activation": (
        [*IN, node("MatMul", ["xd", "f"], ["r"]), *OUT], {"f": weights(8, 8)}, {"MatMul": "float32"},
    ),
    "a constant that is not quantized": (
        [*IN, node("Add", ["xd", "f"], ["r"]), *OUT], {"f": weights(8)}, {"Add": "float32"},
    ),
    "a clamp before the Q": (
        [*IN, *WD, node("Gemm", ["xd", "wd"], ["m"]), node("Relu", ["m"], ["r"]), *OUT],
        WEIGHT, {"Gemm": "int8", "Relu": "int8"},
    ),
    "a clamp that others read too": (
        [*IN, node("Add", ["xd", "xd"], ["m"]), node("Relu", ["m"], ["r"]), q("r", "rq"), dq("rq", "r2"),
         node("Add", ["m", "r2"], ["y"])],
        {}, {"Add": "float32", "Relu": "float32"},
    ),
    "something else before the Q": (
        [*IN, node("Add", ["xd", "xd"], ["m"]), node("Max", ["m", "f"], ["r"]), *OUT],
        {"f": np.float32(-3e38)}, {"Add": "float32", "Max": "float32"},
    ),
    "moves before the Q": (
        [*IN, node("Add", ["xd", "xd"], ["m"]), node("Transpose", ["m"], ["r"]), *OUT],
        {}, {"Add": "int8", "Transpose": "float32"},
    ),
    "moves behind the DQ of a weight": (
        [*IN, *WD, node("Transpose", ["wd"], ["wt"]), node("MatMul", ["xd", "wt"], ["r"]), *OUT],
        WEIGHT, {"MatMul": "int8", "Transpose": "constant"},
    ),
    "a bound that is a float constant": (
        [*IN, node("Clip", ["xd", "lo"], ["r"]), *OUT], {"lo": np.float32(0)}, {"Clip": "int8"},
    ),
    "a result that is read in float as well": (
        [*IN, node("Sigmoid", ["xd"], ["r"]), q("r", "rq"), dq("rq", "d"), node("Sub", ["r", "d"], ["y"])],
        {}, {"Sigmoid": "float32", "Sub": "float32"},
    ),
    "a result that is an output": ([*IN, node("Sigmoid", ["xd"], ["y"]), q("y", "rq")], {}, {"Sigmoid": "float32"}),
    "shapes and indices": (
        [node("Shape", ["x"], ["n"]), node("Reshape", ["x", "n"], ["y"])], {}, {"Shape": "other", "Reshape": "float32"},
    ),
    "randomness is no constant": (
        [node("RandomNormal", [], ["r"], shape=[8]), node("Add", ["x", "r"], ["y"])],
        {}, {"RandomNormal": "float32", "Add": "float32"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_each_op_computes_in(case: str) -> None:
    nodes, constants, wanted = CASES[case]
    made = model(nodes, {"x": [8, 8]}, {"y": [8, 8]}, {**Q, **constants})
    result = inspect_model(made)
    for op, kind in wanted.items():
        assert set(result.ops[op].computes) == {kind}, op


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.int8, "int8"), (np.uint16, "int16")], ids=["8 bits", "16 bits"]
)
def test_the_activations_say_how_wide(dtype: type, kind: str) -> None:
    made = model(
        [*IN, *WD, node("MatMul", ["xd", "wd"], ["r"]), *OUT],
        {"x": [8, 8]},
        {"y": [8, 8]},
        {**Q, "z": np.zeros((), dtype), **WEIGHT},
        opset=21,
        ir_version=10,
    )
    assert inspect_model(made).ops["MatMul"].computes == {kind: 1}


@pytest.mark.parametrize(("level", "kind"), [(0, "float32"), (4, "int8")])
def test_blocked_weights_compute_as_exactly_as_the_node_says(level: int, kind: str) -> None:
    names = {"N": 4, "K": 32, "bits": 4, "block_size": 32, "accuracy_level": level}
    made = microsoft(
        [contrib("MatMulNBits", ["x", "w", "ws"], ["y"], **names)],
        {"x": [2, 32]},
        {"y": [2, 4]},
        {"w": integers(4, 1, 16, dtype=np.uint8), "ws": scales(4, 1)},
    )
    result = inspect_model(made)
    assert result.ops["com.microsoft::MatMulNBits"].computes == {kind: 1}
    assert result.forms == ("weight-only",)
    assert result.stored == (kind == "float32")


def test_types_go_through_ops_of_unknown_domains() -> None:
    made = microsoft(
        [
            node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            contrib("NoSuchOp", ["h"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": [2, 8]},
        {"y": [2, 8]},
        {},
    )
    assert inspect_model(made).computes == {"float16": 2, "convert": 2}


def test_loops_and_scans_hand_on_the_types_of_their_bodies() -> None:
    body = onnx.helper.make_graph(
        [node("Cast", ["v"], ["h"], to=TensorProto.FLOAT16), node("Identity", ["c"], ["c2"]), node("Add", ["v", "v"], ["v2"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v", TensorProto.FLOAT, [2]),
        ],
        [
            onnx.helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v2", TensorProto.FLOAT, [2]),
            onnx.helper.make_tensor_value_info("h", TensorProto.FLOAT16, [2]),
        ],
    )  # fmt: skip
    made = model(
        [
            node("Loop", ["n", "", "x"], ["a", "b"], body=body),
            node("Relu", ["a"], ["r"]),
            node("Relu", ["b"], ["y"]),
        ],
        {"x": [2]},
        {"r": [2]},
        {"n": np.array(3)},
    )
    result = inspect_model(made)
    assert result.ops["Relu"].computes == {"float16": 1, "float32": 1}
