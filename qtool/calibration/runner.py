"""Run samples through the FP32 model, and observe the named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qtool.calibration.observer import Observer
from qtool.calibration.ranges import Ranges, merged
from qtool.data.fit import fit
from qtool.data.samples import Sample, Samples, where
from qtool.errors import DataError, printable
from qtool.graph.for_session import model_for_session
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.runtime.noise import Noise
from qtool.runtime.session import Session, running


@dataclass(frozen=True)
class SoFar:
    """The state of a calibration from which it can be continued.

    Args:
        done: number of samples run, over all passes: a model whose tensors don't fit memory takes several.
        ranges: the ranges of these samples.
    """

    done: int = 0
    ranges: Ranges = field(default_factory=dict)


Keep = Callable[[Callable[[], SoFar]], None]
"""Called after every sample with a function that returns the state, which takes some milliseconds."""


def calibrate(
    model: ir.Model,
    values: Sequence[str],
    source: Samples,
    *,
    threads: int = 0,
    histograms: bool = False,
    positive: Set[str] = frozenset(),
    memory: int | None = None,
    since: SoFar | None = None,
    keep: Keep = lambda so_far: None,
    progress: StepProgress = no_progress,
) -> Ranges:
    """Return the ranges of the named values of the main graph, over all samples, one at a time.

    A sample adds to extremes, sums and (on demand) histograms; nothing else of it is kept. A value that never
    held an element is not in the result.

    Args:
        model: prepared.
        values: names of inputs and of nodes' outputs, of floats.
        source: the samples.
        threads: of the runtime; 0 leaves the choice to it.
        histograms: whether to collect histograms.
        positive: names of values that are never negative.
        memory: bytes that the observed activations of a sample may take; where all would take more, they
            are observed in groups, a pass over the samples each. None: no limit.
        since: the state of an earlier run with the same arguments, to continue from.
        keep: called after every sample, to save the state.
        progress: called with the number of samples done, and of all.

    Raises:
        DataError: no samples, a sample that does not fit the model, NaN or infinity in an activation.
        RuntimeFailure: the runtime failed on a sample.
    """
    if not len(source):
        raise DataError(f"{source.name}: no samples to calibrate on")
    groups = groups_of(model, list(values), source, memory, threads)
    since = since or SoFar()
    ranges, total = dict(since.ranges), len(source)
    for number, group in enumerate(groups):
        skipped = min(max(since.done - number * total, 0), total)
        if skipped == total:
            continue
        observer, before = Observer(group, histograms, positive), ranges
        rest = None if not skipped else frozenset(range(skipped, total))
        with value_reader(model, group, threads, "calibration model") as read_values:
            for done, sample in enumerate(source.read(rest), start=number * total + skipped + 1):
                if invalid := observer.add(read_values(sample, source.name)):
                    raise DataError(
                        f"{where(source.name, sample.name)}: activation '{printable(invalid[0])}' "
                        f"holds {invalid[1]}",
                        "the FP32 model itself fails on this sample: leave the sample out, or fix the model",
                    )
                keep(lambda: SoFar(done, merged(before, observer.ranges())))  # noqa: B023 - called at once
                progress(done, total * len(groups))
        ranges = merged(before, observer.ranges())
    return ranges


ReadValues = Callable[[Sample, str], list[Any]]
"""From a sample and its source's name to the arrays of the values; the next call reuses their memory."""


@contextmanager
def value_reader(model: ir.Model, values: Sequence[str], threads: int, name: str) -> Iterator[ReadValues]:
    """Open a session that returns the named values of the main graph, in their order.

    Args:
        model: prepared.
        values: names of inputs and of nodes' outputs.
        threads: of the runtime; 0 leaves the choice to it.
        name: of the session, in errors.

    Yields:
        the function that runs a sample. It raises DataError where the sample does not fit the model, and
        RuntimeFailure where the model fails on it.

    Raises:
        KeyError: the model has no such value.
    """
    fed = {v.name for v in model.graph.inputs}
    fetched = [v for v in values if v not in fed]
    with model_for_session(_with_outputs(model, fetched)) as loadable:
        session = Session(loadable, threads=threads, name=name, noise=Noise.VARIED)
        del loadable  # the session has its own
        fetcher = session.fetcher(fetched)

        def read_values(sample: Sample, source: str) -> list[Any]:
            inputs = fit(sample, session.inputs, session.input_dtypes, source)
            outputs = iter(fetcher.run(inputs) if fetched else ())
            beat()
            return [inputs[v] if v in fed else next(outputs) for v in values]

        with running(session):
            yield read_values


