"""Remedies for the error of a quantized model, each simulated: its gain is known before it is built."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from qtool.data.open import Data
from qtool.data.samples import Part, evenly
from qtool.errors import ModelError, RuntimeFailure, counted
from qtool.evaluate.analysis.effects import Outputs, Powers
from qtool.evaluate.analysis.measure import Measured
from qtool.evaluate.analysis.model import RegionError
from qtool.evaluate.analysis.subject import Subject
from qtool.graph.for_session import model_for_session
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.constraints import Patterns, match_constraints
from qtool.plan.model import WEIGHTS, Site
from qtool.plan.rules import rule_based
from qtool.plan.scheme import make_scheme
from qtool.recover.bias_correction import bias_correction
from qtool.recover.gptq import round_weights
from qtool.report.analysis import Advice
from qtool.report.tables import percent
from qtool.rewrite.write import written
from qtool.rewrite.writer import float_array
from qtool.runtime.cpu import fitting_target
from qtool.runtime.session import Session
from qtool.tables.methods import METHODS
from qtool.tables.modes import FEW_BITS, MODES
from qtool.tables.recoveries import RECOVERIES

# Less than this is within the error of a prediction.
_LEAST_DB = 0.3
# Of the mean gain over samples: what one sample gains alone is no promise for the others.
_CONFIDENCE = 0.95
_MOST_ADVICE = 6
# Shares of the error that regions are taken out for, the largest first; 0: one region.
_PARTS = (0.0, 0.5, 0.75)
_MOST_REGIONS = 8
# Advice leaves this share of the quantized nodes as they are.
_LEAST_LEFT = 0.6
# An op, or all weights, or all activations, with a smaller share are left as they are.
_MUCH = 0.2
_METHODS = ("mse", "percentile", "auto")
# Samples for GPTQ and bias correction here; the commands use more.
_SAMPLES = 16
# GPTQ of more weights takes longer than all else.
_MOST_WEIGHTS = 8_000_000
# A file that is better by more than this has had recovery: advice starts from it.
_BETTER_DB = 1.0
# The rules' plan, also where it is no faster here: what was simulated.
_FAST = ("--effort", "fast", "--timing", "table")


@dataclass(frozen=True)
class Base:
    """The model that the commands of the advice change.

    Args:
        candidate: of `qtool quantize --effort fast --timing table`; its ranges have histograms.
        flags: options of reading samples, as they are typed.
        calib: the samples that set ranges.
    """

    candidate: Candidate
    flags: tuple[str, ...]
    calib: Data


@dataclass(frozen=True)
class Start:
    """The error that remedies lower.

    Args:
        noise: [samples, outputs] its power.
        kept: of that, what no change of the plan lowers: the runtime makes it, not the scales.
        foreign: the model was read from a file.
    """

    noise: Powers
    kept: Powers
    foreign: bool


@dataclass(frozen=True)
class Remedy:
    """A piece of advice, and the candidate that its command makes; None where only a search can tell."""

    advice: Advice
    candidate: Candidate | None


@dataclass(frozen=True)
class _Change:
    """Options that change a model.

    Args:
        flags: of the command line.
        why: the reason.
        subject: the changed model.
        candidate: the same.
        fast: whether the command has the options of the base.
    """

    flags: tuple[str, ...]
    why: str
    subject: Subject
    candidate: Candidate | None = None
    fast: bool = True


def command_of(base: Base, flags: Sequence[str], *, fast: bool = True) -> str:
    """Return the command that quantizes the FP32 model with these options added."""
    model = base.candidate.model
    options, name = model.options, model.source.name
    calib = base.calib if isinstance(base.calib, str | Path) else "SAMPLES"
    words = ["qtool", "quantize", name, "-o", f"{Path(name).stem}.better.onnx", "--calib", str(calib)]
    if options.data is not None:
        words += ["--data", str(options.data) if isinstance(options.data, str | Path) else "SAMPLES"]
    words += [] if options.mode == "static" else ["--mode", options.mode]
    words += [] if options.target == fitting_target() else ["--target", options.target]
    words += ["--runtime", options.runtime] if options.runtime else []
    for choice, value in options.choices.made().items():
        words += [f"--{choice.replace('_', '-')}", *([] if value is True else [str(value)])]
    for option, patterns in (
        ("exclude", options.exclude),
        ("include", options.include),
        ("set", options.sets),
    ):
        words += [word for pattern in patterns for word in (f"--{option}", pattern)]
    return shlex.join([*words, *base.flags, *(_FAST if fast else ()), *flags])


def remedies(base: Base, subject: Subject, measured: Measured, start: Start, most: int) -> list[Remedy]:
    """Return the changes that are predicted to help, the best first.

    Args:
        base: the model that commands change.
        subject: the analyzed model: that of `base`, or one that was read from a file.
        measured: its errors.
        start: what gains are against.
        most: the most runs over all samples.
    """
    outputs = measured.outputs
    first_run, made = outputs.runs, list[Remedy]()
    count, threads = len(outputs.samples), base.candidate.model.threads
    sqnr = outputs.sqnr(start.noise.sum(axis=0))

    def left() -> float:
        return most - (outputs.runs - first_run) / count

    def add(change: _Change, noise: Powers) -> None:
        """Keep a change whose gain the samples agree on."""
        noise = noise + start.kept
        if _least_gain(outputs.levels(noise) - outputs.levels(start.noise)) > 0:
            made.append(_remedy(base, change, outputs.sqnr(noise.sum(axis=0)), sqnr))

    first = _drafted(base.candidate)
    better = False
    if start.foreign:
        noise = _simulate(first, outputs, threads)
        better = sqnr > outputs.sqnr(noise.sum(axis=0)) + _BETTER_DB
        if not better:
            why = "qtool's rules choose other scales, and leave other nodes in float"
            add(_Change((), why, first, base.candidate), noise)
    changes = _from_file(subject, measured) if better else _changes(base, subject, measured, outputs, left)
    for change in changes:
        if left() < 1:
            break
        try:
            noise = _simulate(change.subject, outputs, threads)
        except (ModelError, RuntimeFailure):  # one change that can't be simulated is no advice
            continue
        add(change, noise)
    good = sorted((r for r in made if r.advice.gain >= _LEAST_DB), key=lambda r: -r.advice.gain)
    return good[:_MOST_ADVICE]


def _least_gain(gains: NDArray[np.float64]) -> float:
    """Return the lower end of the mean gain in dB, of [samples] gains: one of them alone is no promise."""
    if len(gains) < 2:
        return float(gains.sum())
    return float(gains.mean() - stdtrit(len(gains) - 1, _CONFIDENCE) * gains.std(ddof=1) / len(gains) ** 0.5)


def build(remedies: Sequence[Remedy], outputs: Outputs, threads: int, runtime: str) -> list[Remedy]:
    """Return the remedies with the SQNR of the models that they make, each written and run."""
    return [
        replace(r, advice=replace(r.advice, measured=_measured(r, outputs, threads, runtime)))
        for r in remedies
    ]


def _measured(remedy: Remedy, outputs: Outputs, threads: int, runtime: str) -> float:
    if remedy.candidate is None:
        return math.nan
    return outputs.sqnr(run_candidate(remedy.candidate, outputs, threads, runtime).sum(axis=0))


def run_candidate(candidate: Candidate, outputs: Outputs, threads: int, runtime: str) -> Powers:
    """Write the model of a candidate and run it; return [samples, outputs] the power of its error."""
    with model_for_session(written(candidate.model.model, candidate.plan)) as loadable:
        name = "the model that qtool would make"
        session = Session(loadable, threads=threads, name=name, runtime=runtime)
    return outputs.errors_of(session, outputs.names)


def _simulate(subject: Subject, outputs: Outputs, threads: int) -> Powers:
    """Return [samples, outputs] the power of the error of a simulated model."""
    with model_for_session(subject.simulated()) as loadable:
        session = Session(loadable, threads=threads, name="the simulated model", integers=False)
    return outputs.errors_of(session, outputs.names)


def _remedy(base: Base, change: _Change, predicted: float, before: float) -> Remedy:
    command = command_of(base, change.flags, fast=change.fast)
    gain = predicted - before if math.isfinite(before) else math.nan
    advice = Advice(shlex.join(change.flags), command, change.why, predicted, gain, math.nan)
    return Remedy(advice, change.candidate)


def _drafted(candidate: Candidate) -> Subject:
    return Subject(candidate.model.model, candidate.plan, ())


def _changes(
    base: Base, subject: Subject, measured: Measured, outputs: Outputs, left: Callable[[], float]
) -> Iterator[_Change]:
    """Yield changes of the base: nodes in float or in more bits, other ranges, recovery."""
    for nodes, why in _groups(measured, base.candidate.plan.forms.keys() | _stored(base.candidate)):
        few = base.candidate.model.scheme.storage in FEW_BITS
        option = ("--set", "{}=int8") if few else ("--exclude", "{}")
        flags = tuple(word.format(n) for n in nodes for word in option)
        if (candidate := _changed(base.candidate, flags)) is not None:
            yield _Change(flags, why, _drafted(candidate), candidate)
    shares = {
        kind: sum(t.share for t in measured.tensors if t.kind == kind) for kind in ("activation", "weight")
    }
    if MODES[base.candidate.model.options.mode].needs_ranges and shares["activation"] > _MUCH:
        for method in _METHODS:
            if (candidate := _changed(base.candidate, ("--method", method))) is not None:
                why = f"ranges by {method}: {METHODS[method].summary}"
                yield _Change(("--method", method), why, _drafted(candidate), candidate)
    yield from _recoveries(base.candidate, shares["weight"], outputs, left)


def _recoveries(
    candidate: Candidate, share: float, outputs: Outputs, left: Callable[[], float]
) -> Iterator[_Change]:
    """Yield the changes of recovery, which takes inferences of its own."""
    source = candidate.model.samples.calibrate
    if source is None:
        return
    samples = Part(source, evenly(len(source), _SAMPLES), source.name)
    view, threads, runs = candidate.model.view, candidate.model.threads, len(samples) / len(outputs.samples)
    names: list[str] = []
    weights = (s for s in candidate.plan.sites if s.kind in WEIGHTS)
    size = sum(float_array(view.values[s.value]).size for s in weights)
    if share > _MUCH and size <= _MOST_WEIGHTS and left() > runs + 1:
        outputs.runs += len(samples)
        candidate = candidate.with_plan(round_weights(view, candidate.plan, samples, threads))
        names.append("gptq")
        yield _recovery(names, candidate)
    if candidate.plan.forms and left() > 2 * runs + 1:
        outputs.runs += 2 * len(samples)
        corrected = bias_correction(view, candidate.plan, samples, threads)
        yield _recovery([*names, "bias"], candidate.with_plan(corrected))


def _recovery(names: Sequence[str], candidate: Candidate) -> _Change:
    why = "; ".join(RECOVERIES[name].summary for name in names)
    return _Change(("--recover", ",".join(names)), why, _drafted(candidate), candidate)


def _groups(measured: Measured, able: Collection[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the nodes of the regions with the largest shares or error, and of an op with a large share."""
    regions = [r for r in sorted(measured.regions, key=lambda r: -r.share) if set(r.nodes) & set(able)]
    sizes = dict.fromkeys(_count(regions, part) for part in _PARTS)
    groups = [regions[:s] for s in sizes if s and (s == 1 or s < len(measured.regions))]
    loudest = sorted(regions, key=lambda r: r.sqnr)[:1]
    for chosen in [*groups, *([loudest] if loudest not in groups else [])]:
        size = len(chosen)
        nodes = tuple(n for r in chosen for n in r.nodes if n in able)
        carry = "carry" if size > 1 else "carries"
        yield nodes, f"{counted(size, 'region')} {carry} {percent(sum(r.share for r in chosen))} of the error"
    ops: dict[str, float] = {}
    for region in regions:
        ops[region.ops[0]] = ops.get(region.ops[0], 0.0) + region.share
    op = max(ops, key=lambda o: ops[o], default="")
    count = sum(r.ops[0] == op for r in regions)
    if 1 < count < len(regions) / 2 and ops[op] > _MUCH:
        yield (f"op:{op}",), f"all {op} nodes together carry {percent(ops[op])} of the error"


