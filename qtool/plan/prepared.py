"""A prepared model with the user's constraints, samples and ranges: the input of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from qtool.calibration.buckets import Buckets
from qtool.calibration.memo import RangeMemo
from qtool.data.budget import Budget, Counted
from qtool.data.samples import Samples
from qtool.data.split import SampleSets
from qtool.graph.grids import NO_GRIDS
from qtool.graph.load import Source
from qtool.graph.view import View, float_constant
from qtool.plan.assignment import PlanInput
from qtool.plan.constraints import Constraints
from qtool.plan.model import Scaled
from qtool.plan.scheme import Choices, Scheme
from qtool.tables.qtypes import QType

if TYPE_CHECKING:
    from qtool.options import Options


@dataclass(frozen=True)
class PreparedModel:
    """The subject of one run. It never changes: a model with scaled constants is another one.

    Args:
        source: the source model file.
        model: the prepared model; its results equal those of the source, to float rounding.
        notes: one line for each pass that changed the model.
        task: the input of every plan.
        options: the user's.
        samples: the three sample sets.
        budget: the cost of all choices; reading the calibrate or the select set counts.
        explain: nodes that the report explains.
        ranges: of the activations of `model`.
        memo_of: returns the memo of a model with other constants.
        buckets: the samples that set ranges, by step (--timestep); None: ranges hold for every step.
        unscaled: the model before its constants were scaled; None: this one.
    """

    source: Source
    model: ir.Model
    notes: tuple[str, ...]
    task: PlanInput
    options: Options
    samples: SampleSets
    budget: Budget
    explain: tuple[str, ...]
    ranges: RangeMemo
    memo_of: Callable[[ir.Model, PlanInput], RangeMemo]
    buckets: Buckets | None = None
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
    def timing_samples(self) -> Samples:
        """The samples to time on: the select set, which timing does not count for.

        Raises:
            ValueError: there is none.
        """
        samples = self.samples.select
        if samples is None:
            raise ValueError("there is no select set")
        return samples.uncounted if isinstance(samples, Counted) else samples

    @property
    def runtime(self) -> str:
        """The runtime in which plans are raced and judged."""
        return self.scheme.judge

    @property
    def threads(self) -> int:
        """Intra-op threads of the runtime; 0 leaves the choice to it."""
        return self.options.threads

    def with_activations(self, qtype: QType) -> PreparedModel:
        """Return the model to plan with activations of another type."""
        scheme = self.scheme
        choices = Choices(**(vars(scheme.choices) | {"acts": qtype.name}))
        return replace(
            self, task=replace(self.task, scheme=replace(scheme, activation=qtype, choices=choices))
        )

    def rescaled(self, scaled: Mapping[str, tuple[Scaled, ...]]) -> PreparedModel:
        """Return the model with some constants scaled, without ranges.

        Raises:
            KeyError: it has no such constants.
        """
        if not scaled:
            return self
        model = rescaled(self.model, scaled)
        before = self.task.scaled
        joined = {n: (*before.get(n, ()), *scaled.get(n, ())) for n in (*before, *scaled)}
        task = replace(self.task, view=View(model), scaled=joined, grids=NO_GRIDS)
        ranges = self.memo_of(model, task)
        return replace(self, model=model, task=task, ranges=ranges, unscaled=self.original)


def rescaled(model: ir.Model, scaled: Mapping[str, tuple[Scaled, ...]]) -> ir.Model:
    """Return a clone of a prepared model with some of its constants scaled.

    The factors are powers of two and cancel out between two layers. Products and sums round as before, so the
    outputs are the same to the bit, except for numbers near the limits of float32.

    Raises:
        KeyError: it has no such constant, or none of that shape.
    """
    clone = model.clone()
    for name, every in scaled.items():
        value = clone.graph.initializers.get(name)
        array = float_constant(value)
        if value is None or array is None:
            raise KeyError(f"there is no float constant '{name}'")
        for one in every:
            if not -array.ndim <= one.axis < array.ndim or array.shape[one.axis] != len(one.factors):
                raise KeyError(f"'{name}' has no axis {one.axis} of {len(one.factors)}")
            array = array * laid_along(np.asarray(one.factors, np.float32), one.axis, array.ndim)
        value.const_value = ir.tensor(array, name=name)
    return clone


def laid_along(factors: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Return factors [C], shaped to multiply an array of rank `ndim` along `axis`."""
    shape = [1] * ndim
    shape[axis] = -1
    return factors.reshape(shape)