def _with_outputs(model: ir.Model, values: Sequence[str]) -> ir.Model:
    """Return a copy of the model whose outputs are these values, or a copy of an input where there are none.

    The runtime would run the nodes that no output depends on: they are left out.
    """
    clone = model.clone()
    by_name = {v.name: v for node in clone.graph for v in node.outputs}
    outputs = [by_name[name] for name in values]
    source = next((v for v in clone.graph.inputs if isinstance(v.type, ir.TensorType)), None)
    if not outputs:  # samples are fitted to the inputs alone
        if source is None:
            return clone
        copy = ir.node("Identity", [source])
        clone.graph.append(copy)
        outputs = [copy.outputs[0]]
        outputs[0].name, outputs[0].type = "qtool_copy", source.type
    for value in outputs:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    clone.graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(clone)
    return clone


# Bytes of an observed element: four in the runtime, four in the array that it returns.
_BYTES = 8


def groups_of(
    model: ir.Model, values: Sequence[str], source: Samples, memory: int | None, threads: int
) -> list[list[str]]:
    """Return the values in groups of at most `memory` bytes each, or of one value.

    Where the model lacks static shapes, sizes are those of the first sample, which is run once more for it.
    """
    if memory is None or not values:
        return [list(values)]
    sizes = _sizes(model, values, source, threads)
    groups: list[list[str]] = []
    room = 0.0
    for value in values:
        needed = sizes.get(value, 0) * _BYTES
        if not groups or needed > room:
            groups.append([])
            room = memory
        groups[-1].append(value)
        room -= needed
    return groups


def _sizes(model: ir.Model, values: Sequence[str], source: Samples, threads: int) -> Mapping[str, int]:
    """Return the number of elements of each value."""
    shapes = shapes_of(model, values, source, threads)
    return {value: math.prod(shape) for value, shape in shapes.items()}


Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: ir.Model, values: Iterable[str], source: Samples, threads: int = 0) -> Shapes:
    """Return the shapes of values of the main graph; others have none.

    Where the model lacks a static shape, it is that of the first sample, which is run for it.

    Args:
        model: prepared.
        values: names.
        source: its first sample is run.
        threads: of the runtime.

    Raises:
        DataError: the sample does not fit.
        RuntimeFailure: the model fails on it.
    """
    main = {v.name: v.shape for v in (*model.graph.inputs, *(v for n in model.graph for v in n.outputs))}
    names = [v for v in dict.fromkeys(values) if v and v in main]
    static = {
        v: tuple(axis for axis in shape if isinstance(axis, int))
        for v in names
        if (shape := main[v]) is not None and all(isinstance(axis, int) for axis in shape)
    }
    rest = [v for v in names if v not in static]
    return {**static, **_measured(model, rest, source, threads)} if rest else static


def _measured(model: ir.Model, values: Sequence[str], source: Samples, threads: int) -> Shapes:
    """Return the shapes in the first sample, by Shape nodes: the tensors themselves are not outputs."""
    clone = model.clone()
    by_name = {v.name: v for v in (*clone.graph.inputs, *(v for n in clone.graph for v in n.outputs))}
    outputs = []
    for value in values:
        node = ir.node("Shape", [by_name[value]])
        shape = node.outputs[0]
        shape.name, shape.type = f"{value}/shape", ir.TensorType(ir.DataType.INT64)
        clone.graph.append(node)
        outputs.append(shape)
    clone.graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(clone)
    with model_for_session(clone) as loadable:
        session = Session(loadable, threads=threads, name="calibration model")
    sample = next(iter(source.read(frozenset({0}))))
    inputs = fit(sample, session.inputs, session.input_dtypes, source.name)
    with running(session):
        shapes = session.run(inputs)
    return {v: tuple(map(int, shape)) for v, shape in zip(values, shapes, strict=True)}
