"""Every node and value has a name of its own; a name that was already that stays."""

from __future__ import annotations

import onnx
import pytest

from qtool.graph.prepare.names import unique_names
from qtool.graph.view import View
from tests.graph.prepare.alike import applied, assert_alike, both_branches, graph_with_if, subgraph
from tests.graphs import model, samples, weights


def chain(*names: str) -> onnx.ModelProto:
    """Relus with these node names."""
    nodes, last = [], "x"
    for index, name in enumerate(names):
        result = "y" if index == len(names) - 1 else f"h{index}"
        nodes.append(onnx.helper.make_node("Relu", [last], [result], name=name))
        last = result
    return model(nodes, {"x": (2, 3)}, ["y"])


def names_of(proto: onnx.ModelProto) -> list[str]:
    made, note = applied(proto, unique_names)
    assert note == ""
    # The runtime refuses the clashing names themselves.
    assert_alike(chain(*map(str, range(len(proto.graph.node)))), made)
    return [n.name or "" for n in made.graph]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "b", "c"),
        ("/model/layer.0/Relu", "/model/layer.1/Relu"),
        ("node_Relu_1", "node_relu"),
        ("node_conv1", "conv1"),
        ("node_1", "node_2"),
        ("Relu", "Relu_1"),
    ],
    ids=" ".join,
)
def test_names_that_are_unique_stay(names: tuple[str, ...]) -> None:
    assert names_of(chain(*names)) == list(names)


@pytest.mark.parametrize(
    "names",
    [
        ("", ""),
        ("", "a", ""),
        ("a", "a", "a"),
        ("a", "a", "a_1"),
        ("", "Relu"),
        ("", "", "Relu_1"),
        ("Relu_1", "", ""),
    ],
    ids=str,
)
def test_missing_and_duplicate_names_are_replaced(
    names: tuple[str, ...],
) -> None:
    names_made = names_of(chain(*names))
    assert len(set(names_made)) == len(names_made)
    assert all(names_made)
    for name in set(names) - {""}:
        assert name in names_made
        if names.count(name) == 1:
            assert names_made[names.index(name)] == name


def test_a_nameless_node_is_named_after_its_op() -> None:
    assert all("Relu" in name for name in names_of(chain("", "")))


def test_names_are_unique_across_branches_too() -> None:
    def branch(op: str) -> onnx.GraphProto:
        nodes = [
            onnx.helper.make_node(op, ["x"], ["inner"], name="same"),
            onnx.helper.make_node("Relu", ["inner"], ["out"]),
        ]
        return subgraph(nodes, {"out": (2, 3)})

    proto = graph_with_if([], branch("Sigmoid"), branch("Tanh"), {"x": (2, 3)}, (2, 3))
    made, _ = applied(proto, unique_names)
    nodes = list(made.graph.all_nodes())
    assert len({n.name for n in nodes}) == len(nodes)
    values = [v.name for n in nodes for v in n.outputs]
    assert len(set(values)) == len(values)
    view = View(made)
    assert len(view.node_by_name) == len(view.nodes)
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))


def test_inputs_and_outputs_keep_the_names_that_users_know() -> None:
    made, _ = applied(chain("", ""), unique_names)
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert [v.name for v in made.graph.outputs] == ["y"]


def test_initializers_of_sibling_branches_get_unique_names() -> None:
    def branch(seed: int) -> onnx.GraphProto:
        multiply = onnx.helper.make_node("MatMul", ["x", "w"], ["out"])
        return subgraph([multiply], {"out": (2, 3)}, {"w": weights(3, 3, seed=seed)})

    proto = graph_with_if([], branch(1), branch(2), {"x": (2, 3)}, (2, 3))
    made, _ = applied(proto, unique_names)
    held = [name for graph in made.graph.subgraphs() for name in graph.initializers]
    assert len(set(held)) == 2
    assert_alike(proto, made, both_branches(samples(2, x=(2, 3))))
