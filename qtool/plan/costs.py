"""What a node costs in each form: the times of kernels of its kind, from a table that one machine made.

Rows and kinds are those of tables/kernels.py; work is as plan/work.py counts it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from qtool.errors import DataError
from qtool.plan.costs_file import CostTable, Point, read_table
from qtool.plan.work import is_fused, row_of, work_of
from qtool.tables.forms import Form
from qtool.tables.kernels import BORDER, DEQUANTIZE, QUANTIZE, Kind, kind_of

_SHIPPED = Path(__file__).parent.parent / "tables" / "costs"
# The table of each target that ships with one. Nobody has measured a machine without VNNI yet: the table of
# `cpu` makes too much of int8 there.
_TABLES = {"cpu": "cpu.json", "cpu-avx2": "cpu.json"}


@dataclass(frozen=True)
class Costs:
    """What nodes cost by a table, in seconds."""

    table: CostTable
    _by_row: Mapping[tuple[str, Kind], tuple[Point, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_row = {(timed.row, timed.kind): timed.points for timed in self.table.rows}
        object.__setattr__(self, "_by_row", by_row)

    def seconds(
        self, node: ir.Node, form: Form | None, shapes: Mapping[str, tuple[int, ...]], bits: int = 8
    ) -> float | None:
        """What a node takes in a form, None where the table knows nothing of it, or a shape is missing.

        What the runtime makes part of another node takes 0.

        Args:
            form: None for float.
            shapes: of every value that is no constant.
            bits: of the weight, in Form.NBITS.
        """
        kind = kind_of(form, bits)
        if kind is None:
            return None
        if is_fused(node, form):
            return 0.0
        row, work = row_of(node, shapes), work_of(node, shapes)
        return None if row is None or work is None else self.time(row, kind, work)

    def quantize(self, elements: int) -> float:
        """What a QuantizeLinear takes."""
        return self._edge(QUANTIZE, Kind.INT8, elements)

    def dequantize(self, elements: int) -> float:
        """What a DequantizeLinear takes."""
        return self._edge(DEQUANTIZE, Kind.INT8, elements)

    def border(self, elements: int) -> float:
        """What a change of layout takes where an int8 region of 4-D tensors begins or ends: NCHW to NHWC, or
        back, of bytes.
        """
        return self._edge(BORDER, Kind.INT8, elements)

    def reorder(self, elements: int) -> float:
        """The same on the float side, where convolutions have a layout of their own (NCHWc)."""
        return self._edge(BORDER, Kind.FLOAT, elements)

    def time(self, row: str, kind: Kind, work: int) -> float | None:
        """What a row's kernel takes for so much work, and its dispatch; None where it was not timed."""
        points = self._by_row.get((row, kind))
        return interpolate(points, work) + self.table.dispatch if points else None

    def _edge(self, row: str, kind: Kind, elements: int) -> float:
        found = self.time(row, kind, elements)
        if found is None:
            raise DataError(f"a cost table without {row}", "qtool profile makes one")
        return found


def load_costs(path: str | Path | None, target: str) -> Costs:
    """A cost table: of a file, else the one that comes with a target.

    Raises:
        DataError: it can't be read, is damaged, or there is none for the target.
    """
    if path is None:
        if target not in _TABLES:
            raise DataError(f"no cost table for target '{target}'", "qtool profile makes one of this machine")
        path = _SHIPPED / _TABLES[target]
    return Costs(read_table(Path(path)))


def interpolate(points: Sequence[Point], work: int) -> float:
    """Seconds for so much work: a power law between points, at the rate of the last one beyond it.

    Below the first the line through two points goes down to what a kernel costs that has nothing to do.

    Args:
        points: (work, seconds), at least one, by work, all above 0.
    """
    first, last = points[0], points[-1]
    if work >= last[0]:
        return last[1] * work / last[0]
    if work < first[0]:
        if len(points) == 1:
            return first[1]
        slope = (points[1][1] - first[1]) / (points[1][0] - first[0])
        slope = min(max(slope, 0.0), first[1] / first[0])
        return first[1] - slope * (first[0] - work)
    index = bisect.bisect_right(points, work, key=lambda p: p[0])
    (low, below), (high, above) = points[index - 1], points[index]
    share = math.log(work / low) / math.log(high / low)
    return math.exp((1 - share) * math.log(below) + share * math.log(above))
