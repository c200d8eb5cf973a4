"""Measure where a quantized model loses accuracy: one pass in FP32, one simulated, one for each region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, evenly
from qtool.evaluate.analysis.blocks import blocks_of, with_blocks
from qtool.evaluate.analysis.effects import Effect, Outputs, measure_effects
from qtool.evaluate.analysis.faults import Fault, activation_fault, faulty_biases, weight_fault
from qtool.evaluate.analysis.model import BlockError, RegionError, TensorError
from qtool.evaluate.analysis.subject import Subject
from qtool.evaluate.analysis.values import Grid, Statistics, weight_statistics
from qtool.evaluate.rows import row_outputs
from qtool.graph.for_session import model_for_session
from qtool.graph.view import is_op, rank, sole_consumer
from qtool.plan.eligible import channel_axis, rule_of
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, Kind, Site
from qtool.rewrite.writer import float_array
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.runtime.session import Session, running
from qtool.tables.ops import Role

SAMPLES = 8
# Inferences over all samples beside one for each region: the limit, and those that the caller needs.
RUNS = 20
_CONVOLUTIONS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization")


@dataclass(frozen=True)
class Measured:
    """The result of a measurement.

    Args:
        outputs: FP32's, and the inferences so far.
        simulated: [samples, outputs] the power of the error of the simulated model.
        regions: with a fault first, then by local error.
        tensors: in the same order.
        blocks: by share.
    """

    outputs: Outputs
    simulated: NDArray[np.float64]
    regions: tuple[RegionError, ...]
    tensors: tuple[TensorError, ...]
    blocks: tuple[BlockError, ...]


def first_samples(model: ir.Model, source: Samples, count: int = SAMPLES) -> list[Arrays]:
    """Return some samples of a source, in the types of the model's inputs.

    Raises:
        DataError: a sample does not fit.
    """
    with model_for_session(model) as loadable:
        session = Session(loadable, name="the prepared model")
    picked = evenly(len(source), count)
    return [fit(s, session.inputs, session.input_dtypes, source.name) for s in source.read(picked)]


def open_outputs(subject: Subject, samples: Sequence[Arrays]) -> Outputs:
    """Return an empty record of the FP32 outputs on some samples."""
    names = [v.name or "" for v in subject.model.graph.outputs if is_float32(v)]
    return Outputs(names, row_outputs(subject.model), samples)


def measure(
    subject: Subject,
    samples: Sequence[Arrays],
    reserve: int,
    threads: int = 0,
    progress: StepProgress = no_progress,
) -> Measured:
    """Return the error of every tensor, region and block of a quantized model.

    Args:
        subject: the model.
        samples: inputs.
        reserve: runs over all samples that the caller needs of the RUNS.
        threads: of the runtime.
        progress: called with the inferences done and their greatest number.

    Raises:
        RuntimeFailure: the model fails on a sample.
    """
    outputs = open_outputs(subject, samples)
    statistics, noise = _observe(subject, outputs, threads)
    problems = _problems(subject, statistics)
    passes = (RUNS + len(subject.regions) - reserve) * len(samples) - outputs.runs
    biases = faulty_biases(subject, problems)
    effects, alone = measure_effects(subject, outputs, noise, biases, passes, threads, progress)
    table = _Table(subject, outputs, statistics, effects, problems, homes(subject))
    tensors = {key: table.tensor(key) for key in subject.tensors}
    regions = with_blocks([table.region(i, alone[i], tensors) for i in range(len(subject.regions))])
    severity = {tensors[key].name: fault.severity for key, fault in problems.items()}
    regions.sort(key=lambda r: (-max((severity.get(t, 0.0) for t in r.tensors), default=0.0), r.sqnr))
    ranked = sorted(tensors.values(), key=lambda t: (-severity.get(t.name, 0.0), t.sqnr))
    return Measured(outputs, noise, tuple(regions), tuple(ranked), blocks_of(regions))


def _observe(
    subject: Subject, outputs: Outputs, threads: int
) -> tuple[dict[str, Statistics], NDArray[np.float64]]:
    """Run FP32 and the simulated model; return the statistics of values, and the error at the outputs.

    Returns:
        tensor -> statistics, also of the results of regions; [samples, outputs] sums of squares.
    """
    view = subject.view
    first = {key: sites[0].value for key, sites in subject.tensors.items()}
    owners = {s.value: key for key, sites in subject.tensors.items() for s in sites if s.kind not in WEIGHTS}
    results = {r for nodes in subject.regions for r in [result_of(subject, nodes)] if r}
    names = [n for n in dict.fromkeys((*owners, *results)) if view.in_main(view.values[n])]
    statistics: dict[str, Statistics] = {}
    for name in names:
        key = owners.get(name, name)
        axis = channel_axis_of(view.values[name]) if first.get(key, name) == name else None
        if key not in statistics or axis is not None:
            statistics[key] = Statistics(axis)
    grids = {key: grid_of_site(sites[0]) for key, sites in subject.tensors.items()}
    noise = np.zeros((len(outputs.samples), len(outputs.names)))
    float_model = _Reader(subject.model, names, outputs.names, threads, "the FP32 model")
    simulated = _Reader(subject.simulated(), names, outputs.names, threads, "the simulated model")
    for position, sample in enumerate(outputs.samples):
        expected, reference = float_model.read(sample)
        actual, results_of_it = simulated.read(sample)
        outputs.runs += 2
        outputs.arrays.append(reference)
        noise[position] = outputs.error(position, results_of_it)
        for name, a, b in zip(names, expected, actual, strict=True):
            key = owners.get(name, name)
            channels = first.get(key, name) == name
            statistics[key].add(np.asarray(a), np.asarray(b), grids.get(key), channels=channels)
        beat()
    for key, sites in subject.tensors.items():
        if sites[0].kind in WEIGHTS:
            statistics[key] = _of_weight(subject, sites[0])
    return statistics, noise


class _Reader:
    """Runs a model for some of its values, and for its own outputs.

    Args:
        model: not changed.
        values, outputs: names; inputs among the values are taken from the sample.
        threads: of the runtime.
        name: of the session.
    """

    def __init__(
        self, model: ir.Model, values: Sequence[str], outputs: Sequence[str], threads: int, name: str
    ) -> None:
        clone = model.clone()
        self._fed = {v.name for v in clone.graph.inputs}
        made = {v.name: v for node in clone.graph for v in node.outputs}
        own = {v.name for v in clone.graph.outputs}
        self._values, self._outputs = list(values), list(outputs)
        for value in (made[n] for n in values if n not in self._fed and n not in own):
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            clone.graph.outputs.append(value)
        with model_for_session(clone) as loadable:
            self._session = Session(loadable, threads=threads, name=name, integers=False)

    def read(self, sample: Arrays) -> tuple[list[Any], list[NDArray[np.float64]]]:
        """Return the values and the outputs for a sample."""
        names = list(dict.fromkeys(n for n in (*self._values, *self._outputs) if n not in self._fed))
        with running(self._session):
            arrays = dict(zip(names, self._session.run(sample, names), strict=True))
        values = [sample[n] if n in self._fed else arrays[n] for n in self._values]
        return values, [np.asarray(arrays[n], np.float64) for n in self._outputs]


def _of_weight(subject: Subject, site: Site) -> Statistics:
    value = subject.view.values[site.value]
    array = float_array(value)
    name = (site.uses or (("", 0),))[0][0]
    node = subject.view.node_by_name.get(name)
    rule = rule_of(node) if node is not None else None
    axis = None
    if node is not None and rule is not None and rule.weight and array.ndim > 1:
        axis = 1 if rule.role is Role.RECURRENT else channel_axis(node, rule, array.ndim)
    return weight_statistics(array, subject.restored(site, array), axis)


def grid_of_site(site: Site) -> Grid | None:
    """Return the grid of an activation; None of a weight."""
    if site.kind in WEIGHTS:
        return None
    limits = np.iinfo(
        site.spec.qtype.dtype
    )  # QuantizeLinear saturates at these, whatever a symmetric type omits
    ends = int(limits.min), int(limits.max)
    if site.qparams is None:
        return Grid(math.nan, math.nan, *ends)
    return Grid(float(site.qparams.scale), float(site.qparams.zero_point), *ends)


def channel_axis_of(value: ir.Value) -> int | None:
    """Return the axis of an activation's channels: the second one around convolutions, else the last."""
    axes = rank(value)
    if axes is None or axes < 2:
        return None
    near = [value.producer(), *(use.node for use in value.uses())]
    return 1 if axes > 3 or any(is_op(n, *_CONVOLUTIONS) for n in near) else axes - 1


