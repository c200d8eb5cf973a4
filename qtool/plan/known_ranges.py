"""Complete the grids that a model came with by propagation, and read ranges from them."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx_ir as ir

from qtool.calibration.ranges import LOG_UNIT, Range, Ranges
from qtool.graph.grids import Grid, Grids
from qtool.graph.view import View
from qtool.plan.activations import bounds_of, float_values
from qtool.plan.eligible import data_inputs, rule_of
from qtool.tables.ops import Role


def completed(view: View, grids: Grids) -> Grids:
    """Return the grids with those of values that only move or clamp values of a known grid.

    A moved value has the grid of its source, and so has the source of a moved value. The result of a Relu or
    Clip has the part of the grid within its bounds.
    """
    activations = dict(grids.activations)
    steps = [(node, *_ends(node)) for node in view.main_nodes if _ends(node)]
    changed = True
    while changed:
        before = len(activations)
        for _, sources, results in steps:
            around = [activations[n] for n in sources if n in activations]
            if len(around) == len(sources):
                grid = _joined(around)
                for name in results:
                    bounds = bounds_of(view.values[name])
                    activations.setdefault(name, grid.within(bounds))
        for node, sources, results in reversed(steps):
            rule = rule_of(node)
            around = [activations[n] for n in results if n in activations]
            if around and rule is not None and rule.role is Role.PASS:
                for name in sources:
                    activations.setdefault(name, _joined(around))
        changed = len(activations) > before
    return replace(grids, activations=activations)


def _ends(node: ir.Node) -> tuple[list[str], list[str]] | tuple[()]:
    """Return the names of the data inputs and outputs of a node that moves or clamps; () for other nodes."""
    rule = rule_of(node)
    if rule is None or rule.role not in (Role.PASS, Role.EPILOGUE):
        return ()
    sources = [v.name or "" for _, v in data_inputs(node, rule)]
    results = [v.name or "" for v in float_values(node.outputs)]
    return (sources, results) if sources and results else ()


def _joined(grids: list[Grid]) -> Grid:
    coarsest = max(grids, key=lambda g: g.scale)
    return replace(coarsest, lo=min(g.lo for g in grids), hi=max(g.hi for g in grids))


def known_ranges(grids: Grids) -> Ranges:
    """Return the range that each grid covers, as if all its values were of full size."""
    ranges: Ranges = {}
    for name, grid in grids.activations.items():
        size = max(-grid.lo, grid.hi)
        logs = round(math.log2(size) * LOG_UNIT) if size > 0 else 0
        ranges[name] = Range(grid.lo, grid.hi, 1, 0, logs, int(size > 0))
    return ranges
