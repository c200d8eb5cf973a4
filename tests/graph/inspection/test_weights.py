"""Constants that are weights, and others that look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qtool.graph.inspection.read import inspect_model
from tests.graph.inspection.graphs import contrib, integers, microsoft, scales
from tests.graphs import model, node, weights


def elements(made: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Elements by type: of the weights, of the other constants."""
    result = inspect_model(made)
    return (
        {k: t.elements for k, t in result.weights.items()},
        {k: t.elements for k, t in result.constants.items()},
    )


def one(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], *, opset: int = 21
) -> onnx.ModelProto:
    """x [2, 8] in, y out."""
    return model(nodes, {"x": [2, 8]}, {"y": [None, None]}, constants, opset=opset, ir_version=10)


# nodes, constants -> names of the weights among them
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], set[str]]] = {
    "shape of a Reshape": ([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([4, 4])}, set()),
    "a single number": ([node("Mul", ["x", "k"], ["y"])], {"k": np.full((1, 1), 2, np.float32)}, set()),
    "a factor an element": ([node("Mul", ["x", "k"], ["y"])], {"k": weights(8)}, {"k"}),
    "scales of a Resize": (
        [node("Resize", ["x", "", "k"], ["y"])], {"k": np.array([1, 2], np.float32)}, set(),
    ),
    "a mask of booleans": (
        [node("Where", ["m", "x", "k"], ["y"])], {"m": np.ones(8, bool), "k": weights(8)}, {"k"},
    ),
    "a table of int64": (
        [node("Gather", ["t", "i"], ["g"]), node("Cast", ["g"], ["f"], to=1), node("Mul", ["x", "f"], ["y"])],
        {"t": np.arange(8), "i": np.array(1)}, set(),
    ),
    "a weight behind a Transpose": (
        [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"])], {"w": weights(4, 8)}, {"w"},
    ),
    "a weight that nothing reads": ([node("Relu", ["x"], ["y"])], {"w": weights(4)}, set()),
    "16-bit weights": (
        [node("DequantizeLinear", ["w", "s"], ["d"], axis=1), node("MatMul", ["x", "d"], ["y"])],
        {"w": integers(8, 4, dtype=np.int16), "s": scales(4)}, {"w"},
    ),
    "a float weight quantized at load": (
        [node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=1), node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
         node("MatMul", ["x", "d"], ["y"])],
        {"w": weights(8, 4), "s": scales(4), "z": np.zeros(4, np.int8)}, {"w"},
    ),
    "scales of blocks": (
        [node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=4), node("MatMul", ["x", "d"], ["y"])],
        {"w": integers(8, 4), "s": scales(2, 4)}, {"w"},
    ),
    "stored with a zero point": (
        [node("Cast", ["w"], ["f"], to=1), node("Sub", ["f", "z"], ["c"]), node("Mul", ["c", "s"], ["d"]),
         node("MatMul", ["x", "d"], ["y"])],
        {"w": integers(8, 4, dtype=np.uint8), "z": weights(4), "s": scales(4)}, {"w"},
    ),
    "float16, restored": (
        [node("Cast", ["w"], ["f"], to=1), node("MatMul", ["x", "f"], ["y"])],
        {"w": weights(8, 4).astype(np.float16)}, {"w"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_recognized(case: str) -> None:
    nodes, constants, named = CASES[case]
    result, others = elements(one(nodes, constants))
    assert sum(result.values()) == sum(v.size for k, v in constants.items() if k in named)
    assert sum(others.values()) == sum(v.size for k, v in constants.items() if k not in named)


def test_a_scale_that_is_also_read_as_data_is_a_weight() -> None:
    """Whatever reads it so decides."""
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"], axis=1),
        node("MatMul", ["x", "d"], ["m"]),
        node("Add", ["m", "s"], ["y"]),
    ]
    assert elements(one(nodes, {"w": integers(8, 4), "s": scales(4)}))[0] == {"int8": 32, "float32": 4}


def test_a_shared_weight_counts_once() -> None:
    nodes = [node("Gemm", ["x", "w"], ["a"]), node("Gemm", ["a", "w"], ["y"])]
    assert elements(one(nodes, {"w": weights(8, 8)}))[0] == {"float32": 64}


def test_constants_in_attributes_count_like_initializers() -> None:
    numbers = [float(i) for i in range(8)]
    nodes = [
        node("Constant", [], ["k"], value_floats=numbers),
        node("Constant", [], ["s"], value_ints=[2, 8]),
        node("Constant", [], ["t"], value_strings=[b"a", b"b"]),
        node("Add", ["x", "k"], ["a"]),
        node("Reshape", ["a", "s"], ["y"]),
    ]
    assert elements(one(nodes, {})) == ({"float32": 8}, {"int64": 2})


@pytest.mark.parametrize(("bits", "name", "count"), [(2, "uint2", 512), (4, "uint4", 256), (8, "uint8", 128)])
def test_packed_rows_are_unpacked(bits: int, name: str, count: int) -> None:
    nodes = [contrib("GatherBlockQuantized", ["w", "i", "s"], ["y"], bits=bits, block_size=16)]
    constants = {"w": integers(4, 32, dtype=np.uint8), "i": np.array([1, 2]), "s": scales(4, 8)}
    made = microsoft(nodes, {"x": [2, 8]}, {"y": [2, 64]}, constants)
    result, others = elements(made)
    assert result == {name: count}
    assert others == {"int64": 2, "float32": 32}


def test_int4_of_onnx_is_counted_in_numbers_and_bytes() -> None:
    made = one(
        [node("DequantizeLinear", ["w", "s"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        {"s": np.float32(1), "w": np.zeros((8, 4), ml_dtypes.int4)},
    )
    row = inspect_model(made).weights["int4"]
    assert (row.bits, row.elements, row.bytes) == (4, 32, 16)


def test_string_constants_have_no_width() -> None:
    made = model(
        [node("Equal", ["x", "k"], ["e"]), node("Cast", ["e"], ["y"], to=1)],
        {"x": [2]},
        {"y": [2]},
        {"k": np.array(["a", "b"], object)},
        opset=19,
        input_type=TensorProto.STRING,
    )
    result = inspect_model(made)
    assert result.weights == {}
    assert result.constants["string"].bits == 0
