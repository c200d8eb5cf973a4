"""A candidate: one resolved plan for a model, with all its inputs.

`resolve(draft(task, assignment), ranges)` is a pure function: the same assignment, bounds, columns and
integers give the same plan, whatever was timed or tried before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.calibration.estimators import ESTIMATORS
from qtool.calibration.ranges import Ranges, digest
from qtool.errors import UsageError
from qtool.numerics.qparams import QParams
from qtool.plan.activations import integer_ports
from qtool.plan.assignment import Assignment
from qtool.plan.calibration_fallback import fallback_nodes, fallback_ports
from qtool.plan.draft import draft
from qtool.plan.model import WEIGHTS, EditKind, Kind, OutlierColumns, Plan, Site
from qtool.plan.prepared import PreparedModel
from qtool.plan.resolve import resolve, with_bias_scales
from qtool.plan.rules import to_float
from qtool.plan.steps import with_steps
from qtool.plan.validate import validate_plan
from qtool.tables.forms import Form
from qtool.tables.ops import Bounds
from qtool.tables.qtypes import TensorSpec

# The hint of an error about a plan that a user gave.
MAKE_ANEW = "make it anew with --save-plan"

WeightKey = tuple[str, TensorSpec, tuple[int, ...]]
"""The name of a weight, its quantization, and the columns of its operand that stay in float."""


@dataclass(frozen=True)
class RoundedWeight:
    """The integers that recovery found for a weight.

    Args:
        nearest: the scales of the weight without recovery. The integers apply only at these scales.
        qparams: the scales of the integers.
        integers: of the weight's shape and qtype.dtype.
    """

    nearest: QParams | None
    qparams: QParams | None
    integers: NDArray[np.integer]


@dataclass(frozen=True)
class Candidate:
    """A plan that can be written, and its inputs.

    Args:
        model: the prepared model.
        assignment: the form of each node, after the calibration fallback.
        plan: the resolved plan.
        nearest: the same plan with every weight rounded to nearest and no correction of a bias.
        ranges: of its observed values.
        bounds: activation -> limits of its range, tighter than the observed range.
        outlier_columns: activation -> columns that its int8 consumers leave to a float product.
        rounded: the integers that recovery found.
        corrections: bias -> the offset of each channel.
        steps: the entries of the recovery log that it contains.
    """

    model: PreparedModel
    assignment: Assignment
    plan: Plan
    nearest: Plan
    ranges: Ranges
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    outlier_columns: Mapping[str, OutlierColumns] = field(default_factory=dict)
    rounded: Mapping[WeightKey, RoundedWeight] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: tuple[int, ...] = ()

    @property
    def runtime(self) -> str:
        """The runtime to race and judge it in."""
        return self.plan.runtime or self.model.runtime

    def changed(self, **fields: Any) -> Candidate:
        """Return the candidate with other inputs, resolved anew.

        Corrections belong to one set of quantized layers: with other forms they are dropped.
        """
        model = fields.pop("model", self.model)
        assignment = fields.pop("assignment", self.assignment)
        inputs: dict[str, Any] = {
            "bounds": self.bounds,
            "outlier_columns": self.outlier_columns,
            "rounded": self.rounded,
            "corrections": self.corrections if assignment.forms == self.assignment.forms else {},
            "steps": self.steps,
            "runtime": self.plan.runtime,
        }
        return make_candidate(model, assignment, **{**inputs, **fields})

    def in_runtime(self, runtime: str) -> Candidate:
        """Return the candidate for a runtime, such as the target's at another precision: the same graph."""
        plan, nearest = (replace(plan, runtime=runtime) for plan in (self.plan, self.nearest))
        return replace(self, plan=plan, nearest=nearest)

    def own_scales(self, plan: Plan) -> Plan:
        """Return a plan of some of its activations, with the scales that they have without the others."""
        task = self.model.task
        return resolve(plan, self.ranges, task.view, ESTIMATORS[task.scheme.choices.method], task.grids)

    def with_weights(self, plan: Plan) -> Candidate:
        """Return the candidate with the weights and corrections of a plan whose activations differ."""
        new = {(s.value, s.spec): s for s in plan.sites if s.kind in WEIGHTS and s.integers is not None}

        def one(site: Site) -> Site:
            other = new.get((site.value, site.spec)) if site.kind in WEIGHTS else None
            return site if other is None else replace(site, integers=other.integers, qparams=other.qparams)

        sites = tuple(map(one, self.plan.sites))
        mixed = replace(self.plan, sites=sites, corrections=plan.corrections)
        return self.with_plan(with_bias_scales(mixed))

    def with_plan(self, plan: Plan) -> Candidate:
        """Return the candidate with the integers and corrections of a plan for the same sites."""
        nearest = {(s.value, s.spec): s.qparams for s in self.nearest.sites if s.kind in WEIGHTS}
        columns = _columns(plan)
        rounded = {
            _key(site, columns): RoundedWeight(nearest[site.value, site.spec], site.qparams, site.integers)
            for site in plan.sites
            if site.kind in WEIGHTS and site.integers is not None
        }
        return replace(self, plan=plan, rounded=rounded, corrections=plan.corrections)


