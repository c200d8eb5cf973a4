"""Say what is wrong with the names of a graph that the checker refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from qtool.errors import printable


def structure_problem(graph: onnx.GraphProto, outer: Mapping[str, str] | None = None) -> str:
    """Return the first problem of a graph, or of a graph in it; '' if there is none.

    1. Two inputs, initializers or nodes give a value of one name.
    2. A node, or the caller, reads a value that nothing gives, or reads it too early.

    Args:
        graph: the graph.
        outer: value of the graphs around it -> what gives it.
    """
    outer = outer or {}
    producers: dict[str, str] = {}
    for kind, values in (("input", graph.input), ("initializer", graph.initializer)):
        for name, count in Counter(v.name for v in values).items():
            if count > 1:
                return f"{_number(count)} {kind}s are called {_quoted(name)}"
            producers[name] = f"an {kind}"
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            if name and name not in producers and name not in outer:
                early = "before a node makes it" if name in later else "but nothing gives it"
                return f"{_quoted(name)} is read by {_called(node)}, {early}"
        for inner in _bodies(node):
            if problem := structure_problem(inner, {**outer, **producers}):
                return problem
        for name in filter(None, node.output):
            before = producers.get(name) or outer.get(name)
            if before is not None:
                return f"{_quoted(name)} is made twice: it is {before}, and an output of {_called(node)}"
            producers[name] = f"an output of {_called(node)}"
    for output in graph.output:
        if output.name not in producers and output.name not in outer:
            return f"its output {_quoted(output.name)} is made by no node"
    return ""


def _bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _called(node: onnx.NodeProto) -> str:
    return f"{printable(node.op_type, 80)} {_quoted(node.name) if node.name else '(unnamed)'}"


def _quoted(name: str) -> str:
    return f"'{printable(name, 80)}'"


def _number(count: int) -> str:
    return "two" if count == 2 else str(count)
