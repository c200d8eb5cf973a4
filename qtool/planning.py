"""From a job to a resolved plan: draft, calibrate, and draft again until nothing is unfit."""

from __future__ import annotations

from dataclasses import replace

from qtool.calibrate.ranges import Ranges, digest
from qtool.calibrate.runner import calibrate
from qtool.data.samples import Source as Samples
from qtool.errors import UsageError
from qtool.job import Job
from qtool.options import Progress
from qtool.plan.draft import draft
from qtool.plan.misfit import misfit
from qtool.plan.model import Plan, Wishes
from qtool.plan.resolve import resolve
from qtool.plan.unfit import unfit_nodes


def replayed(job: Job, plan: Plan) -> tuple[Plan, Ranges]:
    """A saved plan, if it is for this very model.

    Raises:
        UsageError: it is for another model, or was never resolved.
    """
    if plan.model_sha256 != job.source.sha256:
        raise UsageError(
            f"the plan was made for another model (sha256 {plan.model_sha256[:12] or 'unknown'})"
        )
    if problem := misfit(plan, job.view):
        raise UsageError(f"the plan does not fit the model: {problem}", "make it anew with --save-plan")
    return plan, {}


def make_plan(job: Job, wish: Wishes, calib: Samples | None, progress: Progress) -> tuple[Plan, Ranges]:
    """Draft, calibrate, and draft again without what calibration shows to be unfit, until nothing is."""
    ranges: Ranges = {}
    asked: set[str] = set()
    while True:
        plan = draft(job.view, job.scheme, wish, job.source.sha256)
        todo = [v for v in plan.observed if v not in asked and job.view.in_main(job.view.values[v])]
        if todo and calib is not None:
            ranges |= calibrate(
                job.prepared.model,
                todo,
                calib,
                threads=job.options.threads,
                progress=lambda done, total: progress("calibrate", done, total),
            )
            asked |= set(todo)
        unfit = unfit_nodes(plan, ranges, job.view, job.scheme.mode)
        if not unfit:
            return _signed(job, resolve(plan, ranges, job.view), ranges), ranges
        wish = replace(wish, keep_float={**unfit, **wish.keep_float})


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
    )
