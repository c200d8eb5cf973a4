"""Ranges without samples: what is believed of each value, from the inputs on through the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.calibrate.analytic.call import Call, dims
from qtool.calibrate.analytic.norms import normalized_inputs
from qtool.calibrate.analytic.rules import RULES
from qtool.calibrate.analytic.spread import (
    BASES,
    BOUNDED,
    CONSTANT,
    DECLARED,
    ESTIMATED,
    STATISTICS,
    Spread,
    spread,
    uniform,
    unknown,
)
from qtool.calibrate.analytic.written import written_out
from qtool.calibrate.ranges import Ranges
from qtool.graph.prepare import PASSES
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.view import is_op, op_key

Spreads = dict[str, Spread]

# What a rule says of a graph that is not as the ONNX specification has it. The op's output is unknown
# then; a graph that is odd must not stop the flow.
_ODD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# Ops that do to whole numbers what they do to reals, until those overflow, which 32 bits seldom do.
_EXACT = frozenset(
    "Add Sub Mul Neg Abs Max Min Sum Where Cast Range Shape ConstantOfShape Identity Expand Reshape Flatten "
    "Squeeze Unsqueeze Transpose Concat Slice Split Gather Tile OneHot".split(" ")
)
_SHORT = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16})
_LONG = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_LIKE_REALS = frozenset(
    {None, ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)


# What 90% of the ranges of ten real models were, against what samples showed (analytic/__init__.py).
ROUGHNESS: dict[str, str] = {
    DECLARED: "as told",
    CONSTANT: "as wide as what is stored",
    BOUNDED: "all that the op can make",
    STATISTICS: "mostly 0.8 to 2.7 times as wide as samples show",
    ESTIMATED: "mostly 0.4 to 4.3 times as wide as samples show, at worst 7 times",
}


@dataclass(frozen=True)
class Estimate:
    """Ranges that nobody observed.

    Args:
        ranges: of each value about which something is known.
        basis: what each of them rests on: declared, constant, bounded, statistics or estimated.
    """

    ranges: Ranges
    basis: dict[str, str]


def roughness(basis: Mapping[str, str]) -> str:
    """How many ranges rest on what, and how far off such ranges were where samples could tell; '' of none."""
    counts = {b: sum(found == b for found in basis.values()) for b in BASES}
    told = "; ".join(f"{n} {b}: {ROUGHNESS[b]}" for b, n in counts.items() if n)
    return f"ranges are estimates ({told})" if told else ""


@np.errstate(all="ignore")
def propagate(
    original: ir.Model,
    prepared: ir.Model,
    values: Sequence[str],
    input_ranges: Mapping[str, tuple[float, float]],
) -> Estimate:
    """The ranges of the named values of the prepared main graph, from what the model itself holds.

    Args:
        original: the model before preparation, whose BatchNormalizations are still there.
        prepared: the model whose values are asked for.
        values: names; a value about which nothing can be known is not in the result.
        input_ranges: what the inputs can be, by name.
    """
    told = _statistics(original, input_ranges)
    spreads = _flow(prepared, input_ranges, told, frozenset(values))
    ranges = {v: r for v in values if v in spreads and (r := spreads[v].range()) is not None}
    return Estimate(ranges, {v: spreads[v].basis for v in ranges})


@np.errstate(all="ignore")
def bounds(
    model: ir.Model, input_ranges: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, tuple[float, float]]:
    """What values of the main graph can't exceed, by interval arithmetic; only those with two finite bounds.

    Without input ranges that is so whatever is fed. In real numbers: float32 rounds beyond it by its own
    relative error.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, x in _flow(model, input_ranges or {}, {}, _made(model)).items():
        lo, hi = float(x.lo.min(initial=math.inf)), float(x.hi.max(initial=-math.inf))
        if math.isfinite(lo) and math.isfinite(hi):
            found[name] = lo, hi
    return found


