"""The time of a node in each form, from a table of kernel times measured on one machine.

Rows and kinds are those of tables/kernels.py; plan/work.py counts the work of a node.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from qtool.errors import DataError
from qtool.plan.cost_table import CostTable, Point, read_table
from qtool.plan.work import is_fused, row_of, work_of
from qtool.tables.forms import Form
from qtool.tables.kernels import BORDER, DEQUANTIZE, QUANTIZE, Kind, kind_of

_SHIPPED = Path(__file__).parent.parent / "tables" / "costs"
# The table of each target that ships with one. No machine without VNNI has been measured yet: there the table
# of `cpu` overrates int8. ARM is not measured either. In OpenVINO whole inferences are timed, and the table
# shares their times out among regions (placement/whole_times.py).
_TABLES = dict.fromkeys(("cpu", "cpu-avx2", "arm64", "openvino", "openvino-avx2"), "cpu.json")


@dataclass(frozen=True)
class KernelCosts:
    """The times of nodes in seconds, by a cost table."""

    table: CostTable
    _by_row: Mapping[tuple[str, Kind], tuple[Point, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_row = {(timed.row, timed.kind): timed.points for timed in self.table.rows}
        object.__setattr__(self, "_by_row", by_row)

    def seconds(
        self, node: ir.Node, form: Form | None, shapes: Mapping[str, tuple[int, ...]], bits: int = 8
    ) -> float | None:
        """Return the time of a node in a form; None where the table has no row for it, or a shape is missing.

        A node that the runtime fuses with another takes 0.

        Args:
            form: None for float.
            shapes: of all values but constants.
            bits: of the weight in Form.NBITS.
        """
        kind = kind_of(form, bits)
        if kind is None:
            return None
        if is_fused(node, form):
            return 0.0
        row, work = row_of(node, shapes), work_of(node, shapes)
        return None if row is None or work is None else self.time(row, kind, work)

    def quantize(self, elements: int) -> float:
        """Return the time of a QuantizeLinear."""
        return self._edge(QUANTIZE, Kind.INT8, elements)

    def dequantize(self, elements: int) -> float:
        """Return the time of a DequantizeLinear."""
        return self._edge(DEQUANTIZE, Kind.INT8, elements)

    def border(self, elements: int) -> float:
        """Return the time to change the layout of bytes, NCHW to NHWC or back, where an int8 region of 4-D
        tensors begins or ends.
        """
        return self._edge(BORDER, Kind.INT8, elements)

    def reorder(self, elements: int) -> float:
        """Return the time to change the layout of floats to or from that of float convolutions (NCHWc)."""
        return self._edge(BORDER, Kind.FLOAT, elements)

    def time(self, row: str, kind: Kind, work: int) -> float | None:
        """Return the time of a row's kernel for this work, with its dispatch; None where it was not timed."""
        points = self._by_row.get((row, kind))
        return interpolate(points, work) + self.table.dispatch if points else None

    def _edge(self, row: str, kind: Kind, elements: int) -> float:
        seconds = self.time(row, kind, elements)
        if seconds is None:
            raise DataError(f"a cost table without {row}", "qtool profile makes one")
        return seconds


def load_kernel_costs(path: str | Path | None, target: str) -> KernelCosts:
    """Return the kernel costs of a file, else the one that ships with a target.

    Raises:
        DataError: the file can't be read or is damaged, or the target has no table.
    """
    if path is None:
        if target not in _TABLES:
            raise DataError(f"no cost table for target '{target}'", "qtool profile makes one of this machine")
        path = _SHIPPED / _TABLES[target]
    return KernelCosts(read_table(Path(path)))


def interpolate(points: Sequence[Point], work: int) -> float:
    """Return the seconds for an amount of work: a power law between points, beyond the last at its rate.

    Below the first point it is the line through the first two, never below 0.

    Args:
        points: (work, seconds), at least one, in rising order of work, all above 0.
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
