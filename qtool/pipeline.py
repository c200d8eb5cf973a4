"""The whole flow.

    load -> check -> prepare -> draft -> calibrate -> resolve -> place -> recover
         -> rewrite -> save -> validate -> report

`produced` is that line as a function; what each stage does is in the package of its name, but for place
(search.py) and recover (recovering.py), which run what they judge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from qtool import __version__
from qtool.asked import budget_of, implied_gates, missed
from qtool.data.samples import Source as Samples
from qtool.data.samples import synthetic
from qtool.errors import ModelError
from qtool.graph.load import model_size
from qtool.graph.save import Staging, check_target, model_for_session, staged
from qtool.job import Job, open_job, samples_of
from qtool.numerics.threads import single_threaded_blas
from qtool.options import ModelLike, Options, Progress, Result, silent
from qtool.plan import serial
from qtool.plan.choose import Gain
from qtool.plan.draft import draft
from qtool.plan.half_notes import half_notes
from qtool.plan.model import Plan
from qtool.plan.port_notes import port_notes
from qtool.plan.scheme import Scheme
from qtool.planning import Planned, Planner, replayed
from qtool.recipe import written as written_model
from qtool.recovering import Kept, done_before, recovered, wanted
from qtool.report.coverage import coverage, explained
from qtool.report.model import ModelFile, Report, Timing
from qtool.search import Search
from qtool.session import Session
from qtool.tables.targets import GENERAL_REASONS, TABLE
from qtool.validate.compare import Comparison, Measures, compare
from qtool.validate.gates import judge
from qtool.validate.judging import gates_of, measures_of
from qtool.validate.latency import PATIENCE, Race, race_models
from qtool.validate.ports import in_floats


@single_threaded_blas()
def quantize(
    model: ModelLike, output: str | Path, options: Options | None = None, progress: Progress = silent
) -> Result:
    """Quantize a model, write it to `output`, and judge the file that was written.

    The output appears complete, and only when every gate holds; the input is never changed. Int8 that
    is slower here than FP32 is given up for FP32 with weights stored as int8, and the report says so.

    Raises:
        QtoolError: UsageError, ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    return produced(model, output, options or Options(), progress, Search.first)


def produced(
    model: ModelLike,
    output: str | Path,
    options: Options,
    progress: Progress,
    first: Callable[[Search], Planned],
) -> Result:
    """The same, beginning with a plan that is found in some other way; `options.plan` is used as it is."""
    measures, gates = measures_of(options), gates_of(options)
    wanted(options)
    check_target(Path(output), [] if isinstance(model, onnx.ModelProto) else [Path(model)], options.force)
    job = open_job(model, options)
    check_target(Path(output), list(job.source.files), options.force)
    calib, held_out, notes = samples_of(job)
    planner = Planner(job, calib, progress)
    keep = _checkpoint(options.checkpoint)
    search = Search(job, planner, held_out, budget_of(job, gates), progress, keep)
    decides = options.plan is None or options.resume
    gains: tuple[Gain, ...] = ()
    with _blaming_the_original(job), staged(Path(output)) as staging:
        planned = replayed(planner, options.plan) if options.plan else first(search)
        while True:
            chosen = search.name_of(planned.plan)
            if decides:
                keep(planned)
                done = done_before(search.gains)
                planned, later = recovered(planned, calib, held_out, progress, kept=keep, but=done)
                gains = (*search.gains, *later)
            staging.write(written_model(planned.job.prepared.model, planned.plan))
            if held_out is None and job.scheme.target.onnxruntime:
                _opened(job, staging)
            verdict = (
                None if held_out is None else _compare_staged(job, staging, held_out, measures, progress)
            )
            report = _judged_file(_report(job, planned.plan), staging, verdict, None)
            report = replace(report, synthetic=synthetic(held_out))
            implied = implied_gates(job, verdict, report.synthetic)
            if decides and missed(implied, report.verdict) and verdict is not None:
                better = search.truer(planned, verdict.sqnr)
                if better is not None:
                    planned = better
                    continue
            in_doubt = decides and _speed_decides(job, planned.plan)
            timed = _race_staged(job, staging, held_out, PATIENCE if in_doubt else 1)
            if not in_doubt or not (reason := _too_slow(timed)):
                break
            planned = search.in_float(planned, reason)
        report = _judged_file(report, staging, verdict, timed)
        judged = tuple(judge([*gates, *implied], report.verdict))
        warnings = (*notes, *report.warnings, *_warnings(report, job.scheme, planned.rough))
        written = options.keep_failed or not any(gate.failed for gate in judged)
        report = replace(
            report,
            warnings=warnings,
            gates=judged,
            written=written,
            trials=search.trials,
            chosen=chosen,
            recovered=gains,
        )
        result = Result(report, planned.plan, planned.ranges)
        if written:
            staging.commit()
    if written and options.checkpoint is not None:
        Path(options.checkpoint).unlink(missing_ok=True)
    return result