def _problems(subject: Subject, statistics: Mapping[str, Statistics]) -> dict[str, Fault]:
    """Return tensor -> the fault of its scale, for tensors that have one."""
    problems: dict[str, Fault] = {}
    for key, sites in subject.tensors.items():
        grid, problem = grid_of_site(sites[0]), None
        if grid is not None and key in statistics:
            problem = activation_fault(statistics[key], grid, _fixed_bound(subject, sites))
        elif grid is None:
            array = float_array(subject.view.values[sites[0].value])
            problem = weight_fault(array, subject.restored(sites[0], array))
        if problem is not None:
            problems[key] = problem
    return problems


def _fixed_bound(subject: Subject, sites: Sequence[Site]) -> float:
    """Return the magnitude that an op's result has at most, whatever its input; 0 where there is none."""
    producers = [subject.view.values[s.value].producer() for s in sites]
    bounds = [
        rule.bounds for p in producers if p is not None and p.op_type != "Clip" and (rule := rule_of(p))
    ]
    return max((abs(b) for pair in bounds for b in pair if all(map(math.isfinite, pair))), default=0.0)


def result_of(subject: Subject, nodes: Sequence[str]) -> str:
    """Return the last value that a region computes, behind a clamp; '' inside an If or Loop."""
    node = subject.view.node_by_name[nodes[-1]]
    value = node.outputs[0]
    reader = sole_consumer(value)
    if reader is not None and is_op(reader, "Relu", "Clip"):
        value = reader.outputs[0]
    floats = is_float32(value) and subject.view.in_main(value)
    return value.name or "" if floats else ""


