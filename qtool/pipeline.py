"""The whole flow.

    load -> check -> prepare -> draft -> calibrate -> resolve -> rewrite -> save -> validate -> report

`quantize` is that line as a function; what each stage does is in the package of its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import onnx

from qtool import __version__
from qtool.calibrate.ranges import Ranges, digest
from qtool.calibrate.runner import calibrate
from qtool.data.fit import fit
from qtool.data.open import Data, open_source
from qtool.data.samples import Source as Samples
from qtool.data.samples import hold_out
from qtool.errors import UsageError, did_you_mean
from qtool.graph.load import Source, from_model, load, model_size
from qtool.graph.prepare import Prepared, prepare
from qtool.graph.save import Staging, check_target, model_for_session, staged
from qtool.graph.view import View
from qtool.options import ModelLike, Options, Progress, Result, silent
from qtool.plan import serial
from qtool.plan.draft import draft
from qtool.plan.misfit import misfit
from qtool.plan.model import Plan, Wishes
from qtool.plan.resolve import resolve
from qtool.plan.unfit import unfit_nodes
from qtool.plan.wishes import wishes
from qtool.report.coverage import coverage
from qtool.report.model import ModelFile, Report
from qtool.rewrite.qdq import rewrite
from qtool.session import Session
from qtool.tables.modes import MODES, Mode
from qtool.tables.targets import TARGETS, Target
from qtool.validate.compare import Comparison, compare
from qtool.validate.gates import Gate, Verdict, judge, parse
from qtool.validate.labels import Labels, read_labels
from qtool.validate.latency import Race, race

# Timing looks at a few samples: enough for shapes to differ, few enough to be brief.
_TIMED_SAMPLES = 4


def quantize(
    model: ModelLike, output: str | Path, options: Options | None = None, progress: Progress = silent
) -> Result:
    """Quantize a model, write it to `output`, and judge the file that was written.

    The output appears complete, and only when every gate holds; the input is never changed. Int8 that
    is slower here than FP32 is given up for FP32 with weights stored as int8, and the report says so.

    Raises:
        QtoolError: UsageError, ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    options = options or Options()
    gates = _gates(options)
    labels = None if options.labels is None else read_labels(Path(options.labels))
    check_target(Path(output), [] if isinstance(model, onnx.ModelProto) else [Path(model)], options.force)
    job = _open(model, options)
    check_target(Path(output), list(job.source.files), options.force)
    calib, held_out, notes = _samples(job)
    plan, ranges = _replayed(job, options.plan) if options.plan else _settle(job, job.wish, calib, progress)
    with staged(Path(output)) as staging:
        _write(job, staging, plan)
        timed = _race_staged(job, staging, held_out)
        if reason := _too_slow(job, plan, timed):
            plan, ranges = _settle(job, _without(job, plan, reason), calib, progress)
            _write(job, staging, plan)
            timed = _race_staged(job, staging, held_out)
        verdict = None if held_out is None else _compare_staged(job, staging, held_out, labels, progress)
        report = _written(_report(job, plan), staging, verdict, timed, gates)
        report = replace(report, warnings=(*notes, *_warnings(report, job.mode)))
        result = Result(report, plan, ranges)
        if result.ok:
            staging.commit()
    return result


def dry_run(model: ModelLike, options: Options | None = None) -> Result:
    """What quantize would do, without data: nothing is run or written.

    Calibration may still put nodes back to float (outliers, masks, branches that never run).
    """
    options = options or Options()
    job = _open(model, options)
    plan = options.plan or draft(job.view, job.mode, job.target, job.wish, job.source.sha256)
    return Result(_report(job, plan), plan)


def compare_models(
    fp32: ModelLike,
    quantized: ModelLike,
    data: Data,
    *,
    labels: str | Path | None = None,
    fail_if: Sequence[str] = (),
    speed: bool = False,
    threads: int = 0,
    progress: Progress = silent,
) -> Report:
    """Run two models over samples, measure how far apart they are, and judge the gates.

    Args:
        fp32, quantized: paths, or models in memory.
        data: a directory of .npz, or an iterable of dicts.
        labels: a JSON file of sample name -> class.
        fail_if: gates, such as 'sqnr<20'.
        speed: time both, interleaved; a gate on speedup does so too.
        threads: of the runtime; 0 leaves the choice to it, except for timing, which then uses one.
        progress: called as the samples pass.

    Raises:
        QtoolError: UsageError, ModelError, DataError or RuntimeFailure.
    """
    gates = [parse(text) for text in fail_if]
    sources = [_load(m) for m in (fp32, quantized)]
    known = None if labels is None else read_labels(Path(labels))
    samples = open_source(data)
    a, b = (Session(s.loadable, threads=threads, name=s.name) for s in sources)
    comparison = compare(a, b, samples, known, lambda done, total: progress("compare", done, total))
    timed = None
    if speed or any(g.metric == "speedup" for g in gates):
        loadable = dict(zip(("original", "quantized"), (s.loadable for s in sources), strict=True))
        timed = _race(loadable, samples, threads)
    files = [ModelFile(s.name, s.size, s.sha256) for s in sources]
    report = Report("compare", __version__, files[0], files[1], comparison=comparison, race=timed)
    return replace(report, gates=tuple(judge(gates, Verdict(comparison, report.speedup, report.size_ratio))))


