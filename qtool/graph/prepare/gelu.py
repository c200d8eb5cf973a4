"""Fuse the tanh form of Gelu, written in small ops, into one op.

onnxruntime fuses the erf form itself; the tanh form stays nine passes over memory on a CPU. Exporters write
it with its factors in many orders, so it is recognized by its result: the chain of Adds and Muls is expanded
to a polynomial and compared with the formula.

    gelu(x) = 0.5 x (1 + tanh(t)),  t = sqrt(2/pi) (x + 0.044715 x^3)     (Hendrycks & Gimpel 2016,
                                                                           arXiv 1606.08415)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from qtool.graph.edit import Namer, new_node
from qtool.graph.view import float_constant, is_op, rank

Polynomial = dict[tuple[int, int], float]
"""Powers of two atoms -> coefficient: x^a tanh(t)^b has the key (a, b)."""

_ROOT = math.sqrt(2 / math.pi)
_INNER: Polynomial = {(1, 0): _ROOT, (3, 0): _ROOT * 0.044715}
_OUTER: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_TOLERANCE = 2e-4  # exporters round the constants to three or more digits
_DEEPEST = 8


def fuse_gelu(model: ir.Model) -> str:
    """Replace each written-out tanh Gelu by com.microsoft FastGelu."""
    namer = Namer(model)
    fused = 0
    for tanh in list(model.graph.all_nodes()):
        if not is_op(tanh, "Tanh") or tanh.inputs[0] is None or tanh.graph is None:
            continue
        x = _input_of(tanh.inputs[0])
        result = _output_of(x, tanh.outputs[0]) if x is not None else None
        if x is None or result is None or result.is_graph_output():
            continue
        fused += 1
        name = namer(f"{tanh.name}_FastGelu")
        gelu = new_node("FastGelu", [x], name=name, outputs=[namer(f"{name}_output")], domain="com.microsoft")
        producer = result.producer()
        if producer is None or producer.graph is None:
            continue
        producer.graph.insert_before(producer, gelu)
        gelu.outputs[0].type, gelu.outputs[0].shape = result.type, result.shape
        result.replace_all_uses_with(gelu.outputs[0])
    if fused:
        model.opset_imports["com.microsoft"] = 1
    return f"{fused} written-out Gelus fused" if fused else ""


def _input_of(t: ir.Value) -> ir.Value | None:
    """Return x where t is the inner polynomial in x; else None."""
    for x in dict.fromkeys(_ancestors(t, _DEEPEST)):
        if _close(_expand(t, x, None, _DEEPEST), _INNER):
            return x
    return None


def _output_of(x: ir.Value, tanh: ir.Value) -> ir.Value | None:
    """Return the value that is gelu(x), from its tanh; None where there is none."""
    frontier = [tanh]
    for _ in range(_DEEPEST):
        frontier = [out for v in frontier for use in v.uses() for out in use.node.outputs]
        for value in frontier:
            if _close(_expand(value, x, tanh, _DEEPEST), _OUTER):
                return value
        if len(frontier) > 64:
            return None
    return None


def _ancestors(value: ir.Value, depth: int) -> Iterator[ir.Value]:
    """Yield the values from which a value is computed by sums and products."""
    producer = value.producer()
    if depth == 0 or producer is None or not is_op(producer, "Add", "Mul", "Pow"):
        return
    for source in producer.inputs:
        if source is not None and float_constant(source) is None:
            yield source
            yield from _ancestors(source, depth - 1)


def _expand(value: ir.Value | None, x: ir.Value, tanh: ir.Value | None, depth: int) -> Polynomial | None:
    """Return a value as a polynomial in x and tanh; None where it is none."""
    if value is None or depth == 0:
        return None
    if value is x:
        return {(1, 0): 1.0}
    if value is tanh:
        return {(0, 1): 1.0}
    array = float_constant(value)
    if array is not None:
        # A constant of more axes than x would broadcast the result to another shape.
        fits = array.ndim == 0 or array.ndim <= (rank(x) or 0)
        return {(0, 0): float(array.reshape(-1)[0])} if array.size == 1 and fits else None
    node = value.producer()
    if node is None or not is_op(node, "Add", "Mul", "Pow") or len(node.inputs) != 2:
        return None
    a = _expand(node.inputs[0], x, tanh, depth - 1)
    b = _expand(node.inputs[1], x, tanh, depth - 1)
    if a is None or b is None:
        return None
    if node.op_type == "Add":
        return _add(a, b)
    if node.op_type == "Mul":
        return _multiply(a, b)
    if set(b) != {(0, 0)} or b[0, 0] not in (1.0, 2.0, 3.0):
        return None
    power = a
    for _ in range(int(b[0, 0]) - 1):
        power = _multiply(power, a)
    return power


def _add(a: Polynomial, b: Polynomial) -> Polynomial:
    return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in a.keys() | b.keys()}


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for (i, j), u in a.items():
        for (k, m), v in b.items():
            product[i + k, j + m] = product.get((i + k, j + m), 0.0) + u * v
    return product


def _close(polynomial: Polynomial | None, wanted: Polynomial) -> bool:
    if polynomial is None:
        return False
    terms = {k: c for k, c in polynomial.items() if abs(c) > 1e-9}
    return terms.keys() == wanted.keys() and all(
        math.isclose(terms[k], wanted[k], rel_tol=_TOLERANCE) for k in wanted
    )
