"""A model that is ready to be planned for: prepared, with the user's constraints, samples and ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from qtool.calibrate.memo import RangeMemo
from qtool.data.split import SampleSets
from qtool.graph.load import Source
from qtool.graph.view import View
from qtool.plan.assignment import PlanInput
from qtool.plan.constraints import Constraints
from qtool.plan.model import Scaled
from qtool.plan.scaling import rescaled
from qtool.plan.scheme import Scheme

if TYPE_CHECKING:
    from qtool.options import Options


@dataclass(frozen=True)
class PreparedModel:
    """What one run is about. It never changes; a model with scaled constants is another one.

    Args:
        source: the model file as it came.
        model: prepared: equal in result to the source, to float rounding.
        notes: what preparation did, one line a pass.
        task: what plans start from.
        options: what the user chose.
        samples: split once.
        explain: nodes that the report is to explain.
        ranges: of the activations of `model`.
        memo_of: makes the memo of a model with other constants.
        unscaled: the model that this one was scaled from; None where none was.
    """

    source: Source
    model: ir.Model
    notes: tuple[str, ...]
    task: PlanInput
    options: Options
    samples: SampleSets
    explain: tuple[str, ...]
    ranges: RangeMemo
    memo_of: Callable[[ir.Model, PlanInput], RangeMemo]
    unscaled: PreparedModel | None = None

    @property
    def original(self) -> PreparedModel:
        """The model with its constants as preparation left them."""
        return self.unscaled or self

    @property
    def view(self) -> View:
        return self.task.view

    @property
    def scheme(self) -> Scheme:
        return self.task.scheme

    @property
    def constraints(self) -> Constraints:
        return self.task.constraints

    @property
    def threads(self) -> int:
        """Intra-op threads of the runtime; 0 leaves the choice to it."""
        return self.options.threads

    def rescaled(self, scaled: Mapping[str, tuple[Scaled, ...]]) -> PreparedModel:
        """Return the same model with some constants scaled, of whose ranges nothing is known yet.

        Raises:
            KeyError: it has no such constants.
        """
        if not scaled:
            return self
        model = rescaled(self.model, scaled)
        before = self.task.scaled
        joined = {n: (*before.get(n, ()), *scaled.get(n, ())) for n in (*before, *scaled)}
        task = replace(self.task, view=View(model), scaled=joined)
        ranges = self.memo_of(model, task)
        return replace(self, model=model, task=task, ranges=ranges, unscaled=self.original)