@dataclass(frozen=True)
class _Job:
    """A model that is ready to be planned for, and everything that was asked."""

    source: Source
    prepared: Prepared
    view: View
    mode: Mode
    target: Target
    wish: Wishes
    options: Options


def _open(model: ModelLike, options: Options) -> _Job:
    """Load, check, prepare; match what was asked with the tables and the nodes."""
    if options.plan is not None:
        options = replace(options, mode=options.plan.mode, target=options.plan.target)
    for word, table, option in ((options.mode, MODES, "mode"), (options.target, TARGETS, "target")):
        if word not in table:
            raise UsageError(
                f"no {option} '{word}'", did_you_mean(word, table) or f"{option}s: {', '.join(table)}"
            )
    mode, target = MODES[options.mode], TARGETS[options.target]
    source = _load(model)
    prepared = prepare(source.model, onnxruntime=target.onnxruntime)
    view = View(prepared.model)
    wish = wishes(view, source.model, options.exclude, options.include)
    return _Job(source, prepared, view, mode, target, wish, options)


def _load(model: ModelLike) -> Source:
    return from_model(model) if isinstance(model, onnx.ModelProto) else load(Path(model))


def _samples(job: _Job) -> tuple[Samples | None, Samples | None, tuple[str, ...]]:
    """What to calibrate on, what to judge on, and what to say about it."""
    options = job.options
    calib = None if options.calib is None else open_source(options.calib)
    if calib is None and job.mode.needs_calibration and options.plan is None:
        raise UsageError(
            f"--mode {job.mode.name} needs samples to set its ranges",
            "add --calib DIR (a directory of .npz files)",
        )
    if options.data is not None:
        return calib, open_source(options.data), ()
    if calib is None:
        return None, None, ("not judged: there are no samples (add --data DIR)",)
    rest, held_out, split = hold_out(calib)
    if split:
        return rest, held_out, ()
    return (
        calib,
        calib,
        (f"judged on the {len(calib)} samples that set the ranges: too few to hold some out",),
    )


def _replayed(job: _Job, plan: Plan) -> tuple[Plan, Ranges]:
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


def _settle(job: _Job, wish: Wishes, calib: Samples | None, progress: Progress) -> tuple[Plan, Ranges]:
    """Draft, calibrate, and draft again without what calibration shows to be unfit, until nothing is."""
    ranges: Ranges = {}
    asked: set[str] = set()
    while True:
        plan = draft(job.view, job.mode, job.target, wish, job.source.sha256)
        todo = [value for value in plan.observed if value not in asked]
        if todo and calib is not None:
            ranges |= calibrate(
                job.prepared.model,
                todo,
                calib,
                threads=job.options.threads,
                progress=lambda done, total: progress("calibrate", done, total),
            )
            asked |= set(todo)
        unfit = unfit_nodes(plan, ranges, job.view, job.mode)
        if not unfit:
            return _signed(job, resolve(plan, ranges, job.view), ranges), ranges
        wish = replace(wish, keep_float={**unfit, **wish.keep_float})


def _signed(job: _Job, plan: Plan, ranges: Ranges) -> Plan:
    """The plan with what it was asked for and made from."""
    asked, told = tuple(job.options.exclude), tuple(job.options.include)
    return replace(plan, exclude=asked, include=told, calibration_sha256=digest(ranges) if ranges else "")


def _write(job: _Job, staging: Staging, plan: Plan) -> None:
    model = rewrite(job.prepared.model, plan)
    model.metadata_props.update(_recipe(plan))
    staging.write(model)


def _recipe(plan: Plan) -> dict[str, str]:
    """What made the model, for whoever finds it later: no times, no paths, no machine.

    All of it is in the plan, so that a replay writes the same.
    """
    return {
        "qtool.version": __version__,
        "qtool.mode": plan.mode,
        "qtool.target": plan.target,
        "qtool.options": json.dumps({"exclude": plan.exclude, "include": plan.include}),
        "qtool.source_sha256": plan.model_sha256,
        "qtool.calibration_sha256": plan.calibration_sha256,
        "qtool.plan_sha256": serial.digest(plan),
    }


