"""All nodes of a model in topological order, with those of nested graphs and functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass
class Walk:
    """The nodes of a model, nested graphs and called functions included.

    A nested graph's nodes come before the node that holds it, and a function's body before the first
    node that calls it; it is walked once, however often it is called.

    Args:
        nodes: in that order.
        graphs: the main graph, and all nested ones.
        stands_for: an input of a function, or of the body of a Loop or Scan -> the value passed (by the first
            call); an output of a call -> the value that the function returns.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    graphs: list[ir.Graph] = field(default_factory=list)
    stands_for: dict[ir.Value, ir.Value] = field(default_factory=dict)


def walk(model: ir.Model) -> Walk:
    """Walk a model from its main graph."""
    walked = Walk()
    called: set[ir.OperatorIdentifier] = set()

    def passed(formal: Iterable[ir.Value], actual: Iterable[ir.Value | None]) -> None:
        walked.stands_for.update((f, a) for f, a in zip(formal, actual, strict=False) if a is not None)

    def steps(graph: ir.Graph | ir.Function) -> Iterator[ir.Graph | ir.Function]:
        """Add the graph's nodes, and yield the graphs to walk before each of them."""
        if isinstance(graph, ir.Graph):
            walked.graphs.append(graph)
        for node in graph:
            for inner in nested_graphs(node):
                passed(inner.inputs, node.inputs)  # an If's branches have none
                yield inner
            function = model.functions.get(node.op_identifier())
            if function is not None and node.op_identifier() not in called:
                called.add(node.op_identifier())
                passed(function.inputs, node.inputs)
                yield function
            if function is not None:
                passed(node.outputs, function.outputs)
            walked.nodes.append(node)

    # A stack, because functions may call functions deeper than Python would recurse.
    walking = [steps(model.graph)]
    while walking:
        inner = next(walking[-1], None)
        if inner is None:
            walking.pop()
        else:
            walking.append(steps(inner))
    return walked


def nested_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the nested graphs of a node."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue  # in a function's body: the caller has it
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def own_int(node: ir.Node, name: str, default: int) -> int:
    """Return an int attribute; the default where it is missing, or set by a function's caller."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        return default
    return attribute.as_int()
