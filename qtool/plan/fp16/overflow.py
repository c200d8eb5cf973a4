"""Find the float32 values that float16 can't hold, before any node is converted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.ranges import Range, Ranges
from qtool.graph.mapped import SideTensor
from qtool.graph.view import View, is_op, op_key
from qtool.numerics.metrics import sqnr_db
from qtool.plan.eligible import CONTROL_FLOW, rule_of
from qtool.plan.fp16.ports import is_float32
from qtool.tables.float16 import BIASES, EXACT_NEAR_ZERO, FLOOR_DB, LARGEST, MARGIN, SUMS

_CHUNK = 1 << 20  # elements at a time: float64 copies of large weights would take much memory


def find_overflow(view: View, ranges: Ranges | None) -> dict[str, str]:
    """Return value name -> the reason, in words that continue "its input 'x' ".

    1. A constant beyond the largest float16 (also NaN), or below FLOOR_DB in float16: a term of a sum by the
       size of the sum. Infinities are float16, too.
    2. A value with masks other than -inf in calibration, or a range of more than LARGEST / MARGIN.
    3. A value without a range that is computed from a constant beyond, up to an op that bounds its output.
    """
    observed = ranges or {}
    reasons: dict[str, str] = {}
    beyond: dict[str, str] = {}
    for value, array in _constants(view):
        name = value.name or ""
        if _is_held(value):
            continue
        least, largest = _extremes(array)
        if not (least >= -LARGEST and largest <= LARGEST):  # so that NaN is beyond
            extreme = least if not least >= -LARGEST else largest
            beyond[name] = f"holds {extreme:.3g}, beyond float16's {LARGEST:.0f}"
        elif (db := _joined_sqnr(value, array, observed)) < FLOOR_DB:
            what = f"{array.reshape(-1)[0]:.3g}" if array.size == 1 else f"{array.size} elements"
            reasons[name] = f"({what}) keeps {max(db, 0.0):.0f} dB in float16, below {FLOOR_DB:.0f}"
    for name, value_range in observed.items():
        if reason := _too_wide(value_range):
            reasons[name] = reason
    for name, source in _computed_from(view, beyond, observed).items():
        reasons.setdefault(name, f"is computed from '{source}', which {beyond[source]}")
    return {**reasons, **beyond}


def _is_held(value: ir.Value) -> bool:
    """Return whether the facts of a constant in a side file tell that float16 holds it above FLOOR_DB.

    The error of a normal float16 is up to 2**-11 of the number, that of a denormal one up to 2**-25.
    """
    tensor = value.const_value
    if not isinstance(tensor, SideTensor):
        return False
    facts, share = tensor.facts, 10 ** (-FLOOR_DB / 10)
    small = -facts.least <= LARGEST and facts.greatest <= LARGEST  # false for NaN
    return small and 2**-22 * facts.energy + 2**-50 * tensor.size < 0.99 * share * facts.energy


def fp16_sqnr(array: NDArray[np.float32]) -> float:
    """Return the SQNR in dB of an array rounded to float16, which holds infinities exactly."""
    return sqnr_db(*_powers(array))


def _powers(array: NDArray[np.float32]) -> tuple[float, float]:
    """Return the sum of squares of an array, and that of its error in float16."""
    flat = array.reshape(-1)
    signal = noise = 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        part = part[~np.isinf(part)]
        exact, rounded = part.astype(np.float64), part.astype(np.float16).astype(np.float64)
        signal += float(exact @ exact)
        noise += float(np.square(exact - rounded).sum())
    return signal, noise


def _joined_sqnr(value: ir.Value, array: NDArray[np.float32], observed: Ranges) -> float:
    """Return the SQNR in dB of a constant in float16: by itself, or as a term of sums, by those sums.

    A sum without a range is no reason against its terms: in float16 it has at least their rounding error.
    """
    signal, noise = _powers(array)
    db = sqnr_db(signal, noise)
    sums = [_sum_of(use.node, use.idx) for use in value.uses()]
    if db >= FLOOR_DB or not sums or None in sums or value.is_graph_output():
        return db
    sizes = (observed[s.name or ""].typical for s in sums if s is not None and s.name in observed)
    return min((sqnr_db(size**2 * array.size, noise) for size in sizes), default=math.inf)


def _sum_of(node: ir.Node, index: int) -> ir.Value | None:
    """Return the output of a node that adds an input to others; None where it does anything else with it.

    A sum that keeps a divisor or the argument of a root away from 0 is none: there, small terms count.
    """
    made = node.outputs[0]
    if index in BIASES.get(op_key(node), ()):
        return made
    guards = any(use.idx in EXACT_NEAR_ZERO.get(op_key(use.node), ()) for use in made.uses())
    return made if is_op(node, *SUMS) and not guards else None


def _constants(view: View) -> Iterator[tuple[ir.Value, NDArray[np.float32]]]:
    for value in view.values.values():
        if not is_float32(value) or value.is_graph_input():
            continue
        if value.is_initializer() and value.const_value is not None:
            yield value, np.asarray(value.const_value.numpy(), np.float32)
        elif is_op(value.producer(), "Constant", "ConstantOfShape"):
            yield from ((value, array) for array in _attribute(value.producer()))


def _attribute(node: ir.Node | None) -> Iterator[NDArray[np.float32]]:
    """Yield the float arrays of a Constant or ConstantOfShape."""
    for attribute in node.attributes.values() if node is not None else ():
        if attribute.type == ir.AttributeType.TENSOR:
            yield np.asarray(attribute.as_tensor().numpy(), np.float32)
        elif attribute.type == ir.AttributeType.FLOAT:
            yield np.asarray(attribute.as_float(), np.float32)
        elif attribute.type == ir.AttributeType.FLOATS:
            yield np.asarray(attribute.as_floats(), np.float32)


def _extremes(array: NDArray[np.float32]) -> tuple[float, float]:
    """Return the least and the greatest value, without infinities."""
    finite = array[~np.isinf(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _too_wide(observed: Range) -> str:
    if observed.masked > observed.infinite:
        return "holds masks beyond float16"
    if max(-observed.lo, observed.hi) * MARGIN <= LARGEST:
        return ""
    limit = f"float16's {LARGEST:.0f} with a margin of {MARGIN:g}"
    return f"spans {observed.lo:.3g}..{observed.hi:.3g}, beyond {limit}"


def _computed_from(view: View, beyond: Iterable[str], observed: Ranges) -> dict[str, str]:
    """Return value -> the constant beyond float16 that may reach it, for values without a range."""
    holders = {id(body): node for node in view.nodes for body in _bodies(node)}
    source = {name: name for name in beyond}
    pending = [view.values[name] for name in source]
    while pending:
        value = pending.pop()
        for made in _reached(value, holders):
            name = made.name or ""
            if is_float32(made) and name not in source and name not in observed:
                source[name] = source[value.name or ""]
                pending.append(made)
    return {name: constant for name, constant in source.items() if name != constant}


def _reached(value: ir.Value, holders: Mapping[int, ir.Node]) -> Iterator[ir.Value]:
    """Yield the values that one node computes from a value, into and out of nested graphs."""
    for use in value.uses():
        if op_key(use.node) in CONTROL_FLOW:
            for body in _bodies(use.node):
                yield from body.inputs
        elif not _bounds_output(use.node, use.idx):
            yield from use.node.outputs
    graph = value.graph
    if value.is_graph_output() and isinstance(graph, ir.Graph) and id(graph) in holders:
        yield from holders[id(graph)].outputs
        yield from graph.inputs  # of the next iteration


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _bounds_output(node: ir.Node, index: int) -> bool:
    """Whether the output of a node fits into float16 however large that input is."""
    if is_op(node, "Clip"):
        limits = [_scalar(v) for v in node.inputs[1:3]]
        # Limits beyond float16 bound nothing: the output depends on the first input.
        return index > 0 or (len(limits) == 2 and all(abs(x) <= LARGEST for x in limits))
    rule = rule_of(node)
    return rule is not None and all(abs(x) <= LARGEST for x in rule.bounds)


def _scalar(value: ir.Value | None) -> float:
    if value is None or value.const_value is None or value.const_value.size != 1:
        return math.inf
    return float(value.const_value.numpy().reshape(-1)[0])
