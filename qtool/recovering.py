"""Accuracy won back after placement, a step at a time: what does not lower the error is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from qtool.data.samples import Source as Samples
from qtool.data.samples import synthetic
from qtool.errors import UsageError, did_you_mean
from qtool.job import Job
from qtool.options import Progress
from qtool.plan.choose import Gain
from qtool.plan.model import WEIGHTS, Plan
from qtool.planning import Planned
from qtool.recover.gptq import improved
from qtool.tables.recoveries import AUTO, NONE, RECOVERIES
from qtool.trials import tried

# What is no more than this is no gain: another choice of samples would turn it round.
_LEAST_DB = 0.05


@dataclass(frozen=True)
class Given:
    """What a step works with: the job, the samples that set ranges, those that judge."""

    job: Job
    calib: Samples
    held_out: Samples
    progress: Progress


def wanted(text: str) -> frozenset[str]:
    """The steps of --recover: auto, none, or names with commas between.

    Raises:
        UsageError: no such step.
    """
    if text in (AUTO, NONE):
        return frozenset(RECOVERIES if text == AUTO else ())
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RECOVERIES:
            hint = did_you_mean(name, RECOVERIES) or f"auto, none, or of: {', '.join(RECOVERIES)}"
            raise UsageError(f"--recover: no technique '{name}'", hint)
    return frozenset(names)


def recovered(
    job: Job, planned: Planned, calib: Samples | None, held_out: Samples | None, progress: Progress
) -> tuple[Planned, tuple[Gain, ...]]:
    """A plan with every step that lowers its error, and what each came to.

    Args:
        job: the model, and what was asked.
        planned: resolved.
        calib: samples that set its ranges.
        held_out: those that it is judged on. Without either, and on made-up ones, nothing is done.
        progress: told how far it is.
    """
    if calib is None or held_out is None or synthetic(held_out):
        return planned, ()
    given, gains = Given(job, calib, held_out, progress), []
    asked = wanted(job.options.recover)
    for name in (step for step in _STEPS if step in asked):
        start = time.perf_counter()
        plan = _STEPS[name](given, planned.plan)
        if plan == planned.plan:
            continue
        before, after = tried(job, {"before": planned.plan, "after": plan}, held_out, False, _quiet)
        kept = after.sqnr > before.sqnr + _LEAST_DB
        gains.append(Gain(name, before.sqnr, after.sqnr, time.perf_counter() - start, kept))
        planned = replace(planned, plan=plan) if kept else planned
    return planned, tuple(gains)


def _quiet(stage: str, done: int, total: int) -> None:
    """A step is one piece of work to whoever watches."""


def _gptq(given: Given, plan: Plan) -> Plan:
    """GPTQ, but for products that have columns spared: their weights have rows of zeros by then."""
    view = given.job.view
    spared = {use.node.name for value in plan.spared for use in view.values[value].uses()}
    whole = tuple(
        s for s in plan.sites if s.kind not in WEIGHTS or not any(n in spared for n, _ in s.uses or ())
    )
    found = improved(
        view,
        replace(plan, sites=whole),
        given.calib,
        given.job.options.threads,
        lambda done, total: given.progress("recover", done, total),
    )
    rounded = {id(before): after for before, after in zip(whole, found.sites, strict=True)}
    return replace(plan, sites=tuple(rounded.get(id(s), s) for s in plan.sites))


# In the order of tables/recoveries.py. Columns are spared before placement (sparing.py), which they bear on.
_STEPS: Mapping[str, Callable[[Given, Plan], Plan]] = {"gptq": _gptq}
