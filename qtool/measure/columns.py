"""Which columns of an activation reach far beyond all others, and what range is left without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibrate.runner import with_outputs
from qtool.data.fit import fit
from qtool.data.samples import Source, evenly
from qtool.graph.save import model_for_session
from qtool.plan.model import Spared
from qtool.session import Session, running
from qtool.steps import beat

_SAMPLES = 64


@dataclass(frozen=True)
class Reach:
    """The extremes of each column of an activation: [K] float32 both; the last axis has the columns."""

    lo: NDArray[np.float32]
    hi: NDArray[np.float32]

    def without(self, count: int) -> Spared:
        """The range without the `count` columns that reach furthest from 0."""
        size = np.maximum(np.abs(self.lo), np.abs(self.hi))
        order = np.argsort(-size, kind="stable")
        rest = order[count:]
        columns = tuple(sorted(int(i) for i in order[:count]))
        return Spared(columns, float(self.lo[rest].min()), float(self.hi[rest].max()))


def reaches(model: ir.Model, values: Sequence[str], source: Source, threads: int = 0) -> dict[str, Reach]:
    """The reach of each column of values of the main graph, over calibration samples.

    Args:
        model: prepared.
        values: made by nodes of the main graph.
        source: of which at most 64 are run.

    Raises:
        DataError: a sample that does not fit.
        RuntimeFailure: the model fails on one.
    """
    made = {v.name for node in model.graph for v in node.outputs}
    wanted = [v for v in values if v in made]
    found: dict[str, Reach] = {}
    if not wanted:
        return found
    with model_for_session(with_outputs(model, wanted)) as loadable:
        session = Session(loadable, threads=threads, name="the model whose columns are looked at")
        with running(session):
            for sample in source.read(evenly(len(source), _SAMPLES)):
                inputs = fit(sample, session.inputs, session.input_dtypes, source.name)
                for name, array in zip(wanted, session.run(inputs, wanted), strict=True):
                    if array.ndim and array.size:
                        _add(found, name, array.reshape(-1, array.shape[-1]))
                beat()
    return found


def _add(found: dict[str, Reach], name: str, rows: NDArray[np.float32]) -> None:
    seen = Reach(rows.min(axis=0), rows.max(axis=0))
    before = found.get(name)
    if before is not None:
        seen = Reach(np.minimum(before.lo, seen.lo), np.maximum(before.hi, seen.hi))
    found[name] = seen
