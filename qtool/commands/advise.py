"""Advise on a model: the field's checklist, with commands for this model, goal and hardware."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from qtool import __version__
from qtool.calibration.runner import value_reader
from qtool.commands.prepare import NO_SAMPLES, load_model, prepare_model, read_samples
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.data.samples import Samples, evenly
from qtool.errors import UsageError, counted, did_you_mean, printable
from qtool.evaluate.analysis.measure import channel_axis_of
from qtool.evaluate.analysis.model import ChannelRanges
from qtool.evaluate.analysis.values import Statistics, ranges_of
from qtool.graph.features import features_of
from qtool.graph.inspection.model import Inspection
from qtool.graph.inspection.read import inspect_source
from qtool.graph.load import Source
from qtool.options import ModelLike, Options, Progress, silent
from qtool.plan.draft import observation_sets
from qtool.plan.eligible import channel_axis, rule_of
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import rule_based
from qtool.report.checklist import Checklist, Fact, Step
from qtool.report.model import ModelFile
from qtool.report.tables import percent
from qtool.rewrite.writer import float_array
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.cpu import fitting_target, saturates
from qtool.tables.architectures import ARCHITECTURES, GOALS, Architecture
from qtool.tables.forms import Form
from qtool.tables.targets import AUTO, TargetName

# Looking at weights and at activations ends after this many seconds each.
_SECONDS = 3.0
_SAMPLES = 8
# Values that set a scale for all others: their channels, and how many are shown.
_SHOWN = 2
_FEW_SAMPLES = 32
_QUANTIZED = "already quantized"
_OTHER = "model without layers that qtool quantizes"


@dataclass(frozen=True, kw_only=True)
class Advising:
    """The options of advise.

    Args:
        calib: samples that are to set the ranges; None: there are none.
        calib_format: their kind, where it can't be recognized.
        reading: how to read them.
        reading_flags: the same as options of the command line, for the commands.
        goal: 'speed', 'size' or 'accuracy'.
        target: a row of tables/targets.py, or 'auto'.
        threads: of the runtime.
    """

    calib: Data | None = None
    calib_format: str = ""
    reading: Reading = field(default_factory=Reading)
    reading_flags: tuple[str, ...] = ()
    goal: Literal["speed", "size", "accuracy"] = "speed"
    target: TargetName = "auto"
    threads: int = 0


@single_threaded_blas()
def advise_on(model: ModelLike, options: Advising | None = None, progress: Progress = silent) -> Checklist:
    """Return what a model is, what its weights and activations look like, and the commands in order.

    It runs the model on at most 8 samples, for some seconds.

    Args:
        model: FP32.
        options: everything else.
        progress: called as it goes on.

    Raises:
        QtoolError: UsageError, ModelError, DataError or RuntimeFailure.
    """
    options = options or Advising()
    if options.goal not in GOALS:
        raise UsageError(f"no goal '{options.goal}'", did_you_mean(options.goal, GOALS) or ", ".join(GOALS))
    source = load_model(model)
    inspection = inspect_source(source)
    samples = None
    if options.calib is not None:
        samples = read_samples(source, options.calib, options.reading, options.calib_format)
    features = features_of(source.model)
    row = next((a for a in ARCHITECTURES if a.needs <= features), None)
    quantized = bool(set(inspection.forms) - {"float16", "bfloat16"})
    kind = _QUANTIZED if quantized else _OTHER if row is None else row.name
    settled = Options(mode="static", target=options.target, threads=options.threads)
    prepared = prepare_model(source, settled, progress, NO_SAMPLES)
    facts = [*_about(inspection), *_weights(prepared)]
    facts += [] if samples is None else _activations(prepared, samples, options.threads)
    facts += [] if row is None or quantized else _coverage(prepared)
    target = fitting_target() if options.target == AUTO else options.target
    if row is not None and not quantized:
        modes = ((g, row.options(g, samples=samples is not None)) for g in GOALS)
        texts = (f"{g}: {shlex.join(words) or '--mode static'}" for g, words in modes)
        facts.append(Fact("modes", "; ".join(texts)))
    facts.append(Fact("hardware", _hardware(options.target)))
    steps = _steps(source, samples, row, options, quantized=quantized)
    checks = _checks(row, samples, options, quantized=quantized)
    file = ModelFile(source.name, source.size, source.sha256)
    return Checklist(__version__, file, kind, options.goal, target, tuple(facts), tuple(steps), tuple(checks))


def _about(inspection: Inspection) -> Iterator[Fact]:
    """Yield the interface, the size and the ops."""
    ports = ", ".join(_port(p.name, p.dtype, p.shape) for p in inspection.inputs[:4])
    more = len(inspection.inputs) - 4
    yield Fact("inputs", ports + (f" and {more} more" if more > 0 else ""))
    ops = sorted(inspection.ops.items(), key=lambda item: -item[1].nodes)[:6]
    counts = ", ".join(f"{row.nodes} {name}" for name, row in ops)
    opset = inspection.opsets.get("", 0)
    size = f"{inspection.bytes:,} bytes, {inspection.parameters:,} parameters, opset {opset}"
    yield Fact("model", f"{size}; {counts}")
    if inspection.forms:
        share = percent(inspection.quantized_share)
        yield Fact(
            "quantized", f"{', '.join(inspection.forms)}: {share} of the parameters in 8 bits or fewer"
        )


def _port(name: str, dtype: str, shape: Sequence[object] | None) -> str:
    axes = "any shape" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
    return f"{printable(name, 40)} {dtype} {axes}"


def _weights(prepared: PreparedModel) -> Iterator[Fact]:
    """Yield what stands out among the weights."""
    end = time.process_time() + _SECONDS
    looked, dead, outliers = 0, list[str](), list[tuple[float, str]]()
    for node in prepared.view.nodes:
        rule = rule_of(node)
        for index in () if rule is None else rule.weight:
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value.dtype != ir.DataType.FLOAT or not value.is_initializer():
                continue
            array = float_array(value)
            if array.ndim < 2 or time.process_time() > end or rule is None:
                continue
            looked += 1
            axis = channel_axis(node, rule, array.ndim)
            others = tuple(i for i in range(array.ndim) if i != axis)
            low, high = array.min(axis=others), array.max(axis=others)
            ranges = ranges_of(axis, low, high, (low == 0) & (high == 0))
            dead += [f"{len(ranges.dead)} in {node.name}"] if ranges.dead else []
            if ranges.outliers:
                outliers.append((_excess(ranges), f"{node.name} ({len(ranges.outliers)} of {len(low)})"))
    if not looked:
        yield Fact("weights", "no matrices or filters in float")
        return
    text = f"{counted(looked, 'weight')}"
    text += f"; dead channels: {', '.join(dead[:_SHOWN])}" if dead else "; no dead channels"
    worst = [name for _, name in sorted(outliers, reverse=True)[:_SHOWN]]
    text += f"; channels 8 times as large as the median: {', '.join(worst)}" if worst else "; even channels"
    yield Fact("weights", printable(text))


def _excess(ranges: ChannelRanges) -> float:
    """Return how many times as large as the median channel the largest one is."""
    magnitude = np.maximum(np.abs(ranges.low), np.abs(ranges.high))
    return float(magnitude.max() / max(float(np.median(magnitude)), 1e-30))


def _activations(prepared: PreparedModel, samples: Samples, threads: int) -> Iterator[Fact]:
    """Yield what stands out among the activations, from a few samples."""
    view = prepared.view
    names = observation_sets(prepared.task)[0]
    statistics = {name: Statistics(channel_axis_of(view.values[name])) for name in names}
    end, count = time.process_time() + _SECONDS, 0
    with value_reader(prepared.model, names, threads, "the prepared model") as read:
        for sample in samples.read(evenly(len(samples), _SAMPLES)):
            for name, array in zip(names, read(sample, samples.name), strict=True):
                statistics[name].add(np.asarray(array), None, None)
            count += 1
            if time.process_time() > end:
                break
    ranges = {n: r for n, s in statistics.items() if (r := s.channel_ranges()) is not None and len(r.low) > 1}
    worst = sorted(((_excess(r), n) for n, r in ranges.items() if r.outliers), reverse=True)
    dead = [n for n, r in ranges.items() if r.dead]
    parts = [f"{counted(len(names), 'tensor')} on {counted(count, 'sample')}"]
    parts += [f"outlier channels: {n}, {e:.0f} times the median" for e, n in worst[:_SHOWN]]
    parts += [] if worst else ["no outlier channels"]
    parts += [f"constant channels in {counted(len(dead), 'tensor')}"] if dead else []
    yield Fact("activations", printable("; ".join(parts)))


def _coverage(prepared: PreparedModel) -> Iterator[Fact]:
    """Yield how much of the model the rules would quantize in static mode."""
    forms = rule_based(prepared.task).forms
    int8 = sum(form is Form.INT8 for form in forms.values())
    text = f"{int8} of {counted(len(prepared.view.nodes), 'node')} in int8 by the rules"
    dynamic = sum(form is Form.DYNAMIC for form in forms.values())
    yield Fact("static mode", text + (f", {dynamic} with scales at run time" if dynamic else ""))


def _hardware(target: str) -> str:
    fitting = fitting_target()
    sums = "int8 sums saturate: it has no VNNI" if saturates() else "int8 sums are exact"
    text = f"this CPU fits --target {fitting} ({sums})"
    return text if target in (AUTO, fitting) else f"--target {target}; {text}"


def _steps(
    source: Source,
    samples: Samples | None,
    row: Architecture | None,
    options: Advising,
    *,
    quantized: bool,
) -> Iterator[Step]:
    """Yield the commands in the order in which they are run."""
    model, target = source.name, () if options.target == AUTO else ("--target", options.target)
    out = f"{Path(model).stem}.int8.onnx"
    calib = str(options.calib) if isinstance(options.calib, str | Path) else "SAMPLES"
    reads = options.reading_flags if samples is not None else ()

    def step(*words: str, why: str) -> Step:
        return Step(shlex.join(["qtool", *words]), why)

    if samples is not None:
        yield step("data", calib, "--model", model, *reads, why="check how the samples are read")
    if quantized or row is None:
        yield step("inspect", model, why="see what is in the model")
        return
    chosen = row.options(options.goal, samples=samples is not None)
    ranges = ("--calib", calib) if samples is not None and chosen[:1] != ("--mode",) else ()
    ranges = ("--data", calib) if samples is not None and not ranges else ranges
    yield step(
        "quantize", model, "-o", out, *ranges, *chosen, *target, *reads, why=f"quantize for {options.goal}"
    )
    yield step("inspect", model, out, why="see what changed")
    if samples is None:
        return
    data = ("--data", calib, *reads)
    yield step("analyze", model, out, *data, why="see which layers carry the error, and what lowers it")
    yield step("bench", model, out, *data, "--max-time", "5", why="time both, on samples")
    if options.goal != "size":
        yield step(
            "tune", model, "--calib", calib, *target, *reads, why="see all trade-offs of speed and error"
        )


def _checks(
    row: Architecture | None, samples: Samples | None, options: Advising, *, quantized: bool
) -> Iterator[str]:
    """Yield what to look at."""
    if quantized:
        yield "quantize the FP32 model instead, if there is one: what is rounded stays rounded"
        yield "a QAT export keeps its scales in --mode static; --requantize makes new ones"
        return
    if row is None:
        yield "qtool quantizes convolutions, products, recurrent layers and tables: this model has none"
        return
    yield row.watch
    if samples is None:
        yield "no samples were given: --calib SRC sets ranges and judges; without it the error is unknown"
        return
    if len(samples) < _FEW_SAMPLES:
        yield f"{counted(len(samples), 'sample')}: 50 to 300 that cover the model's use set better ranges"
    yield "the inputs: most drops of accuracy come from samples that are preprocessed in another way"
    yield "the verdict: 30 dB or more rarely changes a decision; with labels, add --labels FILE"
    if options.goal == "speed":
        yield "the speed with its interval: int8 that is not faster here is written as FP32, and said so"