def _checkpoint(path: str | Path | None) -> Kept:
    """What keeps the best plan so far in a file, the whole new one or the old one."""

    def keep(planned: Planned) -> None:
        if path is not None:
            with staged(Path(path)) as staging:
                staging.write_text(serial.to_json(planned.plan))
                staging.commit()

    return keep


@single_threaded_blas()
def dry_run(model: ModelLike, options: Options | None = None) -> Result:
    """What quantize would do, without data: nothing is run or written.

    Calibration may still put nodes back to float (outliers, masks, branches that never run).
    """
    options = options or Options()
    job = open_job(model, options)
    plan = options.plan or draft(job.view, job.scheme, job.wish, job.source.sha256)
    return Result(_report(job, plan), plan)


def _race_staged(job: Job, staging: Staging, samples: Samples | None, patience: float) -> Race | None:
    """Time the staged model against its two FP32 forms; None without samples."""
    if samples is None:
        return None
    with model_for_session(job.prepared.model) as prepared:
        models = {"original": job.source.loadable, "prepared": prepared, "quantized": staging.path}
        return race_models(models, samples, job.options.threads, patience=patience)


def _speed_decides(job: Job, plan: Plan) -> bool:
    """Whether int8 is given up where it gains nothing: unless asked for, or for another runtime."""
    scheme = job.scheme
    settled = not scheme.target.onnxruntime or scheme.asked or job.options.profile == TABLE
    return not settled and scheme.mode.for_speed and bool(plan.forms.keys() - job.wish.force)


def _too_slow(timed: Race | None) -> str:
    """Why int8 is given up, '' when it is not.

    Where the noise covers the gain there is none to speak of, and FP32 is the truer model.
    """
    if timed is None:
        return ""
    ratio = timed.speedup("quantized", "prepared")
    if ratio.low >= 1:
        return ""
    return f"no gain in int8: {ratio.median:.2f}x of FP32 here ({ratio.low:.2f}-{ratio.high:.2f})"


@contextlib.contextmanager
def _blaming_the_original(job: Job) -> Iterator[None]:
    """Of a model made of one that the runtime refuses (a custom op, say), say that it refuses that one."""
    try:
        yield
    except ModelError:
        Session(job.source.loadable, threads=job.options.threads, name=job.source.name)
        raise


def _opened(job: Job, staging: Staging) -> Session:
    """The file that was written, in the runtime."""
    return Session(staging.path, threads=job.options.threads, name="the quantized model")


def _compare_staged(
    job: Job, staging: Staging, samples: Samples, measures: Measures, progress: Progress
) -> Comparison:
    """The file that was written, against FP32."""
    threads = job.options.threads
    return compare(
        Session(job.source.loadable, threads=threads, name=job.source.name),
        in_floats(_opened(job, staging)),
        samples,
        measures,
        lambda done, total: progress("validate", done, total),
    )


def _judged_file(report: Report, staging: Staging, verdict: Comparison | None, timed: Race | None) -> Report:
    """The report with what was measured on the file."""
    file = ModelFile(str(staging.target), model_size(staging.path))
    race = None if timed is None else Timing.of(timed)
    return replace(report, quantized=file, comparison=verdict, race=race)


def _report(job: Job, plan: Plan) -> Report:
    return Report(
        "quantize",
        __version__,
        ModelFile(job.source.name, job.source.size, job.source.sha256),
        mode=plan.mode,
        target=plan.target,
        prepared=job.prepared.notes,
        coverage=coverage(job.view, plan),
        skips=plan.skips,
        units=plan.units,
        explained=explained(job.view, plan, job.puzzling),
        warnings=(*job.source.warnings, *half_notes(plan, job.view), *port_notes(plan, job.view, job.scheme)),
        plan_sha256=serial.digest(plan),
        weights_only=job.scheme.mode.form is None,
    )


def _warnings(report: Report, scheme: Scheme, rough: str) -> tuple[str, ...]:
    """What a user should know before shipping."""
    found = [rough] if rough else []
    if not report.quantized_nodes:
        total = sum(row.total for row in report.coverage)
        counts: dict[str, int] = {}
        for row in report.coverage:
            for reason, number in row.reasons.items():
                if reason not in GENERAL_REASONS:
                    counts[reason] = counts.get(reason, 0) + number
        reason = max(counts, key=lambda r: counts[r]) if counts else "no node has a quantized form"
        found.append(f"0 of {total} quantized: {reason}")
    comparison = report.comparison
    if (
        comparison is not None
        and any(not o.exact for o in comparison.outputs)
        and not comparison.sqnr >= scheme.floor_db
    ):
        found.append(
            f"SQNR {comparison.sqnr:.1f} dB is below the {scheme.floor_db:g} dB that "
            f"{scheme.mode.name} usually holds"
        )
    ratio = report.race.speedup["original"] if report.race else None
    if ratio is not None and ratio.high < 1:
        found.append(f"slower than FP32 here: {ratio.median:.2f}x")
    return tuple(found)
