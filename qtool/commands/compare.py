"""Two models side by side: how far apart they are, and whether that is good enough."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qtool import __version__
from qtool.commands.prepare import load_model, made_up, read_samples
from qtool.data.open import Data
from qtool.data.samples import check_used, synthetic
from qtool.errors import UsageError
from qtool.evaluate.channel_order import reversed_channels
from qtool.evaluate.compare import Comparison, Measures, check_labelled, compare
from qtool.evaluate.criteria import row_gates, task_gates
from qtool.evaluate.float_io import with_float_io
from qtool.evaluate.gates import judge, parse
from qtool.evaluate.judging import gates_of, measures_of, with_scores
from qtool.evaluate.labels import label_warnings
from qtool.evaluate.latency import race_models
from qtool.evaluate.reference_outputs import Original, ReferenceOutputs, ReferenceWriter
from qtool.graph.inspection.model import Inspection
from qtool.graph.inspection.read import inspect_model, inspect_source
from qtool.graph.load import Source
from qtool.graph.save import check_target, staged
from qtool.options import Comparing, ModelLike, Progress, silent
from qtool.report.model import ModelFile, Report, Timing
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.providers import as_made_for, check_runtime
from qtool.runtime.session import Model, Session
from qtool.tables.judging import AUTO, NONE, USUAL
from qtool.tables.modes import FEW_BITS, MODES

# SQNR in dB below which two models share no more than the mean of their outputs.
_UNRELATED_DB = 3.0

Reference = ModelLike | ReferenceOutputs

# The mode that makes models of a form (graph/inspection/model.py).
_MODE_OF = {
    "qdq": "static",
    "qoperator": "static",
    "dynamic": "dynamic",
    "weight-only": "weight-only",
    "float16": "fp16",
    "bfloat16": "fp16",
}


@single_threaded_blas()
def compare_models(
    fp32: Reference,
    quantized: ModelLike,
    data: Data,
    options: Comparing | None = None,
    progress: Progress = silent,
) -> Report:
    """Run two models over samples, measure how far apart they are, and judge the gates.

    Args:
        fp32, quantized: paths, or models in memory; in place of FP32 its outputs, as save_ref kept them.
        data: a source that tables/sources.py knows, or an object that data/iterables.py takes.
        options: everything else.
        progress: called as the samples pass.

    Raises:
        QtoolError: UsageError, ModelError, DataError or RuntimeFailure.
    """
    options = options or Comparing()
    gates, measures = gates_of(options), measures_of(options)
    other = load_model(quantized)
    runtime = as_made_for(options.runtime, other.model.metadata_props)
    check_runtime(runtime)
    first = fp32 if isinstance(fp32, ReferenceOutputs) else load_model(fp32)
    measures = with_scores(measures, options, first.model if isinstance(first, Source) else other.model)
    timing = options.speed or any(g.metric == "speedup" for g in gates)
    if timing and isinstance(first, ReferenceOutputs):
        raise UsageError(
            "FP32's speed can't be measured without its model", "leave out --speed and its gates"
        )
    samples = read_samples(
        other if isinstance(first, ReferenceOutputs) else first, data, options.reading, options.data_format
    )
    check_used(options.reading, [samples])
    with _reference(first, options, measures) as reference:
        session = Session(other.loadable, threads=options.threads, name=other.name, runtime=runtime)
        model = with_float_io(session)
        comparison = compare(
            reference, model, samples, measures, lambda done, total: progress("compare", done, total)
        )
        doubt = ""
        if isinstance(first, Source) and options.save_ref is None:
            doubt = reversed_channels(reference, samples, measures.scored)
    check_labelled(comparison, measures)
    decisions = []
    if options.gate != NONE and not synthetic(samples):
        decisions = [*task_gates(comparison, gates), *row_gates(comparison, gates)]
    if options.gate in (AUTO, USUAL):
        gates.append(parse(f"sqnr<{_floor(inspect_model(quantized)):g}"))
    gates += decisions
    race = None
    if timing and isinstance(first, Source):
        models = {"original": first.loadable, "quantized": other.loadable}
        race = Timing.of(race_models(models, samples, options.threads, runtimes={"quantized": runtime}))
    original = first.original if isinstance(first, ReferenceOutputs) else _original(first)
    files = (
        ModelFile(original.path, original.bytes, original.sha256),
        ModelFile(other.name, other.size, other.sha256),
    )
    report = Report(
        "compare",
        __version__,
        *files,
        comparison=comparison,
        race=race,
        warnings=(
            *_mistaken(first, other, comparison),
            *made_up(samples),
            *samples.doubts(),
            *filter(None, [doubt]),
            *comparison.caveats,
            *label_warnings(comparison.accuracy, comparison.samples),
        ),
        synthetic=synthetic(samples),
        runtime=runtime,
    )
    return replace(report, gates=tuple(judge(gates, report.verdict)))


def _mistaken(fp32: Source | ReferenceOutputs, quantized: Source, comparison: Comparison) -> Iterator[str]:
    """Yield a warning where the arguments are swapped, or the models are no versions of one."""
    sources = [inspect_source(s) for s in (fp32, quantized) if isinstance(s, Source)]
    if len(sources) == 2 and sources[0].forms and not sources[1].forms:
        forms = ", ".join(sources[0].forms)
        names = f"'{sources[0].path}' is quantized ({forms}) and '{sources[1].path}' is not"
        yield f"{names}: FP32 comes first; are the two swapped?"
    elif any(not o.exact and o.count for o in comparison.outputs) and comparison.sqnr < _UNRELATED_DB:
        original = fp32.original if isinstance(fp32, ReferenceOutputs) else _original(fp32)
        if sources[-1].recipe.get("source_sha256", original.sha256) != original.sha256:
            yield f"'{quantized.name}' was made from another model than '{original.path}'"
        else:
            little = f"the outputs have little in common (SQNR {comparison.sqnr:.1f} dB)"
            yield f"{little}: are '{original.path}' and '{quantized.name}' versions of one model?"


@contextlib.contextmanager
def _reference(source: Source | ReferenceOutputs, options: Comparing, measures: Measures) -> Iterator[Model]:
    """FP32: its model, its outputs from a file, or the former on their way into one."""
    if isinstance(source, ReferenceOutputs):
        if options.save_ref is not None:
            raise UsageError("FP32's outputs are in a file already", "leave out --save-ref")
        yield source
        return
    session = Session(source.loadable, threads=options.threads, name=source.name)
    model = measures.model(with_float_io(session))
    if options.save_ref is None:
        yield model
        return
    check_target(Path(options.save_ref), list(source.files), options.force)
    with staged(Path(options.save_ref)) as staging:
        recorder = ReferenceWriter(model, _original(source), staging.path)
        yield recorder
        recorder.close()
        staging.commit()


def _floor(inspection: Inspection) -> float:
    """The SQNR in dB that a model's precision usually holds; of several forms the least."""
    floors = [MODES[_MODE_OF[form]].floor_db for form in inspection.forms if form in _MODE_OF]
    least = min((weight.bits for weight in inspection.weights.values()), default=32)
    floors += [few.floor_db for qtype, few in FEW_BITS.items() if least <= qtype.bits]
    return min(floors, default=MODES["fp16"].floor_db)


def _original(source: Source) -> Original:
    return Original(source.name, source.size, source.sha256)
