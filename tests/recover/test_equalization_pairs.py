"""Equalization pairs: where factors can move from layer to layer, and where not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from qtool.recover.equalization_pairs import EqualizationPair, find_pairs
from tests.graphs import node, rng, weights
from tests.plan.build import model
from tests.plan.flow import ready
from tests.recover.layers import FED, WIDTH, convs, linear

VECTOR = {"v": rng(4).uniform(0.5, 2, WIDTH).astype(np.float32)}
NORM = {**VECTOR, "u": weights(WIDTH, seed=5)}


def found_in(proto: onnx.ModelProto) -> list[EqualizationPair]:
    job = ready(proto)
    return find_pairs(job.view, job.view.values.keys())


def only_pair(proto: onnx.ModelProto) -> EqualizationPair:
    (pair,) = found_in(proto)
    return pair


THROUGH = {
    "nothing": ([], ("w0", "b0")),
    "relu": ([node("Relu", ["a"], ["h"])], ("w0", "b0")),
    "leaky relu": ([node("LeakyRelu", ["a"], ["h"])], ("w0", "b0")),
    "vector": ([node("Relu", ["a"], ["r"]), node("Mul", ["r", "v"], ["h"])], ("v",)),
    "added": (
        [node("Relu", ["a"], ["r"]), node("Add", ["r", "v"], ["i"]), node("Relu", ["i"], ["h"])],
        ("v", "w0", "b0"),
    ),
    "layer norm": ([node("LayerNormalization", ["a", "v", "u"], ["h"])], ("v", "u")),
    "layer norm of no bias": ([node("LayerNormalization", ["a", "v"], ["h"])], ("v",)),
    "gate": (
        [node("MatMul", ["x", "g"], ["b"]), node("Sigmoid", ["b"], ["s"]), node("Mul", ["b", "s"], ["z"]),
         node("Mul", ["z", "a"], ["h"])],
        ("w0", "b0"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("between", THROUGH)
def test_positive_factors_pass(between: str) -> None:
    nodes, before = THROUGH[between]
    pair = only_pair(linear(nodes, {**NORM, "g": weights(FED, WIDTH, seed=7)}))
    assert {name for name, _ in pair.before} == set(before)
    assert [name for _, (name, _) in pair.after] == ["w1"]
    assert (pair.channels, pair.axis) == (WIDTH, 1)
    assert pair.after_norm == ("w0" not in before)


NOT_THROUGH: dict[str, Sequence[onnx.NodeProto]] = {
    "sigmoid": [node("Sigmoid", ["a"], ["h"])],
    "tanh": [node("Tanh", ["a"], ["h"])],
    "gelu": [node("Erf", ["a"], ["e"]), node("Mul", ["a", "e"], ["h"])],
    "clip": [node("Clip", ["a", "zero", "six"], ["h"])],
    "softmax": [node("Softmax", ["a"], ["h"])],
    "silu": [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["h"])],
    "square": [node("Mul", ["a", "a"], ["h"])],
    "residual": [node("MatMul", ["x", "g"], ["b"]), node("Add", ["a", "b"], ["h"])],
    "scalar": [node("Relu", ["a"], ["r"]), node("Add", ["r", "six"], ["h"])],
    "transposed twice": [node("Transpose", ["a"], ["t"], perm=[1, 0]), node("Transpose", ["t"], ["k"], perm=[1, 0]), node("Neg", ["k"], ["h"])],
}  # fmt: skip


@pytest.mark.parametrize("between", NOT_THROUGH)
def test_ops_that_do_not_pass_factors_make_no_pair(between: str) -> None:
    constants = {
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "g": weights(FED, WIDTH, seed=7),
    }
    assert found_in(linear(NOT_THROUGH[between], constants)) == []


def test_outputs_are_not_pairs() -> None:
    assert found_in(linear(outputs=["y", "h"])) == []
    assert found_in(linear([node("Relu", ["a"], ["h"])], outputs=["y", "a"])) == []


def test_values_with_another_consumer_are_not_pairs() -> None:
    relu = [node("Relu", ["a"], ["h"])]
    assert found_in(linear(relu, after=[node("Exp", ["h"], ["z"])], outputs=["y", "z"])) == []
    assert found_in(linear(relu, after=[node("Exp", ["a"], ["z"])], outputs=["y", "z"])) == []


@pytest.mark.parametrize("shared", ["w0", "w1", "b0"])
def test_shared_constants_are_not_pairs(shared: str) -> None:
    relu = [node("Relu", ["a"], ["h"])]
    assert len(found_in(linear(relu))) == 1
    total = node("ReduceSum", ["y"], ["total"], keepdims=0)
    after = [total, node("Mul", [shared, "total"], ["z"])]
    assert found_in(linear(relu, after=after, outputs=["y", "z"])) == []


@pytest.mark.parametrize("constant", ["w0", "w1", "b0"])
def test_constants_that_are_outputs_are_not_pairs(constant: str) -> None:
    proto = linear([node("Relu", ["a"], ["h"])])
    (shape,) = (list(t.dims) for t in proto.graph.initializer if t.name == constant)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(constant, onnx.TensorProto.FLOAT, shape))
    assert found_in(proto) == []


def test_all_consumers_of_a_value_take_part() -> None:
    more = [node("Gemm", ["h", "w2"], ["z"], transB=1)]
    pair = only_pair(
        linear([node("Relu", ["a"], ["h"])], {"w2": weights(9, WIDTH, seed=6)}, ["y", "z"], after=more)
    )
    assert pair.after == (("MatMul_y", ("w1", 0)), ("Gemm_z", ("w2", 1)))


POOLS = {
    "max": node("MaxPool", ["a"], ["h"], kernel_shape=[2, 2]),
    "average": node("AveragePool", ["a"], ["h"], kernel_shape=[2, 2]),
    "global": node("GlobalAveragePool", ["a"], ["h"]),
    "global max": node("GlobalMaxPool", ["a"], ["h"]),
}


@pytest.mark.parametrize("pool", POOLS)
def test_pools_pass_factors_of_channels(pool: str) -> None:
    pair = only_pair(convs([POOLS[pool]]))
    assert (pair.before, pair.axis) == ((("w0", 0), ("b0", -1)), 1)
    assert pair.after[0][1] == ("w1", 1)


def test_depthwise_convolutions_are_after_one_pair_and_before_another() -> None:
    between = [node("Conv", ["a", "d", "e"], ["f"], group=WIDTH), node("Relu", ["f"], ["h"])]
    constants = {"d": weights(WIDTH, 1, 3, 3, seed=3), "e": weights(WIDTH, seed=4)}
    first, second = found_in(convs(between, constants))
    assert (first.after[0][1], second.before) == (("d", 0), (("d", 0), ("e", -1)))
    assert second.after[0][1] == ("w1", 1)


def test_grouped_convolutions_are_in_no_pair() -> None:
    assert found_in(convs(constants={"w1": weights(12, WIDTH // 4, 1, 1, seed=2)}, group=4)) == []


def test_transposed_convolutions_read_and_make() -> None:
    between = [node("Relu", ["a"], ["r"]), node("ConvTranspose", ["r", "t"], ["u"], strides=[2, 2]), node("Relu", ["u"], ["h"])]  # fmt: skip
    first, second = found_in(convs(between, {"t": weights(WIDTH, WIDTH, 2, 2, seed=3)}))
    assert (first.after[0][1], second.before) == (("t", 0), (("t", 1),))


def test_only_named_values_are_searched() -> None:
    job = ready(linear([node("Relu", ["a"], ["h"])]))
    assert find_pairs(job.view, ["x", "a", "y"]) == []
    assert [j.value for j in find_pairs(job.view, ["h"])] == ["h"]


def test_values_used_in_branches_are_not_pairs() -> None:
    def branch(name: str) -> onnx.GraphProto:
        w = onnx.numpy_helper.from_array(weights(WIDTH, 12, seed=3), f"{name}_w")
        made = [onnx.helper.make_node("MatMul", ["h", f"{name}_w"], [f"{name}_y"], name=name)]
        result = onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph(made, name, [], [result], [w])

    proto = model(
        [
            node("MatMul", ["x", "w0"], ["h"]),
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=branch("yes"), else_branch=branch("no")),
        ],
        {"x": ["N", FED]}, ["y"], {"w0": weights(FED, WIDTH), "zero": np.array(0, np.float32)},
    )  # fmt: skip
    assert found_in(proto) == []