def _statistics(original: ir.Model, input_ranges: Mapping[str, tuple[float, float]]) -> Spreads:
    """What the model's BatchNormalizations tell, by the name that a folded one leaves to its convolution.

    The model is brought to the names and constants of a prepared one, but nothing is folded.
    """
    if not any(is_op(node, "BatchNormalization") for node in original.graph.all_nodes()):
        return {}
    model = original.clone()
    for step in PASSES[: PASSES.index(infer_shapes) + 1]:
        step(model)
    told = dict(normalized_inputs(model.graph))
    spreads = _flow(model, input_ranges, told, _made(model))
    return {name: x for name, x in spreads.items() if x.basis == STATISTICS and x.known}


def _made(model: ir.Model) -> frozenset[str]:
    """The names of all values that nodes of the main graph make."""
    return frozenset(v.name for node in model.graph for v in node.outputs if v.name)


def _flow(
    model: ir.Model,
    input_ranges: Mapping[str, tuple[float, float]],
    told: Mapping[str, Spread],
    wanted: frozenset[str],
) -> Spreads:
    """The spreads of the wanted values. Others are dropped after their last reader."""
    spreads = {v.name or "": _fed(v, input_ranges) for v in model.graph.inputs}
    readers = {id(v): len(v.uses()) for node in model.graph for v in node.inputs if v is not None}
    for node in model.graph:
        made = _outputs(node, spreads)
        for value, x in zip(node.outputs, made, strict=True):
            name = value.name or ""
            spreads[name] = _told(x, told[name]) if name in told else x
        for v in {id(v): v for v in node.inputs if v is not None}.values():
            readers[id(v)] -= sum(used is v for used in node.inputs)
            if not readers[id(v)] and v.name not in wanted:
                spreads.pop(v.name or "", None)
    return {name: x for name, x in spreads.items() if name in wanted}


def _fed(value: ir.Value, input_ranges: Mapping[str, tuple[float, float]]) -> Spread:
    """An input: anything within its declared range, or what its type can hold."""
    lo, hi = input_ranges.get(value.name or "", (math.nan, math.nan))
    return uniform(lo, hi, DECLARED) if lo <= hi else _of_type(value.dtype)


def _told(x: Spread, told: Spread) -> Spread:
    """What statistics tell, within what the flow found the value can't exceed."""
    least, most = (x.lo, x.hi) if x.channels == told.channels else (x.lo.min(), x.hi.max())
    lo, hi = np.maximum(told.lo, least), np.minimum(told.hi, most)
    return spread(told.values, lo, hi, told.basis, masked=x.masked)


def _outputs(node: ir.Node, spreads: Spreads) -> list[Spread]:
    """A spread for each output."""
    nothing = [_of_type(v.dtype) for v in node.outputs]
    rule = RULES.get(op_key(node))
    if rule is None or not _computes_reals(node):
        return nothing
    try:
        made = written_out(node) or rule(Call(node, spreads))
    except _ODD:
        return nothing
    found = [made] if isinstance(made, Spread) else list(made)
    found = [_fit(x, value) for x, value in zip(found, node.outputs, strict=False)]
    return (found + nothing[len(found) :])[: len(nothing)]


def _computes_reals(node: ir.Node) -> bool:
    """Whether the node computes as real numbers do; integers round and wrap around."""
    dtype = node.outputs[0].dtype if node.outputs else None
    return dtype in _LIKE_REALS or (dtype in _LONG and node.op_type in _EXACT)


def _of_type(dtype: ir.DataType | None) -> Spread:
    """What a type alone says: a byte is within 0..255."""
    if dtype in _SHORT:
        limits = np.iinfo(dtype.numpy())
        return uniform(float(limits.min), float(limits.max))
    return uniform(0.0, 1.0) if dtype == ir.DataType.BOOL else unknown()


def _fit(x: Spread, value: ir.Value) -> Spread:
    """Channels that can't be told apart in the value's own shape are pooled."""
    shape = dims(value)
    if shape is None or not x.channels:
        return x
    if len(x.channels) > len(shape):
        return x.scalar()
    behind = shape[len(shape) - len(x.channels) :]
    odd = [
        i for i, (c, d) in enumerate(zip(x.channels, behind, strict=True)) if c != 1 and d not in (None, c)
    ]
    return x.pooled(odd)
