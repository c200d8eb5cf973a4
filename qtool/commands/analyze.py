"""Analyze a quantized model: which tensors and regions carry its error, and what would lower it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qtool import __version__
from qtool.commands.prepare import load_model, made_up, prepare_model
from qtool.commands.remedies import Base, Remedy, Start, build, command_of, remedies, run_candidate
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.data.samples import Samples, evenly
from qtool.errors import DataError, ModelError, UsageError, counted, printable
from qtool.evaluate.analysis.effects import Outputs
from qtool.evaluate.analysis.measure import RUNS, Measured, first_samples, measure
from qtool.evaluate.analysis.model import OutputError
from qtool.evaluate.analysis.subject import Subject
from qtool.evaluate.compare import match_outputs
from qtool.evaluate.float_io import with_float_io
from qtool.graph.inspection.model import Inspection
from qtool.graph.inspection.read import inspect_source
from qtool.graph.load import Source
from qtool.graph.prepare import with_names, with_opset
from qtool.graph.view import View
from qtool.numerics.metrics import sqnr_db
from qtool.options import ModelLike, Options, Progress, silent
from qtool.placement.regions import find_regions
from qtool.plan.assignment import Assignment, PlanInput, assigned_graph
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.eligible import rule_of
from qtool.plan.metadata import read_hidden
from qtool.plan.model import OBSERVED, WEIGHTS, Plan
from qtool.plan.prepared import PreparedModel, rescaled
from qtool.plan.read_back.plan import read_plan
from qtool.plan.rules import rule_based
from qtool.plan.scheme import make_scheme
from qtool.report.analysis import Analysis, Cost
from qtool.report.model import ModelFile
from qtool.report.tables import percent
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.cpu import saturates
from qtool.runtime.library import has_op
from qtool.runtime.providers import as_made_for, check_runtime, runtime_of
from qtool.runtime.session import Session
from qtool.tables.modes import ModeName
from qtool.tables.runtimes import DEFAULT
from qtool.tables.targets import TargetName

# Runs over all samples for advice, and for building the best three.
_ADVICE_RUNS, _TRIED = 14, 3
# One sample with a larger share of the error, which is one that is heard, says nothing of the others.
_ALONE, _ACCURATE_DB = 0.9, 60.0
# A simulated model that differs from the file by more dB does not explain it.
_APART_DB = 1.5
_MODES: dict[str, ModeName] = {
    "qdq": "static",
    "qoperator": "static",
    "dynamic": "dynamic",
    "weight-only": "weight-only",
}


@dataclass(frozen=True, kw_only=True)
class Analyzing:
    """The options of analyze.

    Args:
        calib: samples that set the ranges of the model that qtool would make; None: half of `data`.
        calib_format, data_format: the kind of samples, where it can't be recognized.
        reading: how to read them.
        reading_flags: the same as options of the command line, for the commands of the advice.
        mode, target: of the model that qtool would make; those of a quantized model of qtool win.
        advise: look for changes that lower the error.
        try_best: build the best three pieces of advice, and measure them.
        runtime: that runs the quantized model, a row of tables/runtimes.py, or 'NAME:PRECISION'; '': that of
            the target, and the model that qtool would make is only simulated.
        threads: of the runtime.
    """

    calib: Data | None = None
    calib_format: str = ""
    data_format: str = ""
    reading: Reading = field(default_factory=Reading)
    reading_flags: tuple[str, ...] = ()
    mode: ModeName = "static"
    target: TargetName = "auto"
    advise: bool = True
    try_best: bool = False
    runtime: str = ""
    threads: int = 0


@single_threaded_blas()
def analyze_model(
    fp32: ModelLike,
    quantized: ModelLike | None,
    data: Data,
    options: Analyzing | None = None,
    progress: Progress = silent,
) -> Analysis:
    """Return where a quantized model loses accuracy, and advice with its predicted gain.

    Args:
        fp32: the original.
        quantized: of qtool or of another tool; None: the model that qtool would make by its rules.
        data: samples to measure on: at most 8 are run.
        options: everything else.
        progress: called as inferences pass.

    Raises:
        QtoolError: UsageError, ModelError, DataError or RuntimeFailure.
    """
    options = options or Analyzing()
    source = load_model(fp32)
    other = None if quantized is None else load_model(quantized)
    inspection = None if other is None else inspect_source(other)
    settings = _settings(options, source, inspection, data)
    runs = other is not None or bool(options.runtime)
    prepared = _prepared(source, settings, progress)
    runtime = as_made_for(prepared.runtime, {} if inspection is None else inspection.metadata) if runs else ""
    if runs:
        check_runtime(runtime)
    judge = prepared.samples.judge
    if judge is None:
        raise DataError("no samples to analyze on", "--data SRC")
    samples = first_samples(prepared.model, judge)
    base = Base(
        rule_based_candidate(prepared),
        options.reading_flags,
        data if options.calib is None else options.calib,
    )
    subject, unmatched = _drafted(base.candidate), tuple[str, ...]()
    if other is not None:
        subject, unmatched = _read(prepared, source, other)
    if not subject.tensors:
        raise ModelError(*_nothing(source, inspection))
    reserve = _ADVICE_RUNS + _TRIED * options.try_best + runs
    measured = measure(
        subject, samples, reserve, options.threads, lambda done, total: progress("analyze", done, total)
    )
    outputs, simulated = measured.outputs, measured.simulated
    noise = None
    if other is not None:
        noise = _run_file(other, outputs, options.threads, runtime)
    elif runs:
        noise = run_candidate(base.candidate, outputs, options.threads, runtime)
    actual = simulated if noise is None else noise
    sqnr = outputs.sqnr(actual.sum(axis=0))
    form = _form(inspection, settings)
    advice: list[Remedy] = []
    if options.advise or options.try_best:
        progress("advice", 0, 0)
        kept = np.zeros_like(actual)
        if inspection is None or inspection.recipe or runtime != DEFAULT:  # a change has these kernels, too
            kept = np.maximum(actual - simulated, 0)
        start = Start(actual, kept, foreign=other is not None)
        advice = remedies(base, subject, measured, start, most=_ADVICE_RUNS)
    if options.try_best:
        built = build(advice[:_TRIED], outputs, options.threads, runtime or DEFAULT)
        advice = [*built, *advice[_TRIED:]]
    return Analysis(
        __version__,
        ModelFile(source.name, source.size, source.sha256),
        None if other is None else ModelFile(other.name, other.size, other.sha256),
        _made_by(inspection, base),
        form,
        printable(judge.name),
        sqnr,
        _output_errors(measured, noise),
        measured.regions,
        measured.tensors,
        measured.blocks,
        tuple(a.advice for a in advice),
        Cost(len(samples), outputs.runs / len(samples), RUNS + len(measured.regions)),
        (
            *source.warnings,
            *_doubts(sqnr, measured, noise, unmatched, form, runtime),
            *_rare(outputs, actual, judge),
            *made_up(judge),
        ),
        runtime,
    )


def rule_based_candidate(prepared: PreparedModel) -> Candidate:
    """Return the candidate of `--effort fast --timing table`."""
    return make_candidate(prepared, rule_based(prepared.task))


def _prepared(source: Source, settings: Options, progress: Progress) -> PreparedModel:
    """Return the prepared model; in static mode calibration collects what every range estimator needs."""
    if settings.mode != "static":
        return prepare_model(source, settings, progress)
    prepared = prepare_model(source, replace(settings, method="auto"), progress)
    options = replace(prepared.options, method=settings.method)
    scheme = make_scheme(options.mode, options.target, options.choices, options.sets)
    return replace(prepared, options=options, task=replace(prepared.task, scheme=scheme))


def _settings(options: Analyzing, source: Source, other: Inspection | None, data: Data) -> Options:
    """Return the options of the model that qtool would make: those of a quantized model of qtool, if any."""
    settings = Options(
        mode=options.mode,
        target=options.target,
        calib=data if options.calib is None else options.calib,
        calib_format=options.data_format if options.calib is None else options.calib_format,
        data=None if options.calib is None else data,
        data_format=options.data_format,
        reading=options.reading,
        runtime=options.runtime,
        threads=options.threads,
        effort="fast",
    )
    if other is None:
        return settings
    recipe = other.recipe
    if recipe.get("source_sha256", source.sha256) != source.sha256:
        raise UsageError(f"'{other.path}' was made from another model than '{source.name}'")
    if "options" in recipe:
        try:
            chosen = json.loads(recipe["options"])
            chosen |= {"sets": chosen.pop("set"), "mode": recipe["mode"], "target": recipe["target"]}
            return replace(settings, **chosen)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{other.path}: its metadata 'qtool.options' can't be read") from error
    modes = [_MODES[form] for form in other.forms if form in _MODES]
    return replace(settings, mode=modes[0]) if modes else settings


def _drafted(candidate: Candidate) -> Subject:
    """Return the subject of a candidate."""
    model = candidate.model
    regions = _regions(model.task, candidate.assignment, candidate.plan)
    return Subject(model.model, candidate.plan, regions, own_scales=candidate.own_scales)


def _regions(task: PlanInput, assignment: Assignment, plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Return the nodes that are quantized together, and each node beside them that has a quantized weight."""
    regions = [r.nodes for r in find_regions(task.view, assigned_graph(task, assignment))]
    taken = {name for nodes in regions for name in nodes}
    sites = (s for s in plan.sites if s.kind in WEIGHTS or s.kind in OBSERVED)
    others = dict.fromkeys(name for s in sites for name, _ in s.uses or () if name not in taken)
    place = {name: i for i, name in enumerate(task.view.node_by_name)}
    return tuple(sorted((*regions, *((name,) for name in others)), key=lambda nodes: place[nodes[0]]))


