"""The flow, in one function: from a model and samples to a quantized model and its verdict.

Every mode runs it. A step that does not apply returns its input: without a select set nothing is measured,
without timing the rules decide, and a plan to replay enters where the file is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import onnx

from qtool.commands.prepare import NO_SAMPLES, load_model, prepare_model, refusal
from qtool.commands.sizes import choice_sizes
from qtool.commands.targets import Outcome, check_racing, search_targets, targets_of, with_targets
from qtool.commands.verdict import Request, judge_file, plan_report, result_report, selection_of, with_audit
from qtool.errors import ModelError, UsageError, printable
from qtool.evaluate.audit import write_audited
from qtool.evaluate.criteria import criteria_of
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.judging import gates_of, measures_of, with_scores
from qtool.graph.save import Staging, check_target, save_text, staged, target_path
from qtool.options import ModelLike, Options, Progress, silent
from qtool.placement.acceptance import first_accepted
from qtool.placement.first_race import FirstRace, race_first
from qtool.placement.place import Placement, place
from qtool.placement.timing import check_tunable, measure_timing
from qtool.plan import serial
from qtool.plan.candidate import MAKE_ANEW, Candidate, from_plan, make_candidate
from qtool.plan.draft import draft
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import rule_based
from qtool.recover.run import BEFORE_PLACEMENT, recover, requested_steps
from qtool.report.model import Report, Result
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.pool import opened
from qtool.runtime.session import Session
from qtool.runtime.threads import requested_threads
from qtool.tables.targets import AUTO, BEST, TargetName

_PATTERNS = ("exclude", "include", "sets")


@single_threaded_blas()
def quantize(
    model: ModelLike,
    output: str | Path,
    options: Options | None = None,
    progress: Progress = silent,
    *,
    points: int | None = None,
) -> Result:
    """Quantize a model, write it to `output`, and judge the file that was written.

    The output appears complete, and only when every gate holds; the input is never changed. Int8 that is not
    faster here than FP32 is given up for FP32 with weights stored as int8, and the report says so.

    Args:
        model: a path, or a model in memory.
        output: the file to write.
        options: what the user chooses.
        progress: called with the stage, and how much of it is done.
        points: how many points of the Pareto front are built and raced, spread along it, as `tune` does;
            None: the most promising ones, as many as the effort says.

    Raises:
        QtoolError: UsageError, ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    options = options or Options()
    output = target_path(output)
    request = _check(model, output, options)
    names, left_out = targets_of(options)
    source = load_model(model)
    check_target(output, list(source.files), options.force)
    request = replace(request, measures=with_scores(request.measures, options, source.model))
    with ExitStack() as stack:
        stack.enter_context(_requested_threads(options))
        resumable = options.checkpoint is not None
        staging = stack.enter_context(staged(output, resumable=resumable, resume=options.resume))
        several = options.ray or options.jobs > 1
        pool = stack.enter_context(opened(options.jobs, options.ray)) if several else None

        def search(name: TargetName) -> Outcome:
            prepared = prepare_model(source, replace(options, target=name), progress)
            if points is not None:
                check_tunable(prepared)
            if len(names) > 1:
                check_racing(prepared)
            criteria = criteria_of(prepared, request.gates, request.measures)
            evaluator = stack.enter_context(
                Evaluator(prepared, criteria, progress, _checkpoint(options), pool)
            )
            with _blamed(prepared):
                return Outcome(evaluator, *_search(prepared, evaluator, points, progress))

        best, targets, trials = search_targets(names, left_out, search)
        placement, chosen, evaluator = best.placement, best.chosen, best.evaluator
        stack.enter_context(_blamed(chosen.model))
        progress("write", 0, 0)
        mend = options.plan is None or options.resume
        chosen, audit = write_audited(chosen, staging, evaluator.sqnr_of_few, mend=mend)
        selection = selection_of(chosen, evaluator) if mend else None
        verdict = judge_file(chosen, staging, request, progress)
        report = result_report(chosen, placement, evaluator, selection, verdict, staging)
        report = with_targets(with_audit(report, audit), targets, trials)
        return _commit(report, chosen, staging, options)


def _search(
    prepared: PreparedModel, evaluator: Evaluator, points: int | None, progress: Progress
) -> tuple[Placement, Candidate]:
    """Return the candidates that were built for a target, and the best accepted one."""
    options = prepared.options
    if options.plan is not None and not options.resume:
        placement = Placement(from_plan(prepared, options.plan))
        return placement, placement.candidate
    timing = measure_timing(prepared, progress)
    first = None if timing is None else race_first(timing, evaluator)
    base = draft_all(prepared, first)
    if first is not None and first.pays:
        base = recover(base, evaluator, steps=BEFORE_PLACEMENT)
    placement = place(base, first, evaluator, points)
    evaluator.keep(placement.candidate)
    best = recover(placement.candidate, evaluator)
    return placement, placement.annotated(first_accepted(placement, best, evaluator))