def _race_staged(job: _Job, staging: Staging, samples: Samples | None) -> Race | None:
    """Time the staged model against its two FP32 forms; None without samples."""
    if samples is None:
        return None
    with model_for_session(job.prepared.model) as prepared:
        models = {"original": job.source.loadable, "prepared": prepared, "quantized": staging.path}
        return _race(models, samples, job.options.threads)


def _race(models: Mapping[str, Path | bytes], samples: Samples, threads: int) -> Race:
    """Time models on the first few samples; with one thread, unless another number was asked for."""
    sessions = {name: Session(m, threads=threads or 1, name=name) for name, m in models.items()}
    first = next(iter(sessions.values()))
    fed = [
        fit(sample, first.inputs, first.input_dtypes, samples.name)
        for sample in islice(samples.read(), _TIMED_SAMPLES)
    ]
    return race(sessions, fed, threads=threads or 1)


def _too_slow(job: _Job, plan: Plan, timed: Race | None) -> str:
    """Why int8 is given up, '' when it is not: faster, asked for, replayed, or for another runtime.

    Where the noise covers the gain there is none to speak of, and FP32 is the truer model.
    """
    settled = job.options.plan is not None or not job.target.onnxruntime
    if timed is None or settled or not plan.forms.keys() - job.wish.force:
        return ""
    ratio = timed.speedup("quantized", "prepared")
    return f"int8 was measured at {ratio.median:.2f}x of FP32: no gain" if ratio.low < 1 else ""


def _without(job: _Job, plan: Plan, reason: str) -> Wishes:
    """The wish for what is left when int8 is given up: only what the user insisted on."""
    keep = {s.node: s.reason for s in plan.skips} | dict.fromkeys(plan.forms.keys() - job.wish.force, reason)
    return replace(job.wish, keep_float=keep)


def _compare_staged(
    job: _Job, staging: Staging, samples: Samples, labels: Labels | None, progress: Progress
) -> Comparison:
    """The file that was written, against FP32."""
    threads = job.options.threads
    return compare(
        Session(job.source.loadable, threads=threads, name=job.source.name),
        Session(staging.path, threads=threads, name="the quantized model"),
        samples,
        labels,
        lambda done, total: progress("validate", done, total),
    )


def _written(
    report: Report, staging: Staging, verdict: Comparison | None, timed: Race | None, gates: Sequence[Gate]
) -> Report:
    """The report with what was measured on the file, and judged by the gates."""
    file = ModelFile(str(staging.target), model_size(staging.path))
    report = replace(report, quantized=file, comparison=verdict, race=timed)
    measured = Verdict(verdict, report.speedup, report.size_ratio, report.quantized_nodes)
    return replace(report, gates=tuple(judge(list(gates), measured)))


def _gates(options: Options) -> list[Gate]:
    implied = ["quantized<1"] if options.require_quantized else []
    return [parse(text) for text in (*options.fail_if, *implied)]


def _report(job: _Job, plan: Plan) -> Report:
    return Report(
        "quantize",
        __version__,
        ModelFile(job.source.name, job.source.size, job.source.sha256),
        mode=plan.mode,
        target=plan.target,
        prepared=job.prepared.notes,
        coverage=coverage(job.view, plan),
        skips=plan.skips,
        plan_sha256=serial.digest(plan),
    )


def _warnings(report: Report, mode: Mode) -> tuple[str, ...]:
    """What a user should know before shipping."""
    found = []
    if not report.quantized_nodes:
        total = sum(row.total for row in report.coverage)
        counts: dict[str, int] = {}
        for row in report.coverage:
            for reason, number in row.reasons.items():
                if reason != "no quantized form":
                    counts[reason] = counts.get(reason, 0) + number
        reason = max(counts, key=lambda r: counts[r]) if counts else "no node has a quantized form"
        found.append(f"0 of {total} quantized: {reason}")
    comparison = report.comparison
    if (
        comparison is not None
        and any(not o.exact for o in comparison.outputs)
        and not comparison.sqnr >= mode.floor_db
    ):
        found.append(
            f"SQNR {comparison.sqnr:.1f} dB is below the {mode.floor_db:g} dB that {mode.name} usually holds"
        )
    if report.speedup is not None and report.speedup < 1:
        found.append(f"slower than FP32 here: {report.speedup:.2f}x")
    return tuple(found)