def homes(subject: Subject) -> dict[str, int]:
    """Return tensor -> the region that its error counts for: its producer's, else its first consumer's."""
    place = {name: i for i, nodes in enumerate(subject.regions) for name in nodes}
    homes: dict[str, int] = {}
    for key, sites in subject.tensors.items():
        made = [
            place[m] for s in sites if s.kind not in WEIGHTS and s.uses is None and (m := subject.producer(s))
        ]
        read = [place[n] for s in sites for n, _ in subject.uses(s) if n in place]
        if made or read:
            homes[key] = (made or read)[0]
    return homes


@dataclass(frozen=True)
class _Table:
    """Makes the rows of an analysis."""

    subject: Subject
    outputs: Outputs
    statistics: Mapping[str, Statistics]
    effects: Mapping[str, Effect]
    problems: Mapping[str, Fault]
    homes: Mapping[str, int]

    def share(self, key: str) -> float:
        """Return the share of a tensor in the error at the outputs, on the mean of the outputs."""
        total = np.sum([e.noise for e in self.effects.values()], axis=0)
        if key not in self.effects or not np.any(total):
            return 0.0
        parts = np.divide(self.effects[key].noise, total, out=np.zeros_like(total), where=total > 0)
        return float(parts[total > 0].mean())

    def tensor(self, key: str) -> TensorError:
        """Return the row of a tensor."""
        sites, effect = self.subject.tensors[key], self.effects.get(key)
        site, weight = sites[0], sites[0].kind in WEIGHTS
        own = self.statistics.get(key) or Statistics(None)
        grid = grid_of_site(site)
        restored = None
        if weight:
            restored = self.subject.restored(site, float_array(self.subject.view.values[site.value]))
        home = self.homes.get(key)
        low, high = (math.nan, math.nan) if not own.count else (own.low, own.high)
        ends = (math.nan, math.nan) if grid is None else (grid.low, grid.high)
        if restored is not None and restored.array.size:
            ends = float(restored.array.min()), float(restored.array.max())
        return TensorError(
            name=site.value,
            kind="weight" if weight else "runtime" if site.kind is Kind.RUNTIME else "activation",
            qtype=restored.qtype if restored is not None else site.spec.qtype.name,
            scale=self.subject.scales.get(site.value, ""),
            nodes=tuple(dict.fromkeys(name for s in sites for name, _ in self.subject.uses(s))),
            region="" if home is None else self.subject.regions[home][0],
            sqnr=math.nan if effect is None else self.outputs.sqnr(effect.noise),
            share=self.share(key),
            samples=0 if effect is None else effect.samples,
            own_sqnr=own.own_sqnr,
            accumulated=math.nan if weight else own.accumulated_sqnr,
            rmse_steps=own.rmse_steps,
            clipped=own.clipped / max(own.count, 1),
            low=low,
            high=high,
            grid_low=ends[0],
            grid_high=ends[1],
            channels=own.channel_ranges(),
            histogram=own.histogram(),
            problem=self.problems[key].text if key in self.problems else "",
        )

    def region(self, index: int, alone: Effect, tensors: Mapping[str, TensorError]) -> RegionError:
        """Return the row of a region."""
        nodes = self.subject.regions[index]
        keys = [key for key, home in self.homes.items() if home == index]
        result = result_of(self.subject, nodes)
        owner = next((k for k, sites in self.subject.tensors.items() if sites[0].value == result), result)
        own = self.statistics.get(owner)
        return RegionError(
            name=nodes[0],
            nodes=nodes,
            ops=tuple(self.subject.view.node_by_name[n].op_type for n in nodes),
            block="",
            depth=index,
            sqnr=self.outputs.sqnr(alone.noise),
            share=sum(self.share(key) for key in keys),
            accumulated=math.nan if own is None else own.accumulated_sqnr,
            tensors=tuple(tensors[key].name for key in keys),
            samples=alone.samples,
            problem=next(
                (f"{tensors[k].name}: {tensors[k].problem}" for k in keys if tensors[k].problem), ""
            ),
        )
