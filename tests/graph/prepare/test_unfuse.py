"""Fused products that onnxruntime's optimizers save become the standard ops that they came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qtool.graph.prepare.unfuse import unfuse_products
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graphs import Shape, node, weights


def fused(
    op: str,
    inputs: Mapping[str, Shape],
    constants: Mapping[str, np.ndarray],
    out: Shape,
    **attributes: object,
) -> onnx.ModelProto:
    """The op on all inputs and constants, in that order."""
    graph = helper.make_graph(
        [node(op, [*inputs, *constants], ["y"], domain="com.microsoft", **attributes)],
        "g",
        [helper.make_tensor_value_info(k, 1, list(v)) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", 1, list(out))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("attributes", "weight"),
    [
        ({}, (4, 5)),
        ({"alpha": 0.5}, (4, 5)),
        ({"transB": 1, "alpha": 2.0}, (5, 4)),
        ({"transB": 1}, (3, 5, 4)),
    ],
    ids=str,
)
def test_a_fused_matmul_is_a_matmul(attributes: dict[str, object], weight: tuple[int, ...]) -> None:
    proto = fused("FusedMatMul", {"x": (3, 2, 4)}, {"w": weights(*weight)}, (3, 2, 5), **attributes)
    made, note = applied(proto, unfuse_products)
    assert ops(made) == ["MatMul"]
    assert "1 fused" in note
    assert_alike(proto, made)


def test_a_fused_matmul_with_a_transposed_input_stays() -> None:
    proto = fused("FusedMatMul", {"x": (4, 2)}, {"w": weights(4, 5)}, (2, 5), transA=1)
    assert_untouched(proto, unfuse_products)


@pytest.mark.parametrize(
    ("attributes", "left"),
    [
        ({"activation": "Relu"}, ["Gemm", "Relu"]),
        ({"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1}, ["Gemm", "LeakyRelu"]),
        (
            {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4},
            ["Gemm", "HardSigmoid"],
        ),
    ],
    ids=str,
)
def test_a_fused_gemm_is_a_gemm_and_its_activation(attributes: dict[str, object], left: list[str]) -> None:
    shape = (5, 4) if "transB" in attributes else (4, 5)
    proto = fused("FusedGemm", {"x": (2, 4)}, {"w": weights(*shape), "b": weights(5)}, (2, 5), **attributes)
    made, _ = applied(proto, unfuse_products)
    assert ops(made) == left
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("attributes", "added", "left"),
    [
        ({"activation": "Relu"}, False, ["Relu"]),
        ({"activation": "LeakyRelu", "activation_params": [0.2]}, False, ["LeakyRelu"]),
        ({"activation": "Clip", "activation_params": [-0.1, 0.2]}, False, ["Clip"]),
        ({"activation": "Relu"}, True, ["Add", "Relu"]),
        ({}, True, ["Add"]),
    ],
    ids=str,
)
def test_a_fused_conv_is_a_conv_with_what_follows(
    attributes: dict[str, object], added: bool, left: list[str]
) -> None:
    proto = fused("FusedConv", {"x": (1, 3, 6, 6)}, {"w": weights(3, 3, 3, 3), "b": weights(3)}, (1, 3, 6, 6), pads=[1] * 4, **attributes)  # fmt: skip
    if added:
        proto.graph.node[0].input.append("z")
        proto.graph.input.append(helper.make_tensor_value_info("z", 1, [1, 3, 6, 6]))
    made, _ = applied(proto, unfuse_products)
    assert ops(made) == ["Conv", *left]
    assert_alike(proto, made)


def test_an_activation_that_is_not_known_stays() -> None:
    proto = fused("FusedGemm", {"x": (2, 4)}, {"w": weights(4, 5)}, (2, 5), activation="Elu")
    assert_untouched(proto, unfuse_products)