def make_candidate(
    model: PreparedModel,
    assignment: Assignment,
    *,
    bounds: Mapping[str, Bounds] | None = None,
    outlier_columns: Mapping[str, OutlierColumns] | None = None,
    rounded: Mapping[WeightKey, RoundedWeight] | None = None,
    corrections: Mapping[str, tuple[float, ...]] | None = None,
    steps: tuple[int, ...] = (),
    runtime: str = "",
) -> Candidate:
    """Draft and resolve an assignment after the calibration fallback.

    Raises:
        DataError, RuntimeFailure: from the first run over the samples that set ranges.
    """
    task, ranges = model.task, dict[str, Any]()
    bounds, outlier_columns = bounds or {}, outlier_columns or {}
    absent = _absence(model)
    while True:
        plan = draft(task, assignment, bounds=bounds, outlier_columns=outlier_columns, ranges=ranges)
        observed = model.ranges.of(plan.observed)
        if observed.keys() - ranges.keys():
            ranges |= observed
            if plan.fp16_observed:  # the draft depends on overflow
                continue
        fallback = fallback_nodes(task, plan, ranges, absent=absent)
        ports = fallback_ports(plan, ranges, integer_ports(task.view, task.scheme))
        ports -= assignment.float_ports
        if not fallback.keys() & assignment.forms.keys() and not ports:
            break
        reduced = to_float(task, assignment, fallback)
        assignment = replace(reduced, float_ports=assignment.float_ports | ports)
    used = {name: ranges[name] for name in plan.observed if name in ranges}
    nearest = resolve(plan, used, task.view, ESTIMATORS[task.scheme.choices.method], task.grids)
    nearest = replace(
        nearest, calibration_sha256=digest(used) if used else "", runtime=runtime or nearest.runtime
    )
    if model.buckets is not None:
        by_bucket = [{**used, **part.of(plan.observed)} for part in model.ranges.parts]
        estimator = ESTIMATORS[task.scheme.choices.method]
        nearest = with_steps(nearest, model.buckets, by_bucket, task.view, estimator, task.grids)
    return Candidate(
        model,
        assignment,
        replace(_with_integers(nearest, rounded or {}), corrections=corrections or {}),
        nearest,
        used,
        bounds,
        outlier_columns,
        rounded or {},
        corrections or {},
        steps,
    )


def _absence(model: PreparedModel) -> str:
    """Return why a value has no range where no samples were run; '' where they were."""
    if model.options.estimates:
        return "its range can't be derived without samples"
    if model.samples.calibrate is None and model.options.ranges is None:
        return "the model came without a scale for its activation, and there are no samples (--calib)"
    return ""


def from_plan(model: PreparedModel, plan: Plan) -> Candidate:
    """Return a saved plan as a candidate.

    Raises:
        UsageError: the plan is for another model, or does not fit it.
    """
    if plan.model_sha256 != model.source.sha256:
        raise UsageError(
            f"the plan was made for another model (sha256 {plan.model_sha256[:12] or 'unknown'})"
        )
    if problem := validate_plan(plan, model.view):
        raise UsageError(f"the plan does not fit the model: {problem}", MAKE_ANEW)
    activations = [s for s in plan.sites if s.kind is Kind.ACTIVATION]
    columns = _columns(plan)
    rounded = {
        _key(s, columns): RoundedWeight(None, s.qparams, s.integers)
        for s in plan.sites
        if s.kind in WEIGHTS and s.integers is not None
    }
    biases = [s for s in plan.sites if s.kind is Kind.BIAS and s.scale_from]
    added = {name for s in biases for name, _ in s.uses or () if s.scale_from and name != s.scale_from[1]}
    added |= {name for e in plan.edits if e.kind is EditKind.ADDED_BIAS for name, _ in e.uses or ()}
    forms = {n: f for n, f in plan.forms.items() if f is not Form.FLOAT16 and n not in added}
    reasons = {skip.node: skip.reason for skip in plan.skips}
    types = {n: s.spec.qtype for s in plan.sites if s.kind in WEIGHTS for n, _ in s.uses or ()}
    products = {n: t for n, t in types.items() if n in forms and t in model.scheme.weight_levels.values()}
    types = {n: t for n, t in types.items() if n not in forms} | dict(model.constraints.weight_types)
    return Candidate(
        model,
        Assignment(forms, reasons, types, products),
        plan,
        plan,
        {},
        {s.value: s.bounds for s in activations},
        plan.outlier_columns,
        rounded,
        plan.corrections,
    )


def _columns(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the columns of each node's operand that stay in float: node -> columns."""
    return {
        name: plan.outlier_columns[s.value].columns
        for s in plan.sites
        if s.value in plan.outlier_columns
        for name, _ in s.uses or ()
    }


def _key(site: Site, columns: Mapping[str, tuple[int, ...]]) -> WeightKey:
    """Return the key of the integers of a weight."""
    split = {c for name, _ in site.uses or () for c in columns.get(name, ())}
    return site.value, site.spec, tuple(sorted(split))


def _with_integers(plan: Plan, rounded: Mapping[WeightKey, RoundedWeight]) -> Plan:
    """Return the plan with the integers of all weights that have the same scales and columns."""
    if not rounded:
        return plan
    columns = _columns(plan)

    def one(site: Site) -> Site:
        weight = rounded.get(_key(site, columns)) if site.kind in WEIGHTS else None
        if weight is None or (weight.nearest is not None and weight.nearest != site.qparams):
            return site
        return replace(site, integers=weight.integers, qparams=weight.qparams)

    return with_bias_scales(replace(plan, sites=tuple(map(one, plan.sites))))
