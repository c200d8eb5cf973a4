"""How much a model may hold, and what it holds: looked through once, before any native library sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx

from qtool.errors import ModelError, printable


@dataclass(frozen=True)
class Caps:
    """What no honest model exceeds, or no library can go on with.

    Args:
        file_bytes: of the model file: protobuf's own limit.
        nodes: once all functions are inlined; inspecting 500,000 takes minutes, each mode several.
        depth: of graphs in graphs, once all functions are inlined: protobuf reads no more than 100
            messages in each other, three of which make a level.
        calls: of functions in functions: onnx's checker follows no more.
        renames: names that inlining tries (onnx-ir 1.1): for each function, calls squared times nodes.
        name_bytes: of any one name.
        rank: of a tensor: numpy's limit.
        tensor_bits: of a tensor, an axis of 0 counted as 1, as numpy does.
    """

    file_bytes: int = (1 << 31) - 1
    nodes: int = 500_000
    depth: int = 31
    calls: int = 100
    renames: int = 100_000_000
    name_bytes: int = 10_000
    rank: int = 64
    tensor_bits: int = 1 << 63


CAPS = Caps()

Key = tuple[str, str, str]
"""Of a function: domain, name, overload."""


@dataclass
class Survey:
    """What a model holds, nested graphs and functions included.

    Args:
        graphs: the main graph first.
        tensors: initializers, and what attributes hold.
        domains: of the ops of all graphs; '' is the standard one.
        sparse: some tensor is sparse.
    """

    graphs: list[onnx.GraphProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    sparse: bool = False


@dataclass
class _Body:
    """The main graph, or a function: how many nodes, how deep its graphs, what it calls.

    Args:
        calls: callee -> how often, and in how many nested graphs at the most.
    """

    nodes: int = 0
    depth: int = 0
    calls: dict[Key, tuple[int, int]] = field(default_factory=dict)


def survey(proto: onnx.ModelProto, name: str) -> Survey:
    """Look through a model.

    Raises:
        ModelError: it holds more than CAPS has room for, functions that call themselves, or broken names.
    """
    found = Survey()
    functions = {(_domain(f.domain), f.name, f.overload): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        raise ModelError(f"{name}: two of its functions have one name")
    bodies: dict[Key | None, _Body] = {None: _look(found, name, functions, graph=proto.graph)}
    for key, function in functions.items():
        _names(name, (*key, *function.input, *function.output, *function.attribute))
        bodies[key] = _look(found, name, functions, function=function)
    _expansion(bodies, name)
    return found


def _look(
    found: Survey,
    name: str,
    functions: dict[Key, onnx.FunctionProto],
    graph: onnx.GraphProto | None = None,
    function: onnx.FunctionProto | None = None,
) -> _Body:
    """Add what a graph or a function holds. A stack: Python can build deeper ones than it can recurse."""
    body = _Body()
    todo: list[tuple[onnx.GraphProto, int]] = [(graph, 0)] if graph is not None else []

    def look_at(nodes: Iterable[onnx.NodeProto], depth: int) -> None:
        for node in nodes:
            body.nodes += 1
            key = (_domain(node.domain), node.op_type, node.overload)
            _names(name, (node.name, *key, *node.input, *node.output))
            if function is None:
                found.domains.add(key[0])
            if key in functions:
                count, deepest = body.calls.get(key, (0, 0))
                body.calls[key] = (count + 1, max(deepest, depth))
            if not key[0]:
                _texts(name, node)
            held(node.attribute, depth)
        if body.nodes > CAPS.nodes:
            raise ModelError(f"{name}: more than {CAPS.nodes:,} nodes")

    def held(attributes: Iterable[onnx.AttributeProto], depth: int) -> None:
        for attribute in attributes:
            _names(name, (attribute.name, attribute.ref_attr_name))
            # By what is there, whatever its type says it should be.
            found.tensors += [attribute.t] if attribute.HasField("t") else []
            found.tensors += attribute.tensors
            found.sparse |= attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
            inner = [attribute.g] if attribute.HasField("g") else []
            todo.extend((g, depth + 1) for g in (*inner, *attribute.graphs))

    if function is not None:
        look_at(function.node, 0)
        held(function.attribute_proto, 0)
    while todo:
        one, depth = todo.pop()
        body.depth = max(body.depth, depth)
        if depth > CAPS.depth:
            raise too_deep(name)
        found.graphs.append(one)
        found.tensors += one.initializer
        found.sparse |= bool(one.sparse_initializer)
        values = (*one.input, *one.output, *one.value_info)
        _names(name, (one.name, *(v.name for v in values), *(t.name for t in one.initializer)))
        look_at(one.node, depth)
    _names(name, (t.name for t in found.tensors))
    return body


def too_deep(name: str) -> ModelError:
    """The refusal of graphs in graphs in graphs."""
    return ModelError(f"{name}: graphs nested in each other more than {CAPS.depth} deep")


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _names(model: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str):  # protobuf gives bytes where they are no UTF-8
            raise ModelError(f"{model}: a name in it is not UTF-8: {printable(repr(name), 80)}")
        if len(name) > CAPS.name_bytes:
            raise ModelError(f"{model}: a name of {len(name):,} characters: {printable(name, 60)}")


def _texts(model: str, node: onnx.NodeProto) -> None:
    """The words that an op of the standard takes are text; those of other ops may be anything."""
    for attribute in node.attribute:
        try:
            attribute.s.decode()
        except UnicodeDecodeError:
            what = f"attribute '{printable(attribute.name, 80)}' of {printable(node.op_type, 80)}"
            raise ModelError(f"{model}: {what} is not UTF-8") from None


@dataclass
class _Inlined:
    """What a body becomes."""

    nodes: int
    depth: int
    calls: int


def _expansion(bodies: dict[Key | None, _Body], name: str) -> None:
    """Count what inlining every function would make, without doing it: each function is counted once.

    Raises:
        ModelError: recursion, or more than CAPS has room for ('billion laughs').
    """
    inlined: dict[Key | None, _Inlined] = {}
    order = list(_callees_first(bodies, name))
    for key in order:
        body = bodies[key]
        total = _Inlined(body.nodes, body.depth, 0)
        for callee, (count, depth) in body.calls.items():
            total.nodes += count * inlined[callee].nodes
            total.depth = max(total.depth, depth + inlined[callee].depth)
            total.calls = max(total.calls, 1 + inlined[callee].calls)
        if total.calls > CAPS.calls:
            raise ModelError(f"{name}: functions that call each other more than {CAPS.calls} deep")
        if total.depth > CAPS.depth:
            raise too_deep(name)
        inlined[key] = total
    if inlined[None].nodes > CAPS.nodes:
        raise ModelError(
            f"{name}: its functions come to more than {CAPS.nodes:,} nodes when inlined, in a file of "
            f"{sum(b.nodes for b in bodies.values()):,}"
        )
    called: dict[Key | None, int] = {None: 1}
    for key in reversed(order):
        for callee, (count, _) in bodies[key].calls.items():
            called[callee] = called.get(callee, 0) + count * called.get(key, 0)
    if sum(times**2 * bodies[key].nodes for key, times in called.items() if key) > CAPS.renames:
        raise ModelError(f"{name}: functions called {max(called.values()):,} times are too many to inline")


def _callees_first(bodies: dict[Key | None, _Body], name: str) -> Iterator[Key | None]:
    """The bodies that the main graph reaches, each after those that it calls."""
    done: set[Key | None] = set()
    open_: dict[Key | None, Iterator[Key]] = {None: iter(bodies[None].calls)}
    while open_:
        key, rest = next(reversed(open_.items()))
        callee = next((c for c in rest if c not in done), None)
        if callee is None:
            del open_[key]
            done.add(key)
            yield key
        elif callee in open_:
            raise ModelError(f"{name}: its function '{printable(callee[1], 80)}' calls itself")
        else:
            open_[callee] = iter(bodies[callee].calls)
