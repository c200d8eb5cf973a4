"""Calls of model-local functions become their bodies."""

from __future__ import annotations

import onnx
from onnx import helper

from qtool.graph.prepare.functions import inline_functions
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    ops,
    subgraph,
    value_info,
)
from tests.graphs import model, node, samples

OPSET = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def silu() -> onnx.FunctionProto:
    body = [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])]
    return helper.make_function("local", "Silu", ["a"], ["b"], body, OPSET)


def twice() -> onnx.FunctionProto:
    body = [
        helper.make_node("Silu", ["a"], ["s"], domain="local"),
        helper.make_node("Silu", ["s"], ["b"], domain="local"),
    ]
    return helper.make_function("local", "Twice", ["a"], ["b"], body, OPSET)


def leaky() -> onnx.FunctionProto:
    body = [helper.make_node("LeakyRelu", ["a"], ["b"])]
    body[0].attribute.append(
        onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    )
    return helper.make_function("local", "Leaky", ["a"], ["b"], body, OPSET, attributes=["slope"])


def net(nodes: list[onnx.NodeProto], *functions: onnx.FunctionProto) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value_info("x", (2, 3))], [value_info("y", (2, 3))])
    return helper.make_model(graph, opset_imports=OPSET, ir_version=8, functions=list(functions))


def call(name: str, source: str, result: str, **attributes: float) -> onnx.NodeProto:
    return helper.make_node(name, [source], [result], domain="local", name=f"call_{result}", **attributes)


def test_a_call_becomes_the_body() -> None:
    proto = net([call("Silu", "x", "y")], silu())
    made, note = applied(proto, inline_functions)
    assert ops(made) == ["Sigmoid", "Mul"]
    assert "1 functions" in note
    assert not made.functions
    assert_alike(proto, made)


def test_two_calls_are_inlined_with_unique_names() -> None:
    proto = net([call("Silu", "x", "h"), call("Silu", "h", "y")], silu())
    made, _ = applied(proto, inline_functions)
    assert ops(made) == ["Sigmoid", "Mul"] * 2
    values = [v.name for n in made.graph for v in n.outputs]
    assert len(set(values)) == len(values)
    assert_alike(proto, made)


def test_functions_in_functions_are_inlined_all_the_way() -> None:
    proto = net([call("Twice", "x", "y")], twice(), silu())
    made, _ = applied(proto, inline_functions)
    assert ops(made) == ["Sigmoid", "Mul"] * 2
    assert_alike(proto, made)


def test_attributes_of_a_call_reach_the_body() -> None:
    proto = net([call("Leaky", "x", "y", slope=0.3)], leaky())
    made, _ = applied(proto, inline_functions)
    assert ops(made) == ["LeakyRelu"]
    assert_alike(proto, made)


def test_a_call_in_a_branch_is_inlined_there() -> None:
    graph = helper.make_graph(
        [
            node(
                "If",
                ["pick"],
                ["y"],
                then_branch=subgraph([call("Silu", "x", "t")], {"t": (2, 3)}),
                else_branch=subgraph([node("Relu", ["x"], ["e"])], {"e": (2, 3)}),
            )
        ],
        "g",
        [value_info("pick", [], onnx.TensorProto.BOOL), value_info("x", (2, 3))],
        [value_info("y", (2, 3))],
    )
    proto = helper.make_model(graph, opset_imports=OPSET, ir_version=8, functions=[silu()])
    made, _ = applied(proto, inline_functions)
    assert not made.functions
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_unused_functions_are_removed() -> None:
    proto = net([node("Relu", ["x"], ["y"])], silu())
    made, note = applied(proto, inline_functions)
    assert note
    assert not made.functions
    assert_alike(proto, made)


def test_a_model_without_functions_stays() -> None:
    assert_untouched(model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"]), inline_functions)