def _read(prepared: PreparedModel, source: Source, other: Source) -> tuple[Subject, tuple[str, ...]]:
    """Return the subject of a quantized model, and its nodes that the FP32 model lacks.

    Of another tool's model it is not known how its FP32 model was prepared: qtool's preparation and the
    model as it is are tried, and the one counts in which more of the quantized model is at its place.
    """
    scaled, columns = read_hidden(dict(other.model.metadata_props), other.name)
    quantized = with_names(other.model)
    models = [rescaled(prepared.model, scaled)]
    if not columns and not scaled and "qtool.version" not in other.model.metadata_props:
        models.append(with_opset(source.model, prepared.scheme.opset, has_op))
    target = prepared.scheme.target.name
    reads = [(read_plan(quantized, m, prepared.scheme.mode.name, target), m) for m in models]
    read, model = max(reads, key=lambda pair: pair[0].fit)
    plan = replace(read.plan, outlier_columns={k: v for k, v in columns.items() if k in read.scales})
    task = replace(prepared.task, view=View(model))
    forms = {name: form for name, form in plan.forms.items() if rule_of(task.view.node_by_name[name])}
    regions = _regions(task, Assignment(forms), plan)
    return Subject(model, plan, regions, read.weights, read.biases, read.scales), read.unmatched


