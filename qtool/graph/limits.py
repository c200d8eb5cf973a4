"""Limits on the contents of a model, checked in one pass before any native library reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx

from qtool.errors import ModelError, printable


@dataclass(frozen=True)
class Limits:
    """Limits that real models stay below, or that libraries have.

    Args:
        file_bytes: size of the model file: protobuf's own limit.
        nodes: number of nodes once all functions are inlined; inspecting 500,000 takes minutes.
        depth: of nested graphs, once all functions are inlined: protobuf reads at most 100 nested messages,
            and a level takes three.
        calls: depth of functions that call functions: onnx's checker follows no more.
        renames: names that inlining tries (onnx-ir 1.1): for each function, calls squared times nodes.
        name_bytes: length of a name.
        rank: number of axes of a tensor: numpy's limit.
        tensor_bits: size of a tensor, an axis of 0 counted as 1, as numpy does.
    """

    file_bytes: int = (1 << 31) - 1
    nodes: int = 500_000
    depth: int = 31
    calls: int = 100
    renames: int = 100_000_000
    name_bytes: int = 10_000
    rank: int = 64
    tensor_bits: int = 1 << 63


LIMITS = Limits()

Key = tuple[str, str, str]
"""The identity of a function: domain, name, overload."""


@dataclass
class Survey:
    """The contents of a model, with nested graphs and functions.

    Args:
        graphs: the main graph first.
        tensors: initializers, and tensors in attributes.
        domains: of the ops of all graphs; '' is the standard one.
        sparse: some tensor is sparse.
    """

    graphs: list[onnx.GraphProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    sparse: bool = False


@dataclass
class _Body:
    """The main graph, or a function.

    Args:
        nodes: the number of nodes, those of nested graphs included.
        depth: the depth of nested graphs.
        calls: callee -> the number of calls, and the greatest depth of one.
    """

    nodes: int = 0
    depth: int = 0
    calls: dict[Key, tuple[int, int]] = field(default_factory=dict)


def survey(proto: onnx.ModelProto, name: str) -> Survey:
    """Return the contents of a model.

    Raises:
        ModelError: it exceeds LIMITS, or has functions that call themselves, or invalid names.
    """
    contents = Survey()
    functions = {(_domain(f.domain), f.name, f.overload): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        raise ModelError(f"{name}: two of its functions have the same name")
    bodies: dict[Key | None, _Body] = {None: _look(contents, name, functions, graph=proto.graph)}
    for key, function in functions.items():
        _names(name, (*key, *function.input, *function.output, *function.attribute))
        bodies[key] = _look(contents, name, functions, function=function)
    _expansion(bodies, name)
    return contents


def _look(
    contents: Survey,
    name: str,
    functions: dict[Key, onnx.FunctionProto],
    graph: onnx.GraphProto | None = None,
    function: onnx.FunctionProto | None = None,
) -> _Body:
    """Add the contents of a graph or a function. It keeps a stack: nesting may exceed Python's recursion."""
    body = _Body()
    todo: list[tuple[onnx.GraphProto, int]] = [(graph, 0)] if graph is not None else []

    def look_at(nodes: Iterable[onnx.NodeProto], depth: int) -> None:
        for node in nodes:
            body.nodes += 1
            key = (_domain(node.domain), node.op_type, node.overload)
            _names(name, (node.name, *key, *node.input, *node.output))
            if function is None:
                contents.domains.add(key[0])
            if key in functions:
                count, deepest = body.calls.get(key, (0, 0))
                body.calls[key] = (count + 1, max(deepest, depth))
            if not key[0]:
                _texts(name, node)
            held(node.attribute, depth)
        if body.nodes > LIMITS.nodes:
            raise ModelError(f"{name}: more than {LIMITS.nodes:,} nodes")

    def held(attributes: Iterable[onnx.AttributeProto], depth: int) -> None:
        for attribute in attributes:
            _names(name, (attribute.name, attribute.ref_attr_name))
            # By the fields that are set, whatever the type of the attribute.
            contents.tensors += [attribute.t] if attribute.HasField("t") else []
            contents.tensors += attribute.tensors
            contents.sparse |= attribute.HasField("sparse_tensor") or bool(attribute.sparse_tensors)
            inner = [attribute.g] if attribute.HasField("g") else []
            todo.extend((g, depth + 1) for g in (*inner, *attribute.graphs))

    if function is not None:
        look_at(function.node, 0)
        held(function.attribute_proto, 0)
    while todo:
        one, depth = todo.pop()
        body.depth = max(body.depth, depth)
        if depth > LIMITS.depth:
            raise too_deep(name)
        contents.graphs.append(one)
        contents.tensors += one.initializer
        contents.sparse |= bool(one.sparse_initializer)
        values = (*one.input, *one.output, *one.value_info)
        _names(name, (one.name, *(v.name for v in values), *(t.name for t in one.initializer)))
        look_at(one.node, depth)
    _names(name, (t.name for t in contents.tensors))
    return body


def too_deep(name: str) -> ModelError:
    """Return the error for graphs nested too deep."""
    return ModelError(f"{name}: graphs nested in each other more than {LIMITS.depth} deep")


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _names(model: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str):  # protobuf gives bytes where they are no UTF-8
            raise ModelError(f"{model}: a name in it is not UTF-8: {printable(repr(name), 80)}")
        if len(name) > LIMITS.name_bytes:
            raise ModelError(f"{model}: a name of {len(name):,} characters: {printable(name, 60)}")


def _texts(model: str, node: onnx.NodeProto) -> None:
    """Check that string attributes of standard ops are UTF-8; those of other ops may be any bytes."""
    for attribute in node.attribute:
        try:
            attribute.s.decode()
        except UnicodeDecodeError:
            where = f"attribute '{printable(attribute.name, 80)}' of {printable(node.op_type, 80)}"
            raise ModelError(f"{model}: {where} is not UTF-8") from None


@dataclass
class _Inlined:
    """The size of a body once its calls are inlined."""

    nodes: int
    depth: int
    calls: int


def _expansion(bodies: dict[Key | None, _Body], name: str) -> None:
    """Check the size of the model with all functions inlined, without inlining: each is counted once.

    Raises:
        ModelError: recursion, or more than LIMITS allows ('billion laughs').
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
        if total.calls > LIMITS.calls:
            raise ModelError(f"{name}: functions that call each other more than {LIMITS.calls} deep")
        if total.depth > LIMITS.depth:
            raise too_deep(name)
        inlined[key] = total
    if inlined[None].nodes > LIMITS.nodes:
        raise ModelError(
            f"{name}: its functions have more than {LIMITS.nodes:,} nodes when inlined; the file has "
            f"{sum(b.nodes for b in bodies.values()):,}"
        )
    called: dict[Key | None, int] = {None: 1}
    for key in reversed(order):
        for callee, (count, _) in bodies[key].calls.items():
            called[callee] = called.get(callee, 0) + count * called.get(key, 0)
    if sum(times**2 * bodies[key].nodes for key, times in called.items() if key) > LIMITS.renames:
        raise ModelError(f"{name}: functions called {max(called.values()):,} times are too many to inline")


def _callees_first(bodies: dict[Key | None, _Body], name: str) -> Iterator[Key | None]:
    """Yield the bodies that the main graph reaches, each after its callees."""
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
