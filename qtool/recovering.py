"""Accuracy won back after placement, a step at a time: what does not lower the error is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from qtool.data.samples import Source as Samples
from qtool.data.samples import synthetic
from qtool.errors import ModelError, RuntimeFailure, UsageError, did_you_mean
from qtool.graph.view import View
from qtool.keeping import kept_float
from qtool.options import Options, Progress, silent
from qtool.plan.choose import Gain
from qtool.plan.model import Plan
from qtool.planning import Planned
from qtool.ranging import narrowed
from qtool.recover.adaround import learned
from qtool.recover.awq import activation_aware
from qtool.recover.balance import Balances
from qtool.recover.bias import corrected
from qtool.recover.equalize import equalized
from qtool.recover.gptq import improved
from qtool.recover.hqq import half_quadratic_plan
from qtool.recover.smooth import smoothed
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.tables.efforts import EFFORTS
from qtool.tables.recoveries import AUTO, NONE, RECOVERIES
from qtool.trials import tried

# What is no more than this is no gain: another choice of samples would turn it round.
_LEAST_DB = 0.05

Kept = Callable[[Planned], None]
"""Called with each plan that is better than all before it."""


def ignored(planned: Planned) -> None:
    """A better plan that nobody keeps."""


@dataclass(frozen=True)
class Given:
    """What a step works with: the samples that set ranges, those that judge, who is told how far it is."""

    calib: Samples
    held_out: Samples
    progress: Callable[[int, int], None]


Step = Callable[[Given, Planned], Planned]


def wanted(options: Options) -> frozenset[str]:
    """The steps of --recover: auto, none, or names with commas between.

    Raises:
        UsageError: no such step.
    """
    text = options.recover
    if text in (AUTO, NONE):
        return frozenset(r.name for r in RECOVERIES.values() if text == AUTO and r.within(options.effort))
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RECOVERIES:
            hint = did_you_mean(name, RECOVERIES) or f"auto, none, or of: {', '.join(RECOVERIES)}"
            raise UsageError(f"--recover: no technique '{name}'", hint)
    return frozenset(names)


def recovered(
    planned: Planned,
    calib: Samples | None,
    held_out: Samples | None,
    progress: Progress,
    kept: Kept = ignored,
    only: Collection[str] | None = None,
    but: Collection[str] = (),
) -> tuple[Planned, tuple[Gain, ...]]:
    """A plan with every step that lowers its error, and what each came to.

    Args:
        planned: resolved.
        calib: samples that set its ranges.
        held_out: those that it is judged on. Without either, and on made-up ones, nothing is done.
        progress: told how far it is.
        kept: told of each better plan.
        only: of the steps that were asked for; None: all.
        but: of them, what is left out.
    """
    if calib is None or held_out is None or synthetic(held_out):
        return planned, ()
    options = planned.job.options
    asked, effort = wanted(options), EFFORTS[options.effort]
    asked = (asked & set(STEPS if only is None else only)) - set(but)
    gains: list[Gain] = []
    sqnr: float | None = None
    for _ in range(max(effort.rounds, 1)):
        before = planned
        for name in (step for step in STEPS if step in asked):
            won = sum(g.after - g.before for g in gains if g.kept)
            stage = f"recover: {name}" + (f", {won:+.1f} dB so far" if won else "")
            given = Given(calib, held_out, partial(progress, stage))
            start, failed = time.perf_counter(), ""
            try:
                better = STEPS[name](given, planned)
            except (ModelError, RuntimeFailure) as error:
                better, failed = planned, error.message  # a step more or less costs nobody the model
            if better.plan == planned.plan and not failed:
                continue
            if sqnr is None:
                sqnr = _sqnr(planned, held_out, effort.judged)
            if failed:
                seconds = time.perf_counter() - start
                gains.append(Gain(name, sqnr, sqnr, seconds, kept=False, failed=failed))
                continue
            after = _sqnr(better, held_out, effort.judged)
            gain = Gain(name, sqnr, after, time.perf_counter() - start, after > sqnr + _LEAST_DB)
            gains.append(gain)
            if gain.kept:
                planned, sqnr = better, after
                kept(planned)
        if planned is before:
            break
    return planned, tuple(gains)


def _sqnr(planned: Planned, held_out: Samples, judged: int) -> float:
    """dB of the worst output on some held-out samples."""
    (trial,) = tried(planned.job, {"": planned}, held_out, False, silent, judged)
    return trial.sqnr


def _balancing(technique: Callable[..., Balances]) -> Step:
    """What scales constants of the float model: the plan is made anew for that model."""

    def step(given: Given, planned: Planned) -> Planned:
        job = planned.job
        found = technique(job.view, planned.plan, given.calib, job.options.threads)
        if not found or planned.wish.bounds:  # ranges that were chosen are of values as they were
            return planned
        better = planned.maker.rescaled(found).plan(planned.wish)
        return replace(better, plan=replace(better.plan, units=planned.plan.units))

    return step


def _ranges(given: Given, planned: Planned) -> Planned:
    return narrowed(planned, given.calib, given.held_out, lambda stage, *counts: given.progress(*counts))


def _rounding(technique: Callable[..., Plan]) -> Step:
    """What gives weights other integers."""

    def step(given: Given, planned: Planned) -> Planned:
        threads = planned.job.options.threads
        plan = technique(_split(planned), planned.plan, given.calib, threads, given.progress)
        return replace(planned, plan=plan)

    return step


def _hqq(given: Given, planned: Planned) -> Planned:
    return replace(planned, plan=half_quadratic_plan(planned.job.view, planned.plan))


def _split(planned: Planned) -> View:
    """The float model as its weights are when columns are spared: with rows of zeros."""
    if not planned.plan.outlier_columns:
        return planned.job.view
    model = planned.job.prepared.model.clone()
    split_outlier_columns(model, planned.plan)
    return View(model)


def _bias(given: Given, planned: Planned) -> Planned:
    job = planned.job
    plan = corrected(job.prepared.model, planned.plan, given.calib, job.options.threads, given.progress)
    return replace(planned, plan=plan)


def done_before(gains: Sequence[Gain]) -> frozenset[str]:
    """The steps that need not be tried on what was chosen: those that all candidates have.

    GPTQ goes on with the weights that had no such integers, and biases depend on what is in int8.
    """
    return frozenset(g.name for g in gains if g.kept) - {"gptq", "bias"}


# In the order of tables/recoveries.py: what changes the float model, then scales, then integers, and biases
# last, which make up for what is left. Columns are spared before placement (sparing.py), which they bear on.
STEPS: Mapping[str, Step] = {
    "equalize": _balancing(equalized),
    "smooth": _balancing(smoothed),
    "awq": _balancing(activation_aware),
    "ranges": _ranges,
    "keep-float": lambda given, planned: kept_float(planned, given.held_out),
    "hqq": _hqq,
    "gptq": _rounding(improved),
    "adaround": _rounding(learned),
    "bias": _bias,
}