def _run_file(other: Source, outputs: Outputs, threads: int, runtime: str) -> NDArray[np.float64]:
    """Run the quantized file; return [samples, outputs] the power of its error."""
    model = with_float_io(Session(other.loadable, threads=threads, name=other.name, runtime=runtime))
    return outputs.errors_of(model, list(match_outputs(outputs.names, model.outputs).values()))


def _output_errors(measured: Measured, noise: NDArray[np.float64] | None) -> tuple[OutputError, ...]:
    outputs = measured.outputs
    actual = [math.nan] * len(outputs.names) if noise is None else noise.sum(axis=0).tolist()
    simulated = measured.simulated.sum(axis=0).tolist()
    rows = zip(outputs.names, outputs.signal.tolist(), actual, simulated, strict=True)
    return tuple(OutputError(name, sqnr_db(s, n), sqnr_db(s, m)) for name, s, n, m in rows)


def _made_by(other: Inspection | None, base: Base) -> str:
    """Return the tool that made the file, or the command that makes the model that was analyzed."""
    if other is None:
        return command_of(base, ())
    if "version" in other.recipe:
        return f"qtool {other.recipe['version']}"
    return other.producer or "an unknown tool"


def _form(other: Inspection | None, settings: Options) -> str:
    if other is None:
        return settings.format if settings.mode == "static" else settings.mode
    return ", ".join(other.forms)


def _nothing(source: Source, other: Inspection | None) -> tuple[str, str]:
    """Return the message and the hint where no tensor is quantized."""
    if other is None:
        return (
            f"{source.name}: nothing in it would be quantized",
            f"qtool quantize {source.name} --dry-run gives the reason for each node",
        )
    if inspect_source(source).forms and not other.forms:
        return (
            f"'{source.name}' is quantized and '{other.path}' is not",
            "FP32 comes first: are they swapped?",
        )
    return (
        f"{other.path}: no quantized tensor of it is one of '{source.name}'",
        "is it a quantized version of that model? For float16, qtool compare has the error",
    )


def _doubts(
    sqnr: float,
    measured: Measured,
    noise: NDArray[np.float64] | None,
    unmatched: Sequence[str],
    form: str,
    runtime: str,
) -> Iterator[str]:
    """Yield what limits the result."""
    if unmatched:
        names = printable(", ".join(unmatched[:3]), 120)
        count = counted(len(unmatched), "quantized node")
        yield f"left out: {count} of the file without a counterpart in the FP32 model: {names}"
    simulated = measured.outputs.sqnr(measured.simulated.sum(axis=0))
    if noise is None or not abs(sqnr - simulated) > _APART_DB:
        return
    text = f"the model has {sqnr:.1f} dB, its scales and weights alone explain {simulated:.1f} dB"
    if runtime != DEFAULT:
        text += f": the rest is of the arithmetic of {runtime_of(runtime)[0].title}"
    elif saturates() and sqnr < simulated and form in ("qdq", "qoperator"):
        text += ": int8 sums saturate on this CPU, which has no VNNI (--target cpu-avx2 fits it)"
    yield text


def _rare(outputs: Outputs, noise: NDArray[np.float64], judge: Samples) -> Iterator[str]:
    """Yield a warning where one of several samples makes nearly all of the error."""
    total = noise.sum(axis=0)
    if len(noise) < 2 or outputs.sqnr(total) >= _ACCURATE_DB:
        return
    shares = (noise[:, total > 0] / total[total > 0]).mean(axis=1)
    if shares.max() > _ALONE:
        place = sorted(evenly(len(judge), len(shares)))[int(shares.argmax())]
        text = f"sample {place + 1} of {judge.name} makes {percent(float(shares.max()))} of the error"
        yield f"{text}: other samples may have other causes; qtool compare judges all {len(judge)}"
