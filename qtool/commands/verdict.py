"""The verdict: run the written file on the judge set, once, and make the report of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtool import __version__
from qtool.calibration.analytic import roughness
from qtool.commands.prepare import custom_ops
from qtool.data.samples import Samples, synthetic
from qtool.evaluate.analysis.plan_tensors import plan_tensors
from qtool.evaluate.audit import Audit
from qtool.evaluate.channel_order import reversed_channels
from qtool.evaluate.compare import Comparison, Measures, check_labelled, compare
from qtool.evaluate.criteria import implied_gates
from qtool.evaluate.evaluator import ORIGINAL, PREPARED, Evaluator
from qtool.evaluate.float_io import open_original, with_float_io
from qtool.evaluate.gates import Gate, judge
from qtool.evaluate.labels import label_warnings
from qtool.evaluate.latency import Race, race_models
from qtool.graph.for_session import model_for_session
from qtool.graph.load import model_size
from qtool.graph.prepare.shapes import light_file
from qtool.graph.save import LARGE_BYTES, Staging, tensor_bytes
from qtool.options import Progress
from qtool.placement.acceptance import REPAIR
from qtool.placement.place import Placement
from qtool.plan import serial
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.plan.notes import plan_notes
from qtool.plan.prepared import PreparedModel
from qtool.plan.scheme import Scheme
from qtool.report.coverage import coverage, explained, outcomes
from qtool.report.model import ModelFile, Report, SearchCost, Selection, Timing
from qtool.runtime.cpu import saturates
from qtool.runtime.memory import give_back
from qtool.runtime.providers import as_made_for, opening_lines, runtime_of
from qtool.runtime.session import Model, Session
from qtool.tables.forms import Form
from qtool.tables.qtypes import INT8, UINT8
from qtool.tables.runtimes import DEFAULT
from qtool.tables.targets import MEASURED, TARGETS

QUANTIZED = "quantized"
"""The name of the written file in a race."""


@dataclass(frozen=True)
class Request:
    """The measures and the gates of a run."""

    measures: Measures
    gates: list[Gate]


@dataclass(frozen=True)
class Verdict:
    """The measurements of the file on the judge set, made once; nothing is chosen after them.

    Args:
        comparison: with FP32; None without samples.
        race: of the file and both FP32 models; None where nothing was timed.
        synthetic: the samples are made up, and satisfy no gate.
        gates: that the user asked for.
        implied: the gates that options stand for.
        cpu_sqnr: dB on onnxruntime's CPU provider, where the comparison is of a simulator.
        doubt: about the samples, by what FP32 makes of them; '' for none.
    """

    comparison: Comparison | None
    race: Race | None
    synthetic: bool
    gates: list[Gate]
    implied: list[Gate]
    cpu_sqnr: float | None = None
    doubt: str = ""


def selection_of(chosen: Candidate, evaluator: Evaluator) -> Selection | None:
    """Return the fidelity on the select set; None without samples."""
    if evaluator.select is None:
        return None
    error = evaluator.error(chosen)
    sets = chosen.model.samples
    low, high = error.sqnr_interval
    independent = sets.select_independent, sets.judge_independent
    budget = evaluator.budget
    cost = SearchCost(
        budget.spent / len(evaluator.select),
        evaluator.effort.inferences,
        budget.elapsed,
        budget.timing,
        tuple(evaluator.left_out),
    )
    return Selection(error.sqnr, (low, high), error.samples, *independent, cost)


def judge_file(chosen: Candidate, staging: Staging, request: Request, progress: Progress) -> Verdict:
    """Run the file that was written on the judge set: against FP32, and in a race with it.

    `--timing table` times nothing, unless a gate asks for the speed.
    """
    model = chosen.model
    samples = model.samples.judge
    if samples is None:
        if model.scheme.runtime and not custom_ops(model.source.model):
            # A large model takes several times the memory of its floats: only its graph is opened.
            large = tensor_bytes(model.model) > LARGE_BYTES
            Session(
                light_file(staging.path) if large else staging.path,
                threads=model.threads,
                name="the quantized model",
                runtime=chosen.runtime,
                optimize=not large,
            )
        return Verdict(None, None, False, request.gates, implied_gates(model, None, False, request.gates))
    comparison, cpu_sqnr, doubt = _compared(chosen, staging, samples, request, progress)
    give_back()  # what the sessions held: the race opens the models anew
    check_labelled(comparison, request.measures)
    made_up = synthetic(samples)
    implied = implied_gates(model, comparison, made_up, request.gates)
    race = None
    wanted = model.options.timing == MEASURED or any(
        g.metric == "speedup" for g in (*request.gates, *implied)
    )
    if wanted and not model.scheme.simulated:
        progress("validate", 0, 0)
        with ExitStack() as stack:
            models: dict[str, Path | bytes] = {ORIGINAL: model.source.loadable}
            if tensor_bytes(model.original.model) <= LARGE_BYTES:  # another model in memory, and on disk
                prepared = model_for_session(model.original.model, in_file=True)
                models[PREPARED] = stack.enter_context(prepared)
            models[QUANTIZED] = staging.path
            runtimes = {PREPARED: model.runtime, QUANTIZED: chosen.runtime}
            race = race_models(models, samples, model.threads, runtimes=runtimes)
    return Verdict(comparison, race, made_up, request.gates, implied, cpu_sqnr, doubt)


def _compared(
    chosen: Candidate, staging: Staging, samples: Samples, request: Request, progress: Progress
) -> tuple[Comparison, float | None, str]:
    """Compare the file with FP32; return this, its SQNR on a CPU, and the doubt of a Verdict.

    The sessions are closed at the end: the race opens its own.
    """
    model = chosen.model

    def session(**options: Any) -> Model:
        return with_float_io(
            Session(staging.path, threads=model.threads, name="the quantized model", **options)
        )

    original = open_original(model)
    comparison = compare(
        original,
        session(runtime=chosen.runtime),
        samples,
        request.measures,
        lambda done, total: progress("validate", done, total),
    )
    cpu_sqnr = None
    if model.scheme.simulated:
        cpu_sqnr = compare(original, session(optimize=not saturates()), samples, request.measures).sqnr
    sources = filter(None, (model.samples.calibrate, samples))
    doubt = reversed_channels(original, max(sources, key=len), request.measures.scored)
    return comparison, cpu_sqnr, doubt


def result_report(
    chosen: Candidate,
    placement: Placement,
    evaluator: Evaluator,
    selection: Selection | None,
    verdict: Verdict,
    staging: Staging,
) -> Report:
    """Return the report of a run, with its gates judged."""
    model = chosen.model
    report = replace(
        plan_report(model, chosen.plan),
        quantized=ModelFile(str(staging.target), model_size(staging.path)),
        comparison=verdict.comparison,
        selection=selection,
        race=None if verdict.race is None else Timing.of(verdict.race),
        synthetic=verdict.synthetic,
        recovered=evaluator.logged(chosen),
        trials=placement.trials,
        chosen=placement.name_of(chosen),
        runtime=as_made_for(chosen.runtime, {}),
        opening=_opening(chosen, staging),
        cpu_sqnr=verdict.cpu_sqnr,
        tensors=plan_tensors(chosen),
    )
    report = replace(report, gates=tuple(judge([*verdict.gates, *verdict.implied], report.verdict)))
    rough = roughness(model.ranges.basis(chosen.plan.observed)) if model.options.estimates else ""
    warnings = _warnings(report, model, rough, evaluator.unreliable)
    return replace(
        report,
        warnings=(
            *model.samples.notes,
            *model.samples.doubts(),
            *filter(None, [verdict.doubt]),
            *report.warnings,
            *evaluator.notes,
            *warnings,
        ),
    )


def _opening(chosen: Candidate, staging: Staging) -> tuple[str, ...]:
    """Return the lines of Python that open the file in its runtime; () for onnxruntime, which needs none."""
    if runtime_of(chosen.runtime)[0].name == DEFAULT:
        return ()
    return opening_lines(chosen.runtime, str(staging.target), chosen.model.threads)


def with_audit(report: Report, audit: Audit | None) -> Report:
    """Return the report with the audit of the written file, and what of it a user should know."""
    if audit is None:
        return report
    by_node = {d.node: d for d in audit.deviations}
    nodes = tuple(
        replace(e, why=f"{e.why}; onnxruntime deviates: {by_node[e.node]}") if e.node in by_node else e
        for e in report.explained
    )
    return replace(report, audit=audit, explained=nodes, warnings=(*report.warnings, *audit.warnings))


def plan_report(model: PreparedModel, plan: Plan) -> Report:
    """Return the report of a plan that was not run."""
    return Report(
        "quantize",
        __version__,
        ModelFile(model.source.name, model.source.size, model.source.sha256),
        mode=plan.mode,
        target=plan.target,
        prepared=model.notes,
        coverage=coverage(model.view, plan),
        skips=plan.skips,
        regions=plan.regions,
        explained=explained(model.view, plan, model.explain),
        warnings=(
            *model.source.warnings,
            *plan_notes(plan, model.view, model.scheme),
            *_cpu_notes(plan, model.scheme),
        ),
        plan_sha256=serial.digest(plan),
        weights_only=model.scheme.mode.form is None,
        nodes=outcomes(model.view, plan),
    )


def _cpu_notes(plan: Plan, scheme: Scheme) -> Iterator[str]:
    """Yield a warning where this CPU judges the plan by sums that saturate: of u8 x s8 at full range."""
    forms = {*plan.forms.values()}
    unsigned = Form.DYNAMIC in forms or (Form.INT8 in forms and scheme.activation is UINT8)
    if unsigned and scheme.weight is INT8 and not scheme.simulated and saturates():
        fitting = f"{scheme.target.name}-avx2"
        hint = f"--target {fitting} fits this one" if fitting in TARGETS else "qtool compare there judges it"
        yield (
            "judged on this CPU, which has no VNNI: its int8 kernels saturate with 8-bit weights, so the "
            f"SQNR is lower here, and the speed is another, than where --target {scheme.target.name} runs "
            f"({hint})"
        )


def _left_out(cost: SearchCost, report: Report, model: PreparedModel) -> str:
    """Name the steps that the limits of the search left out, where the user would miss them; else ''.

    A result that holds its gates needs no further step: the cost of the search names them. But a step may
    have been asked for by name, and without repair nothing is quantized.
    """
    steps = ", ".join(cost.left_out)
    if model.budget.out_of_time:
        limit = f"{model.options.time_budget:g} s"
        return f"--time-budget {limit} left out: {steps}; the result depends on this machine's speed"
    named = {name.strip() for name in model.options.recover.split(",")} | {REPAIR}
    if not report.failed and not named & {*cost.left_out}:
        return ""
    return f"{cost.limit} inferences a select sample left out: {steps}; --effort best has no such limit"


def _warnings(report: Report, model: PreparedModel, rough: str, unreliable: bool) -> tuple[str, ...]:
    """Return warnings about the result."""
    warnings = [rough] if rough else []
    cost = None if report.selection is None else report.selection.cost
    if cost is not None and cost.left_out and (limited := _left_out(cost, report, model)):
        warnings.append(limited)
    if unreliable:
        warnings.append("timing unreliable here: decided by the cost table")
    if not report.quantized_nodes:
        total = sum(row.total for row in report.coverage)
        counts: dict[str, int] = {}
        for row in report.coverage:
            for counted in row.reasons:
                if not counted.reason.general:
                    text = str(counted.reason)
                    counts[text] = counts.get(text, 0) + counted.count
        reason = max(counts, key=lambda r: counts[r]) if counts else "no node has a quantized form"
        warnings.append(f"0 of {total} quantized: {reason}")
    comparison, floor = report.comparison, model.scheme.floor_db
    if comparison is not None:
        warnings += (*comparison.caveats, *label_warnings(comparison.accuracy, comparison.samples))
    if comparison is not None and any(not o.exact for o in comparison.outputs) and comparison.sqnr < floor:
        usual = f"the {floor:g} dB that {model.scheme.mode.name} usually holds"
        warnings.append(f"SQNR {comparison.sqnr:.1f} dB is below {usual}")
    ratio = report.race.speedup[ORIGINAL] if report.race else None
    if ratio is not None and ratio.high < 1:
        names = " and ".join(model.options.requests)
        why = f"; quantized all the same because of {names}: --allow-float lifts that" if names else ""
        warnings.append(f"slower than FP32 here: {ratio.median:.2f}x as fast{why}")
    return tuple(warnings)
