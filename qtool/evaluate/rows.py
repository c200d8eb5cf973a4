"""Outputs whose number of rows depends on data, such as the boxes that a NonMaxSuppression selects.

Two models give them in other numbers and another order, so rows are matched before they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import constant, is_op
from qtool.numerics.rows import Indices, match_rows

_SOURCES = ("NonMaxSuppression", "NonZero", "Compress", "Unique")


@dataclass(frozen=True)
class Rows:
    """The rows of an output.

    Args:
        axis: that the rows lie along.
        sources: the nodes that decide their number: outputs of the same sources have the same rows.
    """

    axis: int
    sources: frozenset[str]


def row_outputs(model: ir.Model) -> dict[str, Rows]:
    """Return output -> its rows, for the outputs whose number of rows depends on data.

    The axis is the first whose length the model leaves open, and no input has.
    """
    symbols = {str(axis) for v in model.graph.inputs for axis in v.shape or () if not isinstance(axis, int)}
    rows = {}
    for output in model.graph.outputs:
        open_axes = [
            i
            for i, axis in enumerate(output.shape or ())
            if not isinstance(axis, int) and (str(axis) not in symbols or str(axis) == "None")
        ]
        sources = frozenset(_sources(output)) if open_axes else frozenset()
        if sources:
            rows[output.name or ""] = Rows(open_axes[0], sources)
    return rows


def _sources(output: ir.Value) -> Iterator[str]:
    """Yield the names of the nearest nodes before an output whose number of results depends on data."""
    waiting, passed = [output], set[int]()
    while waiting:
        node = waiting.pop().producer()
        if node is None or id(node) in passed:
            continue
        passed.add(id(node))
        if is_op(node, *_SOURCES) or (is_op(node, "TopK") and constant(node.inputs[1]) is None):
            yield node.name or node.outputs[0].name or ""
        else:
            waiting += [value for value in node.inputs if value is not None]


@dataclass(frozen=True)
class Match:
    """The rows of an output that both models have in a sample.

    Args:
        axis: that the rows lie along.
        first, second: their indices in FP32 and in the other model.
    """

    axis: int
    first: Indices
    second: Indices

    def take(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the matching rows of both."""
        return np.take(a, self.first, self.axis), np.take(b, self.second, self.axis)


def matches(
    rows: Mapping[str, Rows], names: Sequence[str], expected: Sequence[Any], actual: Sequence[Any]
) -> dict[str, Match]:
    """Return output -> the matching rows of a sample.

    Outputs with the same rows are matched as one: by their indices (of boxes and classes), where one of them
    holds such; else by the floats with the most columns.

    Args:
        rows: as `row_outputs` returns them.
        names: of all outputs.
        expected, actual: the outputs of FP32 and of the other model.
    """
    groups: dict[tuple[frozenset[str], int, int], dict[str, tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name, a, b in zip(names, expected, actual, strict=True):
        row = rows.get(name)
        if row is None or isinstance(a, list) or isinstance(b, list) or np.ndim(a) != np.ndim(b):
            continue
        if np.ndim(a) <= row.axis:
            continue
        x, y = (np.moveaxis(np.asarray(v), row.axis, 0) for v in (a, b))
        groups.setdefault((row.sources, len(x), len(y)), {})[name] = x, y
    result: dict[str, Match] = {}
    for group in groups.values():
        first, second = match_rows(*max(group.values(), key=_fitness))
        result |= {name: Match(rows[name].axis, first, second) for name in group}
    return result


def _fitness(pair: tuple[NDArray[Any], NDArray[Any]]) -> tuple[bool, int]:
    """Return how well the rows of an output tell which row is which: unique integers do best."""
    unique = all(v.dtype.kind in "iu" and len(np.unique(v, axis=0)) == len(v) for v in pair)
    return unique, pair[0][0].size if len(pair[0]) and pair[0].dtype.kind == "f" else 0
