"""Questions about a graph get the answers that the ONNX specification gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.load import from_proto
from qtool.graph.view import (
    View,
    attribute_float,
    attribute_int,
    constant,
    float_constant,
    op_key,
    opset_of,
    rank,
    sole_consumer,
)
from tests.graph.prepare.alike import graph_with_if, subgraph, value_info
from tests.graphs import model, node, weights


def values(proto: onnx.ModelProto) -> dict[str, ir.Value]:
    return View(from_proto(proto)).values


def test_every_node_and_value_of_every_graph_is_in_the_index() -> None:
    proto = graph_with_if(
        [node("Relu", ["x"], ["h"])],
        subgraph([node("Add", ["h", "k"], ["t"])], {"t": (2, 3)}, {"k": np.float32(1)}),
        subgraph([node("Tanh", ["h"], ["e"])], {"e": (2, 3)}),
        {"x": (2, 3)},
        (2, 3),
    )
    view = View(from_proto(proto))
    assert set(view.values) == {"pick", "x", "h", "k", "t", "e", "y"}
    assert set(view.node_by_name) == {"Relu_h", "Add_t", "Tanh_e", "choose"}
    assert [n.name for n in view.main_nodes] == ["Relu_h", "choose"]
    assert {n.name for n in view.nodes if view.in_subgraph(n)} == {"Add_t", "Tanh_e"}


def test_only_an_initializer_is_a_constant() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (2, 3)},
        ["y"],
        {"w": weights(3, 4)},
    )
    result = values(proto)
    np.testing.assert_array_equal(constant(result["w"]), weights(3, 4))
    assert [constant(result[name]) for name in ("x", "h", "y")] == [None] * 3
    assert constant(None) is None
    assert float_constant(None) is None


def test_overridable_initializers_are_not_constants() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": weights(3, 4)})
    proto.graph.input.append(value_info("w", (3, 4)))
    result = values(proto)
    assert constant(result["w"]) is None
    assert float_constant(result["w"]) is None


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_only_float32_is_a_float_constant(dtype: str) -> None:
    graph = onnx.helper.make_graph(
        [node("Identity", ["w"], ["y"])],
        "g",
        [],
        [value_info("y", (2,), onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))],
        [onnx.numpy_helper.from_array(np.ones(2, dtype), "w")],
    )
    result = values(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]))
    assert constant(result["w"]).dtype == dtype
    assert float_constant(result["w"]) is None


@pytest.mark.parametrize(
    ("nodes", "outputs", "alone"),
    [
        ([node("Relu", ["h"], ["y"])], ["y"], True),
        ([node("Relu", ["h"], ["y"]), node("Tanh", ["h"], ["z"])], ["y", "z"], False),
        ([node("Add", ["h", "h"], ["y"])], ["y"], False),
        ([node("Relu", ["h"], ["y"])], ["y", "h"], False),
    ],
    ids=["one-reader", "two-readers", "read-twice", "an-output"],
)
def test_a_sole_consumer_is_the_only_reader_of_any_kind(
    nodes: list[onnx.NodeProto], outputs: list[str], alone: bool
) -> None:
    proto = model([node("Sigmoid", ["x"], ["h"]), *nodes], {"x": (2, 3)}, outputs)
    result = sole_consumer(values(proto)["h"])
    assert (result is not None) == alone
    assert result is None or result.name == "Relu_y"


def test_attributes_have_their_defaults() -> None:
    graph = from_proto(
        model(
            [node("Gemm", ["x", "w"], ["y"], alpha=0.5, transB=1)], {"x": (2, 3)}, ["y"], {"w": weights(4, 3)}
        )
    ).graph
    assert attribute_float(graph[0], "alpha", 1.0) == 0.5
    assert attribute_float(graph[0], "beta", 1.0) == 1.0
    assert attribute_int(graph[0], "transB", 0) == 1
    assert attribute_int(graph[0], "transA", 0) == 0


def test_a_rank_is_known_or_none() -> None:
    result = values(model([node("Relu", ["x"], ["y"])], {"x": ("n", 3)}, {"y": ("n", 3)}))
    assert rank(result["x"]) == 2
    assert rank(None) is None


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_standard_domain_has_two_names(domain: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"])
    proto.opset_import[0].domain = domain
    assert opset_of(from_proto(proto)) == 17
    proto.graph.node[0].domain = domain
    assert op_key(from_proto(proto).graph[0]) == "Relu"


def test_another_domain_is_shown() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"])
    proto.graph.node[0].domain = "com.microsoft"
    assert op_key(from_proto(proto).graph[0]) == "com.microsoft::Relu"
