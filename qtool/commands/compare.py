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
from qtool.evaluate.compare import compare
from qtool.evaluate.float_io import with_float_io
from qtool.evaluate.gates import judge, parse
from qtool.evaluate.judging import gates_of, measures_of
from qtool.evaluate.latency import race_models
from qtool.evaluate.reference_outputs import Original, ReferenceOutputs, ReferenceWriter
from qtool.graph.inspection.model import Inspection
from qtool.graph.inspection.read import inspect_model
from qtool.graph.load import Source
from qtool.graph.save import check_target, staged
from qtool.options import Comparing, ModelLike, Progress, silent
from qtool.report.model import ModelFile, Report, Timing
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.session import Model, Session
from qtool.tables.judging import AUTO, USUAL
from qtool.tables.modes import FEW_BITS, MODES

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
    how: Comparing | None = None,
    progress: Progress = silent,
) -> Report:
    """Run two models over samples, measure how far apart they are, and judge the gates.

    Args:
        fp32, quantized: paths, or models in memory; in place of FP32 its outputs, as save_ref kept them.
        data: a source that tables/sources.py knows, or an object that data/iterables.py takes.
        how: everything else.
        progress: called as the samples pass.

    Raises:
        QtoolError: UsageError, ModelError, DataError or RuntimeFailure.
    """
    how = how or Comparing()
    gates, measures = gates_of(how), measures_of(how)
    other = load_model(quantized)
    first = fp32 if isinstance(fp32, ReferenceOutputs) else load_model(fp32)
    timing = how.speed or any(g.metric == "speedup" for g in gates)
    if timing and isinstance(first, ReferenceOutputs):
        raise UsageError(
            "FP32's speed can't be measured without its model", "leave out --speed and its gates"
        )
    samples = read_samples(
        other if isinstance(first, ReferenceOutputs) else first, data, how.reading, how.data_format
    )
    check_used(how.reading, [samples])
    if how.gate in (AUTO, USUAL):
        gates.append(parse(f"sqnr<{_floor(inspect_model(quantized)):g}"))
    with _reference(first, how) as reference:
        model = with_float_io(Session(other.loadable, threads=how.threads, name=other.name))
        comparison = compare(
            reference, model, samples, measures, lambda done, total: progress("compare", done, total)
        )
    race = None
    if timing and isinstance(first, Source):
        models = {"original": first.loadable, "quantized": other.loadable}
        race = Timing.of(race_models(models, samples, how.threads))
    original = first.original if isinstance(first, ReferenceOutputs) else _original(first)
    files = (
        ModelFile(original.path, original.bytes, original.sha256),
        ModelFile(other.name, other.size, other.sha256),
    )
    found = Report(
        "compare",
        __version__,
        *files,
        comparison=comparison,
        race=race,
        warnings=made_up(samples),
        synthetic=synthetic(samples),
    )
    return replace(found, gates=tuple(judge(gates, found.verdict)))


@contextlib.contextmanager
def _reference(source: Source | ReferenceOutputs, how: Comparing) -> Iterator[Model]:
    """FP32: its model, its outputs from a file, or the former on their way into one."""
    if isinstance(source, ReferenceOutputs):
        if how.save_ref is not None:
            raise UsageError("FP32's outputs are in a file already", "leave out --save-ref")
        yield source
        return
    model = with_float_io(Session(source.loadable, threads=how.threads, name=source.name))
    if how.save_ref is None:
        yield model
        return
    check_target(Path(how.save_ref), list(source.files), how.force)
    with staged(Path(how.save_ref)) as staging:
        recorder = ReferenceWriter(model, _original(source), staging.path)
        yield recorder
        recorder.close()
        staging.commit()


def _floor(found: Inspection) -> float:
    """The SQNR in dB that a model's precision usually holds; of several forms the least."""
    floors = [MODES[_MODE_OF[form]].floor_db for form in found.forms if form in _MODE_OF]
    least = min((weight.bits for weight in found.weights.values()), default=32)
    floors += [few.floor_db for qtype, few in FEW_BITS.items() if least <= qtype.bits]
    return min(floors, default=MODES["fp16"].floor_db)


def _original(source: Source) -> Original:
    return Original(source.name, source.size, source.sha256)
