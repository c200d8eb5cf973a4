"""Ranges without samples (`--calib none`): rough estimates from what the model itself holds.

One walk over the graph, with a rule for each op (analytic_rules.py). Declared inputs, constants and bounded
ops are certain. A norm determines the mean and deviation of its output, and a BatchNormalization those of its
input, too (Nagel et al. 2019, arXiv 1906.04721, section 4.2). Elementwise ops are computed by onnxruntime at
points of the distributions of their inputs; a product propagates mean and variance through the norms of its
weights. docs/calibration.md compares the results with those of samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qtool.calibration.analytic_rules import BOUNDS, OUTPUTS, ROWS, Call
from qtool.calibration.distribution import (
    BASES,
    BOUNDED,
    CONSTANT,
    DECLARED,
    ESTIMATED,
    STATISTICS,
    Distribution,
    scaled_noise,
    uniform,
)
from qtool.calibration.ranges import Ranges
from qtool.errors import QtoolError
from qtool.graph.prepare import PASSES
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.view import constant, is_op, op_key

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, None})
_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
# What a rule raises where nothing is known of an input, or on a node of a form that it does not cover.
_UNKNOWN = (ArithmeticError, LookupError, ValueError, QtoolError)

ROUGHNESS: dict[str, str] = {
    DECLARED: "as declared",
    CONSTANT: "as wide as the stored constants",
    BOUNDED: "all values that the op can produce",
    STATISTICS: "mostly 0.8 to 3 times as wide as samples show",
    ESTIMATED: "mostly 0.4 to 8 times as wide as samples show",
}
"""The width of 90% of the ranges, against samples (benchmarks/without_samples.py, 2026-11-30)."""


def roughness(basis: Mapping[str, str]) -> str:
    """Return how many ranges rest on what and how far off such ranges are; '' without any."""
    counts = {b: sum(other == b for other in basis.values()) for b in BASES}
    parts = "; ".join(f"{n} {b}: {ROUGHNESS[b]}" for b, n in counts.items() if n)
    return f"ranges are estimates ({parts})" if parts else ""


@np.errstate(all="ignore")
def estimate_ranges(
    original: ir.Model,
    prepared: ir.Model,
    values: Sequence[str],
    input_ranges: Mapping[str, tuple[float, float]],
) -> tuple[Ranges, dict[str, str]]:
    """Return the ranges of the named values of the prepared main graph, and what each rests on (BASES).

    Args:
        original: the model before preparation, which still has its BatchNormalizations.
        prepared: the model that is quantized.
        values: names; unknown values are not in the result.
        input_ranges: the declared ranges of inputs, by name.
    """
    distributions = _walk(prepared, input_ranges, _statistics(original, input_ranges))
    chosen = {v: distributions[v] for v in values if v in distributions}
    return {v: x.range() for v, x in chosen.items()}, {v: x.basis for v, x in chosen.items()}


def _statistics(
    original: ir.Model, input_ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Distribution]:
    """Return what the BatchNormalizations determine, by the name that a folded one leaves to its convolution.

    The model is brought to the names and constants of a prepared one, but nothing is folded.
    """
    if not any(is_op(node, "BatchNormalization") for node in original.graph.all_nodes()):
        return {}
    model = original.clone()
    for step in PASSES[: PASSES.index(infer_shapes) + 1]:
        step(model)
    normalized: dict[str, Distribution] = {}
    for node in model.graph:
        arrays = [np.asarray(a, np.float64) for v in node.inputs[1:5] if (a := constant(v)) is not None]
        if is_op(node, "BatchNormalization") and len(arrays) == 4:
            gamma, beta, mean, variance = arrays
            ends = (node.inputs[0], np.sqrt(variance), mean), (node.outputs[0], gamma, beta)
            for value, scale, shift in ends:
                fits = value is not None and scale.size == shift.size
                if value is not None and fits and (made := scaled_noise(scale, shift)) is not None:
                    normalized[value.name or ""] = made
    distributions = _walk(model, input_ranges, normalized)
    return {name: x for name, x in distributions.items() if x.basis == STATISTICS}


def _walk(
    model: ir.Model,
    input_ranges: Mapping[str, tuple[float, float]],
    statistics: Mapping[str, Distribution],
) -> dict[str, Distribution]:
    """Return the distributions of the values of the main graph, without unknown ones."""
    distributions: dict[str, Distribution] = {}
    for value in model.graph.inputs:
        lo, hi = input_ranges.get(value.name or "", (math.nan, math.nan))
        if (declared := uniform(lo, hi, DECLARED) or _of_type(value.dtype)) is not None:
            distributions[value.name or ""] = declared
    for node in model.graph:
        estimated = _estimated(Call(node, distributions, model.opset_imports))
        for index, value in enumerate(node.outputs):
            distribution = statistics.get(value.name or "") or _of_type(value.dtype)
            if distribution is None and value.dtype in _FLOATS and index < OUTPUTS.get(node.op_type, 1):
                distribution = estimated
            if distribution is not None:
                distributions[value.name or ""] = distribution
    return distributions


def _estimated(call: Call) -> Distribution | None:
    """Return the distribution of a node's output by its rule or its bounds; None without either."""
    rule, bounds = ROWS.get(op_key(call.node)), BOUNDS.get(op_key(call.node))
    try:
        made = None if rule is None else rule(call)
    except _UNKNOWN:
        made = None
    if made is not None and np.isfinite(made.curve).all():
        return made
    return None if bounds is None else uniform(*bounds)


def _of_type(dtype: ir.DataType | None) -> Distribution | None:
    """Return what a type alone determines: a byte is within 0..255."""
    if dtype == ir.DataType.BOOL:
        return uniform(0.0, 1.0)
    if dtype not in _BYTES:
        return None
    limits = np.iinfo(dtype.numpy())
    return uniform(float(limits.min), float(limits.max))