def _count(regions: Sequence[RegionError], part: float) -> int:
    """Return how many regions carry a part of the error, within a limit."""
    total = 0.0
    for number, region in enumerate(regions[:_MOST_REGIONS], start=1):
        total += region.share
        if total >= part:
            return number
    return min(len(regions), _MOST_REGIONS)


def _stored(candidate: Candidate) -> set[str]:
    """Return the nodes whose weights are stored as integers."""
    return {name for s in candidate.plan.sites if s.kind in WEIGHTS for name, _ in s.uses or ()}


def _changed(candidate: Candidate, flags: Sequence[str]) -> Candidate | None:
    """Return the candidate of the same command with more options; None if it is the same, or mostly float."""
    model = candidate.model
    options = model.options
    pairs = list(zip(flags[::2], flags[1::2], strict=True))
    options = replace(
        options,
        exclude=(*options.exclude, *(v for f, v in pairs if f == "--exclude")),
        sets=(*options.sets, *(v for f, v in pairs if f == "--set")),
        method=cast(Any, next((v for f, v in pairs if f == "--method"), options.method)),
    )
    scheme = make_scheme(options.mode, options.target, options.choices, options.sets)
    patterns = Patterns(tuple(options.exclude), tuple(options.include), tuple(options.sets))
    constraints = match_constraints(model.view, model.source.model, scheme, patterns)
    task = replace(model.task, scheme=scheme, constraints=constraints)
    other = make_candidate(replace(model, options=options, task=task), rule_based(task))
    if other.plan.sites == candidate.plan.sites or len(other.plan.forms) < _LEAST_LEFT * len(
        candidate.plan.forms
    ):
        return None
    return other


def _from_file(subject: Subject, measured: Measured) -> Iterator[_Change]:
    """Yield changes of a file of qtool: nodes in float, in a plan that is searched for anew."""
    for nodes, why in _groups(measured, subject.plan.forms.keys()):
        if any(n.startswith("op:") for n in nodes):
            continue
        plan = replace(subject.plan, sites=tuple(_without(subject, nodes)))
        flags = tuple(word for n in nodes for word in ("--exclude", n))
        changed = replace(subject, plan=plan)
        yield _Change(flags, f"{why}; the search is repeated", changed, fast=False)


def _without(subject: Subject, nodes: Collection[str]) -> Iterator[Site]:
    """Yield the sites without those that only some nodes need."""
    for site in subject.plan.sites:
        uses = tuple(use for use in subject.uses(site) if use[0] not in nodes)
        producer = subject.view.values[site.value].producer()
        made = producer is not None and producer.name in subject.plan.forms and producer.name not in nodes
        if uses == subject.uses(site) or (site.uses is None and (uses or made)):
            yield site
        elif uses:
            yield replace(site, uses=uses)
