"""Which columns of an activation reach far beyond all others, and what range is left without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.runner import value_reader
from qtool.data.samples import Samples, evenly
from qtool.plan.model import OutlierColumns

_SAMPLES = 64


@dataclass(frozen=True)
class Reach:
    """The extremes of each column of an activation: [K] float32 both; the last axis has the columns."""

    lo: NDArray[np.float32]
    hi: NDArray[np.float32]

    def without(self, count: int) -> OutlierColumns:
        """The range without the `count` columns that reach furthest from 0."""
        size = np.maximum(np.abs(self.lo), np.abs(self.hi))
        order = np.argsort(-size, kind="stable")
        rest = order[count:]
        columns = tuple(sorted(int(i) for i in order[:count]))
        return OutlierColumns(columns, float(self.lo[rest].min()), float(self.hi[rest].max()))


def reaches(model: ir.Model, values: Sequence[str], source: Samples, threads: int = 0) -> dict[str, Reach]:
    """The reach of each column of values of the main graph, over calibration samples.

    Args:
        model: prepared.
        values: of which the last axis has columns.
        source: of which at most 64 are run.

    Raises:
        DataError: a sample that does not fit.
        RuntimeFailure: the model fails on one.
    """
    found: dict[str, Reach] = {}
    if not values:
        return found
    with value_reader(model, values, threads, "the model whose columns are looked at") as look:
        for sample in source.read(evenly(len(source), _SAMPLES)):
            for name, array in zip(values, look(sample, source.name), strict=True):
                if array.ndim and array.size:
                    _add(found, name, array.reshape(-1, array.shape[-1]))
    return found


def _add(found: dict[str, Reach], name: str, rows: NDArray[np.float32]) -> None:
    seen = Reach(rows.min(axis=0), rows.max(axis=0))
    before = found.get(name)
    if before is not None:
        seen = Reach(np.minimum(before.lo, seen.lo), np.maximum(before.hi, seen.hi))
    found[name] = seen
