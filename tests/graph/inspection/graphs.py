"""Tiny quantized graphs, one a way of quantizing, and what is in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Shape, model, node, rng, weights

MICROSOFT = "com.microsoft"


def integers(*shape: int, dtype: type = np.int8, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(-100, 100, shape).astype(dtype)


def scales(*shape: int) -> np.ndarray:
    return np.full(shape, 0.01, np.float32)


def microsoft(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    """A model that uses onnxruntime's own ops too."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def contrib(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return node(op, inputs, outputs, domain=MICROSOFT, **attributes)


def plain() -> onnx.ModelProto:
    """x [N, 8] -> Gemm with w [4, 8] and b [4] -> Relu, all in float32."""
    return model(
        [node("Gemm", ["x", "w", "b"], ["g"], transB=1), node("Relu", ["g"], ["y"])],
        {"x": ["N", 8]},
        {"y": ["N", 4]},
        {"w": weights(4, 8), "b": weights(4, seed=1)},
    )


def qdq() -> onnx.ModelProto:
    """Conv and Relu between DQ and Q, then a float Sigmoid."""
    return model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
            node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
            node("Conv", ["xd", "wd", "bd"], ["c"], kernel_shape=[1, 1]),
            node("Relu", ["c"], ["r"]),
            node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
            node("DequantizeLinear", ["rq", "s", "z"], ["rd"]),
            node("Sigmoid", ["rd"], ["y"]),
        ],
        {"x": [1, 8, 4, 4]},
        {"y": [1, 4, 4, 4]},
        {
            "s": np.float32(0.1),
            "z": np.uint8(128),
            "w": integers(4, 8, 1, 1),
            "ws": scales(4),
            "wz": np.zeros(4, np.int8),
            "b": integers(4, dtype=np.int32),
            "bs": scales(4),
        },
    )


def qoperator() -> onnx.ModelProto:
    """Q -> QLinearConv with bias -> QLinearAdd of onnxruntime -> MaxPool on uint8 -> DQ."""
    return microsoft(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            node("QLinearConv", ["xq", "s", "z", "w", "ws", "wz", "s", "z", "b"], ["c"], kernel_shape=[1, 1]),
            contrib("QLinearAdd", ["c", "s", "z", "k", "s", "z", "s", "z"], ["a"]),
            node("MaxPool", ["a"], ["p"], kernel_shape=[1, 1]),
            node("DequantizeLinear", ["p", "s", "z"], ["y"]),
        ],
        {"x": [1, 8, 4, 4]},
        {"y": [1, 4, 4, 4]},
        {
            "s": np.float32(0.1),
            "z": np.uint8(128),
            "w": integers(4, 8, 1, 1),
            "ws": scales(4),
            "wz": np.zeros(4, np.int8),
            "b": integers(4, dtype=np.int32),
            "k": np.full((1, 4, 1, 1), 9, np.uint8),
        },
    )


def dynamic() -> onnx.ModelProto:
    """DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul, with a scale a channel; then a float Add."""
    return model(
        [
            node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            node("MatMulInteger", ["xq", "w", "xz", "wz"], ["m"]),
            node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["xs", "ws"], ["s"]),
            node("Mul", ["f", "s"], ["r"]),
            node("Add", ["r", "b"], ["y"]),
        ],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {"w": integers(8, 4), "wz": np.zeros(4, np.int8), "ws": scales(4), "b": weights(4)},
    )


def sums() -> onnx.ModelProto:
    """Q -> MatMulInteger -> Add of an int32 bias -> Cast -> Mul by a constant: static, in ONNX's own ops."""
    return model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            node("MatMulInteger", ["xq", "w", "z"], ["m"]),
            node("Add", ["m", "b"], ["a"]),
            node("Cast", ["a"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "ws"], ["y"]),
        ],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {
            "s": np.float32(0.1),
            "z": np.uint8(128),
            "w": integers(8, 4),
            "b": integers(4, dtype=np.int32),
            "ws": scales(4),
        },
    )


def lookup() -> onnx.ModelProto:
    """Rows of an int8 table, times rows of a table of scales."""
    return model(
        [
            node("Gather", ["w", "x"], ["g"]),
            node("Gather", ["ws", "x"], ["gs"]),
            node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "gs"], ["y"]),
        ],
        {"x": [3]},
        {"y": [3, 8]},
        {"w": integers(100, 8), "ws": scales(100, 1)},
        input_type=TensorProto.INT64,
    )


def stored() -> onnx.ModelProto:
    """A float MatMul whose weight is int8 -> Cast -> Mul -> Reshape, a scale a block of 4 rows."""
    return model(
        [
            node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "ws"], ["r"]),
            node("Reshape", ["r", "shape"], ["wd"]),
            node("MatMul", ["x", "wd"], ["y"]),
        ],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {"w": integers(2, 4, 4), "ws": scales(2, 1, 4), "shape": np.array([8, 4])},
    )


def weight_only() -> onnx.ModelProto:
    """A float MatMul whose weight is int8 -> DequantizeLinear -> Transpose."""
    return model(
        [
            node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
            node("Transpose", ["wd"], ["wt"], perm=[1, 0]),
            node("MatMul", ["x", "wt"], ["y"]),
        ],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {"w": integers(4, 8), "ws": scales(4)},
    )


def blocks_of_4_bits() -> onnx.ModelProto:
    """MatMulNBits: N = 4, K = 40, so that the second block of 32 is filled up."""
    return microsoft(
        [
            contrib("MatMulNBits", ["x", "w", "ws"], ["m"], N=4, K=40, bits=4, block_size=32),
            node("Relu", ["m"], ["y"]),
        ],
        {"x": [2, 40]},
        {"y": [2, 4]},
        {"w": integers(4, 2, 16, dtype=np.uint8), "ws": scales(4, 2)},
    )


def embedding() -> onnx.ModelProto:
    """Rows of an int8 table, restored after the Gather."""
    return model(
        [
            node("Gather", ["w", "x"], ["g"]),
            node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "ws"], ["y"]),
        ],
        {"x": [3]},
        {"y": [3, 8]},
        {"w": integers(100, 8), "ws": np.float32(0.01)},
        input_type=TensorProto.INT64,
    )


def lstm() -> onnx.ModelProto:
    """onnxruntime's LSTM with int8 weights."""
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    return microsoft(
        [contrib("DynamicQuantizeLSTM", names, ["y"], hidden_size=4)],
        {"x": [5, 1, 8]},
        {"y": [5, 1, 1, 4]},
        {
            "w": integers(1, 8, 16),
            "r": integers(1, 4, 16),
            "b": weights(1, 32),
            "ws": scales(1, 16),
            "wz": np.zeros((1, 16), np.int8),
            "rs": scales(1, 16),
            "rz": np.zeros((1, 16), np.int8),
        },
    )


def half() -> onnx.ModelProto:
    """Casts at the borders, float16 between them."""
    return model(
        [
            node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            node("MatMul", ["h", "w"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
        ],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {"w": weights(8, 4).astype(np.float16)},
    )


QUANTIZED: dict[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made
    for made in (
        qdq,
        qoperator,
        dynamic,
        sums,
        lookup,
        stored,
        weight_only,
        blocks_of_4_bits,
        embedding,
        lstm,
        half,
    )
}
