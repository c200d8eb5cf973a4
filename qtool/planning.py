"""From a job to a resolved plan: draft, calibrate, and draft again until nothing is unfit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from qtool.calibrate.analytic import propagate, roughness
from qtool.calibrate.observers import OBSERVERS
from qtool.calibrate.ranges import Ranges, digest
from qtool.calibrate.runner import calibrate
from qtool.data.samples import Source as Samples
from qtool.errors import UsageError, did_you_mean
from qtool.job import Job, estimates
from qtool.numerics.qparams import QParams
from qtool.options import Progress
from qtool.plan.activations import integer_ports, positive
from qtool.plan.draft import draft
from qtool.plan.model import WEIGHTS, Plan, Scaled, Site, Wishes
from qtool.plan.resolve import resolve
from qtool.plan.unfit import unfit_nodes, unfit_ports
from qtool.plan.validate import validate_plan
from qtool.tables.methods import METHODS
from qtool.tables.qtypes import TensorSpec


@dataclass(frozen=True)
class Planned:
    """A plan that can be written, and what it rests on.

    Args:
        maker: of it, and of others for the same model.
        plan: resolved.
        wish: what it was drafted by, with what calibration showed to be unfit.
        ranges: of the values that were looked at.
        rough: how far ranges that nobody observed may be off, to be told; '' where samples set them.
    """

    maker: Planner
    plan: Plan
    wish: Wishes
    ranges: Ranges = field(default_factory=dict)
    rough: str = ""

    @property
    def job(self) -> Job:
        """What it is for."""
        return self.maker.job

    def again(self, wish: Wishes) -> Planned:
        """The plan for another wish, with what was won by now: integers, corrections of biases, notes."""
        self.maker.keep(self)
        other = self.maker.plan(wish)
        plan = replace(other.plan, units=self.plan.units, corrections=self.plan.corrections)
        return replace(other, plan=plan)


def replayed(maker: Planner, plan: Plan) -> Planned:
    """A saved plan, if it is for this very model.

    Raises:
        UsageError: it is for another model, or was never resolved.
    """
    job = maker.job
    if plan.model_sha256 != job.source.sha256:
        raise UsageError(
            f"the plan was made for another model (sha256 {plan.model_sha256[:12] or 'unknown'})"
        )
    if problem := validate_plan(plan, job.view):
        raise UsageError(f"the plan does not fit the model: {problem}", "make it anew with --save-plan")
    return Planned(maker, plan, job.wish)


class Planner:
    """Makes plans for one job. What calibration has seen once it is not asked again.

    Args:
        job: the model, and what was asked.
        calib: samples; None where ranges come from elsewhere, or nowhere.
        progress: told how calibration goes.
    """

    def __init__(self, job: Job, calib: Samples | None, progress: Progress) -> None:
        self.job = job
        self.calib = calib
        self._progress = progress
        self._ranges: Ranges = {}
        self._basis: dict[str, str] = {}
        self._asked: set[str] = set()
        self._rounded: dict[tuple[str, TensorSpec], tuple[QParams | None, Site]] = {}

    def rescaled(self, scaled: Mapping[str, tuple[Scaled, ...]]) -> Planner:
        """One for the same model with some of its constants scaled, of which nothing is known yet."""
        return Planner(self.job.rescaled(scaled), self.calib, self._progress)

    def keep(self, planned: Planned) -> None:
        """Give each weight the integers that a plan has for it, wherever it has the same scale."""
        self._rounded = {}
        plain = self.plan(planned.wish).plan
        before = {(s.value, s.spec): s.qparams for s in plain.sites if s.kind in WEIGHTS}
        for site in planned.plan.sites:
            if site.kind in WEIGHTS and site.integers is not None:
                self._rounded[site.value, site.spec] = before[site.value, site.spec], site

    def plan(self, wish: Wishes) -> Planned:
        """Draft, calibrate, and draft again without what calibration shows to be unfit, until nothing is."""
        job = self.job
        absent = "its range can't be derived without samples" if estimates(job.options) else ""
        while True:
            plan = draft(job.view, job.scheme, wish, job.source.sha256, self._ranges)
            if self._observe(plan):
                continue
            unfit = unfit_nodes(plan, self._ranges, job.view, job.scheme.mode, absent)
            ports = unfit_ports(plan, self._ranges, integer_ports(job.view, job.scheme))
            # A port that was asked for stays one though every node around it went back to float.
            if unfit.keys() <= wish.keep_float.keys() and not ports:
                resolved = resolve(plan, self._ranges, job.view, OBSERVERS[job.options.method])
                signed = _signed(job, self._with_integers(resolved), self._ranges)
                return Planned(self, signed, wish, self._ranges, roughness(self._basis))
            wish = replace(
                wish, keep_float={**unfit, **wish.keep_float}, float_ports=wish.float_ports | ports
            )

    def _with_integers(self, plan: Plan) -> Plan:
        """The plan with the integers that are kept; products that have columns spared have other weights."""
        spared = {use for s in plan.sites if s.value in plan.outlier_columns for use in s.uses or ()}
        other = {node for node, _ in spared}

        def rounded(site: Site) -> Site:
            before, kept = self._rounded.get((site.value, site.spec), (None, site))
            if site.kind not in WEIGHTS or before != site.qparams or other & {n for n, _ in site.uses or ()}:
                return site
            return replace(site, integers=kept.integers, qparams=kept.qparams)

        return replace(plan, sites=tuple(map(rounded, plan.sites))) if self._rounded else plan

    def _observe(self, plan: Plan) -> bool:
        """Find the ranges that a plan needs and nobody has asked for yet; whether there were any."""
        job = self.job
        todo = [v for v in plan.observed if v not in self._asked and job.view.in_main(job.view.values[v])]
        if not todo or (self.calib is None and job.known is None and not estimates(job.options)):
            return False
        found, rests = _ranges(job, todo, self.calib, self._progress)
        self._ranges = self._ranges | found
        self._basis |= rests
        self._asked |= set(todo)
        return True


def _ranges(
    job: Job, values: list[str], calib: Samples | None, progress: Progress
) -> tuple[Ranges, dict[str, str]]:
    """What samples show of the values; without any, what the model itself says, and on what basis."""
    if job.known is not None:
        return {v: job.known.ranges[v] for v in values if v in job.known.ranges}, {}
    if calib is None:
        declared = input_ranges(job.prepared.model, job.options.input_range)
        estimate = propagate(job.source.model, job.prepared.model, values, declared)
        return estimate.ranges, estimate.basis
    observed = calibrate(
        job.prepared.model,
        values,
        calib,
        threads=job.options.threads,
        histograms=METHODS[job.options.method].needs_histogram,
        positive=positive(job.view, values),
        progress=lambda done, total: progress("calibrate", done, total),
    )
    return observed, {}


def input_ranges(model: ir.Model, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What '[INPUT=]LOW,HIGH' says of the float inputs; without a name, of all of them.

    Raises:
        UsageError: not of that form, or no such input.
    """
    floats = [v.name or "" for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            lo, hi = (float(n) for n in numbers.split(","))
        except ValueError:
            raise UsageError(f"--input-range '{text}' is not [INPUT=]LOW,HIGH", "for example: 0,1") from None
        if not -math.inf < lo < hi < math.inf:
            raise UsageError(f"--input-range '{text}': LOW must be below HIGH")
        if name and name not in floats:
            raise UsageError(f"--input-range '{text}': no float input '{name}'", did_you_mean(name, floats))
        found |= dict.fromkeys([name] if name else floats, (lo, hi))
    return found


def _signed(job: Job, plan: Plan, ranges: Ranges) -> Plan:
    """The plan with what it was asked for and made from."""
    options = job.options
    return replace(
        plan,
        choices=options.choices,
        exclude=tuple(options.exclude),
        include=tuple(options.include),
        sets=tuple(options.sets),
        calibration_sha256=digest(ranges) if ranges else "",
        scaled=job.scaled,
    )
