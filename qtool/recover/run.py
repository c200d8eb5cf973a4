"""Recovery: steps that lower the error of a candidate, each kept only if the SQNR on the select set rises."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from qtool.errors import ModelError, RuntimeFailure, UsageError, did_you_mean
from qtool.evaluate.evaluator import Evaluator, Gain
from qtool.graph.view import View
from qtool.options import Options
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.recover.adaround import learn_rounding
from qtool.recover.awq import AWQ
from qtool.recover.bias_correction import bias_correction
from qtool.recover.channel_scaling import Technique, scale_channels
from qtool.recover.equalize import EQUALIZE
from qtool.recover.finetune.step import NAME as NEEDS_TORCH
from qtool.recover.finetune.step import check_torch, finetune
from qtool.recover.float_weights import keep_float_weights
from qtool.recover.gptq import round_weights
from qtool.recover.hqq import half_quadratic_plan
from qtool.recover.range_search import search_ranges
from qtool.recover.smoothquant import SMOOTHQUANT
from qtool.recover.wide_activations import widen
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.runtime.heartbeat import StepProgress
from qtool.runtime.memory import give_back, peak_memory
from qtool.tables.efforts import EFFORTS
from qtool.tables.recoveries import AUTO, NONE, RECOVERIES

# A step takes about this many inferences for each select sample: statistics, and a comparison.
RUNS = 4
# Other samples would change a smaller gain into a loss.
_LEAST_DB = 0.05
# The steps before placement: no layer should go to float for an error that recovery removes.
BEFORE_PLACEMENT = ("equalize", "ranges", "gptq", "bias")
# Steps that are repeated after placement: GPTQ rounds the weights that have no integers yet, and corrections
# depend on every quantized layer.
REPEATED = frozenset({"gptq", "bias"})

Step = Callable[[Candidate, Evaluator, StepProgress], Candidate]
"""Returns a changed candidate; the same one where there is nothing to change."""


def requested_steps(options: Options) -> frozenset[str]:
    """Return the steps of --recover: auto, none, or names with commas between. Auto may be a name.

    Raises:
        UsageError: no such step.
        EnvironmentFailure: a step needs a library that is not installed.
    """
    text = options.recover
    if text in (AUTO, NONE):
        return frozenset(r.name for r in RECOVERIES.values() if text == AUTO and r.within(options.effort))
    names = {name.strip() for name in text.split(",")}
    for name in names - {AUTO}:
        if name not in RECOVERIES:
            hint = did_you_mean(name, RECOVERIES) or f"auto, none, or of: {', '.join(RECOVERIES)}"
            raise UsageError(f"--recover: no technique '{name}'", hint)
    if NEEDS_TORCH in names:
        check_torch()
    if AUTO in names:
        names |= {r.name for r in RECOVERIES.values() if r.within(options.effort)}
    return frozenset(names - {AUTO})


def searches_ranges(options: Options) -> bool:
    """Return whether recovery may search the ranges of activations, which takes their histograms."""
    return EFFORTS[options.effort].rounds > 0 and "ranges" in requested_steps(options)


def recover(
    candidate: Candidate,
    evaluator: Evaluator,
    *,
    steps: Collection[str] | None = None,
    log: bool = True,
) -> Candidate:
    """Return the candidate with every requested step that raises its SQNR.

    Steps that the candidate contains are not tried again, except those of REPEATED. Without a select set or
    samples for statistics, or with random ones, the candidate is returned unchanged.

    Args:
        candidate: any.
        evaluator: measures on the select set, and logs the gain of each step.
        steps: the steps to try, of those requested; None: all.
        log: whether the steps are logged.
    """
    if evaluator.statistics is None or evaluator.select is None:
        return candidate
    if candidate.model.task.grids and candidate.model.options.recover == AUTO:
        return candidate  # the model came with scales, perhaps trained ones
    options = candidate.model.options
    wanted = requested_steps(options) & set(STEPS if steps is None else steps)
    wanted -= steps_of(candidate, evaluator) - REPEATED
    if steps is None and EFFORTS[options.effort].inferences is not None:
        wanted -= _rejected(candidate, evaluator)
    entries = evaluator.log if log else []
    total = 0.0
    for _ in range(max(EFFORTS[options.effort].rounds, 1)):
        before = candidate
        for name in (step for step in STEPS if step in wanted):
            if not evaluator.affords(name, RUNS * len(evaluator.select)):
                continue
            stage = f"recover: {name}" + (f", {total:+.1f} dB so far" if total else "")
            other, gain = _try(name, candidate, evaluator, partial(evaluator.progress, stage))
            if gain is None:
                continue
            entries.append(replace(gain, before_placement=steps is not None))
            if gain.kept:
                total += gain.after - gain.before
                candidate = replace(other, steps=(*candidate.steps, len(entries) - 1)) if log else other
                if steps is None:
                    evaluator.keep(candidate)
        if candidate is before:
            break
    return candidate


def _rejected(candidate: Candidate, evaluator: Evaluator) -> set[str]:
    """The steps that were rejected before placement; in a candidate without int8 they have another effect."""
    if not candidate.plan.forms:
        return set()
    return {gain.name for gain in evaluator.log if gain.before_placement and not gain.kept}


def steps_of(candidate: Candidate, evaluator: Evaluator) -> frozenset[str]:
    """Return the names of the steps that a candidate contains."""
    return frozenset(evaluator.log[i].name for i in candidate.steps)


def _try(
    name: str, candidate: Candidate, evaluator: Evaluator, progress: StepProgress
) -> tuple[Candidate, Gain | None]:
    """Try a step: the new candidate and the gain; None where the step changes nothing."""
    progress(0, 0)
    give_back()  # what the sessions before left free
    start = time.perf_counter()
    try:
        other = STEPS[name](candidate, evaluator, progress)
    except (ModelError, RuntimeFailure) as error:  # a failed step must not fail the run
        sqnr = evaluator.error(candidate).sqnr
        seconds = time.perf_counter() - start
        return candidate, Gain(name, sqnr, sqnr, seconds, kept=False, failed=error.message)
    if other.plan == candidate.plan:
        return candidate, None
    before, after = evaluator.error(candidate).sqnr, evaluator.error(other).sqnr
    give_back()
    seconds = time.perf_counter() - start
    kept = after > before + _LEAST_DB
    return other, Gain(name, before, after, seconds, kept, peak_bytes=peak_memory())


def _scaling(technique: Technique) -> Step:
    """A step that scales constants of the float model; the candidate is resolved anew for that model."""

    def step(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
        model, samples = candidate.model, evaluator.statistics
        if samples is None or candidate.bounds:  # bounds were chosen for the activations as they are
            return candidate
        scalings = scale_channels(technique, model.view, candidate.plan, samples, model.threads)
        if not scalings:
            return candidate
        return candidate.changed(model=model.rescaled(scalings), rounded={}, corrections={})

    return step


def _rounding(technique: Callable[..., Plan]) -> Step:
    """A step that changes the integers of weights."""

    def step(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
        view, threads = _split(candidate), candidate.model.threads
        return candidate.with_plan(technique(view, candidate.plan, evaluator.statistics, threads, progress))

    return step


def _hqq(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    return candidate.with_plan(half_quadratic_plan(candidate.model.view, candidate.plan))


def _bias(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    model, samples = candidate.model, evaluator.statistics
    if samples is None:
        return candidate
    return candidate.with_plan(bias_correction(model.view, candidate.plan, samples, model.threads, progress))


def _split(candidate: Candidate) -> View:
    """The float model with the int8 products' weights, in which the rows of outlier columns are zeros."""
    if not candidate.plan.outlier_columns:
        return candidate.model.view
    model = candidate.model.model.clone()
    split_outlier_columns(model, candidate.plan)
    return View(model)


# In the order of tables/recoveries.py: first changes of the float model, then ranges, then integers, and last
# biases. Outlier columns affect placement and are chosen there.
STEPS: Mapping[str, Step] = {
    "wide": widen,
    "equalize": _scaling(EQUALIZE),
    "smooth": _scaling(SMOOTHQUANT),
    "awq": _scaling(AWQ),
    "ranges": search_ranges,
    "keep-float": keep_float_weights,
    "hqq": _hqq,
    "gptq": _rounding(round_weights),
    "adaround": _rounding(learn_rounding),
    "bias": _bias,
    "finetune": finetune,
}
