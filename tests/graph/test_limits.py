"""Limits on nodes, depth, names and inlined functions, checked before a model is opened."""

from __future__ import annotations

from itertools import pairwise

import onnx
import onnx_ir.passes.common as common
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qtool.errors import ModelError
from qtool.graph import limits as gate
from qtool.graph.limits import LIMITS, survey
from qtool.graph.load import from_model, from_proto
from tests.graphs import model, node

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def calling(calls: list[list[int]]) -> onnx.ModelProto:
    """A model that calls function 0; function i is a Relu, then a call of each of calls[i]."""
    proto = model([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    proto.opset_import.append(OPSETS[1])
    proto.graph.node[0].CopyFrom(node("F0", ["x"], ["y"], domain="local"))
    for number, callees in enumerate(calls):
        names = ["a", *(f"t{i}" for i in range(len(callees))), "b"]
        ops = ["Relu", *(f"F{c}" for c in callees)]
        nodes = [
            node(op, [x], [y], domain="local" if op != "Relu" else "")
            for op, (x, y) in zip(ops, pairwise(names), strict=True)
        ]
        proto.functions.append(helper.make_function("local", f"F{number}", ["a"], ["b"], nodes, OPSETS))
    return proto


@st.composite
def acyclic(draw: st.DrawFn) -> list[list[int]]:
    """Return the callees of each function: later ones only."""
    count = draw(st.integers(1, 6))
    return [
        draw(st.lists(st.integers(i + 1, count - 1), max_size=3)) if i < count - 1 else []
        for i in range(count)
    ]


@given(acyclic())
def test_inlined_nodes_are_counted(calls: list[list[int]]) -> None:
    """Against onnx-ir, which inlines them; a call itself counts too."""
    proto = calling(calls)
    model = from_proto(proto)
    common.InlinePass()(model)
    relus = sum(n.op_type == "Relu" for n in model.graph.all_nodes())
    counted = count(proto)
    times: dict[int, int] = {0: 1}
    for number, callees in enumerate(calls):
        for callee in callees:
            times[callee] = times.get(callee, 0) + times.get(number, 0)
    assert relus == sum(times.values())
    inlined = 1 + sum(times.get(i, 0) * (1 + len(c)) for i, c in enumerate(calls))
    assert counted == max(inlined, *(1 + len(c) for c in calls))  # also that of a function without callers


def count(proto: onnx.ModelProto) -> int:
    """The nodes that survey counts: the least cap that lets the model pass."""
    lo, hi = 1, 100_000
    while lo < hi:
        middle = (lo + hi) // 2
        if fits(proto, gate.Limits(nodes=middle)):
            hi = middle
        else:
            lo = middle + 1
    return lo


def fits(proto: onnx.ModelProto, limits: gate.Limits) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "LIMITS", limits)
        try:
            survey(proto, "m")
        except ModelError:
            return False
    return True


@pytest.mark.parametrize("calls", [[[0]], [[1], [0]], [[1], [2], [3], [1]]], ids=str)
def test_recursion_is_refused(calls: list[list[int]]) -> None:
    with pytest.raises(ModelError, match="calls itself"):
        survey(calling(calls), "m")


def test_unused_functions_are_not_checked() -> None:
    survey(calling([[], [1, 1]]), "m")


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([[i + 1] * 10 for i in range(10)] + [[]], "nodes when inlined"),
        ([[i + 1] * 2 for i in range(15)] + [[]], "too many to inline"),
        ([[i + 1] for i in range(100)] + [[]], "more than 100 deep"),
    ],
    ids=["laughs", "renames", "chain"],
)
def test_models_beyond_the_limits_are_refused(calls: list[list[int]], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        survey(calling(calls), "m")


def test_a_function_called_under_another_name_of_the_standard_domain_is_found() -> None:
    proto = calling([[0]])
    for one in (*proto.graph.node, *proto.functions[0].node, proto.functions[0]):
        one.domain = "ai.onnx" if isinstance(one, onnx.FunctionProto) else ""
    with pytest.raises(ModelError, match="calls itself"):
        survey(proto, "m")


def branches(depth: int) -> onnx.GraphProto:
    """A graph with an If in an If in an If."""
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = node("Relu", ["x"], ["y"])
    for _ in range(depth):
        branch = helper.make_graph([inner], "b", [], [result])
        inner = node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return helper.make_graph([inner], "g", [], [result])


def test_depth_is_that_of_the_deepest_branch() -> None:
    proto = onnx.ModelProto(graph=branches(8))
    assert fits(proto, gate.Limits(depth=8))
    assert not fits(proto, gate.Limits(depth=7))


def test_tensors_are_found_in_every_field() -> None:
    def constant(name: str) -> onnx.NodeProto:
        return node(
            "Constant", [], [f"{name}_out"], value=helper.make_tensor(name, TensorProto.FLOAT, [1], [1])
        )

    proto = onnx.ModelProto(graph=branches(2))
    proto.graph.node.append(constant("main"))
    proto.graph.node[0].attribute[0].g.node.append(constant("inner"))
    proto.graph.initializer.append(helper.make_tensor("init", TensorProto.FLOAT, [1], [1]))
    proto.functions.append(helper.make_function("l", "F", [], ["f_out"], [constant("f")], OPSETS))
    proto.functions[0].attribute_proto.append(
        helper.make_attribute("d", helper.make_tensor("default", TensorProto.FLOAT, [1], [1]))
    )
    contents = survey(proto, "m")
    assert {t.name for t in contents.tensors} == {"main", "inner", "init", "f", "default"}
    assert contents.graphs[0] is proto.graph or contents.graphs[0].name == "g"
    assert len(contents.graphs) == 1 + 2 + 4
    assert contents.domains == {""}
    assert not contents.sparse


def test_tensors_count_whatever_the_attribute_type() -> None:
    proto = onnx.ModelProto(graph=branches(0))
    attribute = proto.graph.node[0].attribute.add(name="a", type=onnx.AttributeProto.FLOAT)
    attribute.t.name = "hidden"
    assert [t.name for t in survey(proto, "m").tensors] == ["hidden"]


def test_limits_allow_large_real_models() -> None:
    nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(2000)]
    proto = model(nodes, {"v0": (1,)}, {"v2000": (1,)})
    assert len(from_model(proto).model.graph) == 2000
    assert LIMITS.nodes >= 100_000
