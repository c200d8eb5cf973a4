"""An int8 product with a float result runs in int8 for all kinds of consumers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from qtool.plan.model import EditKind, Plan
from tests.exact import exact, exact_products
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.rewrite.flow import ran, run, sqnr, write
from tests.tiers import in_turn

PRODUCTS = {
    "Gemm": [node("Gemm", ["x", "w", "b"], ["g"], name="first")],
    "MatMul": [node("MatMul", ["x", "w"], ["g"], name="first")],
    "MatMul+Add": [node("MatMul", ["x", "w"], ["m"], name="first"), node("Add", ["m", "b"], ["g"])],
}
CLIP = node("Clip", ["g", "zero", "six"], ["r"])
RELU = node("Relu", ["g"], ["r"])
SECOND = node("Gemm", ["g", "v", "d"], ["y"], name="second")
# Readers -> (nodes, outputs, whether a barrier is needed).
READERS: dict[str, tuple[list[onnx.NodeProto], list[str], bool]] = {
    "a clamp with one float reader": ([RELU, node("Softmax", ["r"], ["y"])], ["y"], True),
    "a Clip with one float reader": ([CLIP, node("Softmax", ["r"], ["y"])], ["y"], True),
    "an output and a clamp with a float reader": ([RELU, node("Softmax", ["r"], ["y"])], ["y", "g"], True),
    "a clamp and two moves, then floats": ([RELU, node("Reshape", ["r", "flat"], ["f"]), node("Softmax", ["f"], ["y"])], ["y"], True),
    "a clamp that is an output": ([RELU], ["r"], False),
    "a clamp with two float readers": ([RELU, node("Softmax", ["r"], ["y"]), node("Sigmoid", ["r"], ["z"])], ["y", "z"], False),
    "a clamp and a float op": ([RELU, node("Softmax", ["r"], ["y"]), node("Sigmoid", ["g"], ["z"])], ["y", "z"], False),
    "int8 and a float op": ([SECOND, node("Sigmoid", ["g"], ["z"])], ["y", "z"], True),
    "int8, and it is an output": ([SECOND], ["y", "g"], True),
    "int8 behind a clamp, and a float op": ([RELU, node("Gemm", ["r", "v", "d"], ["y"]), node("Sigmoid", ["g"], ["z"])], ["y", "z"], True),
    "int8 behind a clamp and beside it": ([RELU, node("Gemm", ["r", "v", "d"], ["y"]), node("MatMul", ["g", "v"], ["z"])], ["y", "z"], False),
    "int8 behind a clamp and a move": ([RELU, node("Transpose", ["r"], ["t"]), node("Gemm", ["t", "u"], ["y"])], ["y"], False),
    "int8 behind a move, and a float op": ([node("Transpose", ["g"], ["t"]), node("Gemm", ["t", "u"], ["y"]), node("Sigmoid", ["g"], ["z"])], ["y", "z"], True),
    "int8 and floats behind a clamp": ([RELU, node("Gemm", ["r", "v", "d"], ["y"]), node("Softmax", ["r"], ["z"])], ["y", "z"], False),
    "int8 alone": ([SECOND], ["y"], False),
    "two in int8": ([SECOND, node("MatMul", ["g", "v"], ["z"])], ["y", "z"], False),
    "a float op": ([node("Sigmoid", ["g"], ["y"])], ["y"], False),
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "w": weights(32, 32),
    "b": weights(32, seed=1),
    "v": weights(32, 32, seed=2),
    "d": weights(32, seed=3),
    "u": weights(24, 40, seed=4),
    "zero": np.float32(0),
    "six": np.float32(6),
    "flat": np.asarray([-1, 64]),
}


def _model(product: str, readers: str) -> onnx.ModelProto:
    nodes, outputs, _ = READERS[readers]
    every = [*PRODUCTS[product], *nodes]
    used = {i for n in every for i in n.input}
    return model(every, {"x": [24, 32]}, outputs, {k: v for k, v in CONSTANTS.items() if k in used})


def _barriers(plan: Plan) -> list[str]:
    return [e.value for e in plan.edits if e.kind is EditKind.RESULT_BARRIER]


@pytest.mark.parametrize(("readers", "product"), in_turn(READERS, PRODUCTS))
def test_products_with_float_output_are_fused(readers: str, product: str) -> None:
    proto, data = _model(product, readers), samples(4, x=(24, 32))
    result = write(proto, data, "cpu")
    executed = ran(result.data)
    assert not executed.keys() & {"Gemm", "FusedGemm", "MatMul"}, executed
    assert bool(_barriers(result.plan)) == READERS[readers][2]
    expected = run(proto, data)
    for optimize in (True, False):
        assert sqnr(expected, run(result.data, data, optimize)) >= 30 or not exact()


@pytest.mark.parametrize("readers", ["a clamp with one float reader", "int8 and a float op"])
def test_other_runtimes_need_no_barrier(readers: str) -> None:
    assert not _barriers(write(_model("Gemm", readers), samples(4, x=(24, 32)), "generic").plan)


POOLS = {
    "AveragePool": node("AveragePool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "Softmax": node("Softmax", ["a"], ["p"], axis=1),
}


@pytest.mark.parametrize("op", POOLS)
@exact_products
def test_the_runtime_does_not_run_slow_ops_in_int8(op: str) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        POOLS[op],
        node("Conv", ["p", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {"w": weights(16, 16, 3, 3), "v": weights(16, 16, 3, 3, seed=1)}
    proto = model(nodes, {"x": [1, 16, 8, 8]}, ["y"], constants)
    data = samples(4, x=(1, 16, 8, 8))
    result = write(proto, data, "cpu")
    executed = ran(result.data)
    assert executed["QLinearConv"] == 2
    assert executed[op] == 1
    assert sqnr(run(proto, data), run(result.data, data)) >= 30