def draft_all(model: PreparedModel, first: FirstRace | None) -> Candidate:
    """Return the candidate to begin with: everything that can pay, a plan to go on from, or the rules'."""
    if model.options.plan is not None:
        return from_plan(model, model.options.plan)
    if first is not None:
        return first.base
    return make_candidate(model, rule_based(model.task))


@single_threaded_blas()
def dry_run(model: ModelLike, options: Options | None = None) -> Result:
    """Return what quantize would do by the rules, without data: nothing is run or written.

    The report has the size of the file in each mode that needs no samples.
    Calibration may still put nodes back to float (outliers, masks, branches that never ran).
    """
    options = options or Options()
    target = options.plan.target if options.plan is not None else options.target
    if "," in target or target == BEST:
        raise UsageError("a dry run shows one target, and races none", "name one target")
    with _requested_threads(options):
        prepared = prepare_model(model, options, sets=NO_SAMPLES)
        plan = prepared.options.plan or draft(prepared.task, rule_based(prepared.task))
        report = replace(plan_report(prepared, plan), sizes=choice_sizes(prepared.source, options))
    return Result(report, plan)


def _requested_threads(options: Options) -> AbstractContextManager[None]:
    """Let as many threads as there are workers here read and write weights in side files."""
    return requested_threads(0 if options.ray else options.jobs)


def _check(model: ModelLike, output: Path, options: Options) -> Request:
    """Refuse what can be refused before anything is loaded."""
    request = Request(measures_of(options), gates_of(options))
    requested_steps(options)
    _check_resumed(options)
    check_target(output, [] if isinstance(model, onnx.ModelProto) else [Path(model)], options.force)
    return request


def _check_resumed(options: Options) -> None:
    """Refuse to go on from the plan of other options.

    Raises:
        UsageError: it is one. The search chooses the type of activations, and one of several targets.
    """
    plan = options.plan
    if plan is None or not options.resume:
        return
    own: dict[str, object] = {
        "mode": options.mode,
        **{name: tuple(getattr(options, name)) for name in _PATTERNS},
    }
    own |= {name: choice for name, choice in vars(options.choices).items() if name != "acts"}
    if options.target_size or options.target_bits:
        del own["bits"], own["weights"]
    if options.target not in (AUTO, BEST) and "," not in options.target:
        own["target"] = options.target
    for name, value in own.items():
        other = getattr(plan, name) if hasattr(plan, name) else getattr(plan.choices, name)
        if other != value:
            shown = (printable(str(v), 60) for v in (other, value))
            raise UsageError(
                f"the checkpoint is of other options: its {name} is {next(shown)}, not {next(shown)}",
                "give the same options, or remove it",
            )


def _checkpoint(options: Options) -> Callable[[Candidate], None]:
    """Return what keeps the best plan so far in the checkpoint file: always a whole one."""

    def keep(candidate: Candidate) -> None:
        if options.checkpoint is not None:
            save_text(Path(options.checkpoint), serial.to_json(candidate.plan))

    return keep


@contextlib.contextmanager
def _blamed(model: PreparedModel) -> Iterator[None]:
    """Say whose fault a refused result is: the original's, which the runtime refuses too, or the plan's."""
    try:
        yield
    except ModelError as error:
        try:
            Session(model.source.loadable, threads=model.threads, name=model.source.name)
        except ModelError as earlier:
            raise refusal(earlier, model.source.model) from earlier
        if model.options.plan is None:
            raise
        raise UsageError(f"the plan does not fit the model: {error.message}", MAKE_ANEW) from error
    except (LookupError, ValueError) as error:  # of a part that an edited plan lacks
        if model.options.plan is None:
            raise
        raise UsageError(
            f"the plan does not fit the model: no {printable(str(error), 80)}", MAKE_ANEW
        ) from error


def _commit(report: Report, chosen: Candidate, staging: Staging, options: Options) -> Result:
    """Put the file in place, unless a gate failed."""
    if report.failed and not options.keep_failed:
        staging.discard()
        return Result(report, chosen.plan, chosen.ranges)
    staging.commit()
    if options.checkpoint is not None:
        Path(options.checkpoint).unlink(missing_ok=True)
    return Result(replace(report, written=True), chosen.plan, chosen.ranges)
