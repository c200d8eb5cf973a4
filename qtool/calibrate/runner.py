"""Run samples through the FP32 model and observe exactly the tensors that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from qtool.calibrate.groups import groups_of
from qtool.calibrate.ranges import Ranges, merged
from qtool.calibrate.tally import Tally
from qtool.data.fit import fit
from qtool.data.samples import Sample, Samples, where
from qtool.errors import DataError, printable
from qtool.graph.save import model_for_session
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Session, running

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SoFar:
    """What a calibration has done up to a point at which it can go on.

    Args:
        done: samples, over all passes: a model whose tensors don't fit memory takes several.
        ranges: what they showed.
    """

    done: int = 0
    ranges: Ranges = field(default_factory=dict)


Keep = Callable[[Callable[[], SoFar]], None]
"""Called after every sample with what makes a SoFar, which takes a moment."""


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
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """The ranges of the named values of the main graph, over all samples, one at a time.

    Nothing of a sample is kept but what it adds to extremes, sums and (on demand) histograms. A value
    that never held an element is not in the result.

    Args:
        model: prepared.
        values: names of inputs and of nodes' outputs, of floats.
        source: the samples.
        threads: of the runtime; 0 leaves the choice to it.
        histograms: whether elements are counted.
        positive: values that are never negative, whatever the samples.
        memory: bytes that the observed activations of a sample may take; where all would take more, they
            are observed in groups, a pass over the samples each. None: no limit.
        since: what an earlier run, of the same arguments, had done before it ended.
        keep: lets a later run go on.
        progress: called with how many samples of how many are done.

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
        tally, before = Tally(group, histograms, positive), ranges
        rest = None if not skipped else frozenset(range(skipped, total))
        with watching(model, group, threads, "calibration model") as look:
            for done, sample in enumerate(source.read(rest), start=number * total + skipped + 1):
                if wrong := tally.add(look(sample, source.name)):
                    raise DataError(
                        f"{where(source.name, sample.name)}: activation '{printable(wrong[0])}' "
                        f"holds {wrong[1]}",
                        "the FP32 model itself fails on this sample; leave it out or mend the model",
                    )
                keep(lambda: SoFar(done, merged(before, tally.ranges())))  # noqa: B023 - called at once
                progress(done, total * len(groups))
        ranges = merged(before, tally.ranges())
    return ranges


Look = Callable[[Sample, str], list[Any]]
"""From a sample, and its source's name, to the arrays of what is watched; their memory is used again."""


@contextmanager
def watching(model: ir.Model, values: Sequence[str], threads: int, name: str) -> Iterator[Look]:
    """A session that gives out the named values of the main graph, and nothing else, in their order.

    Args:
        model: prepared.
        values: names of inputs and of nodes' outputs.
        threads: of the runtime; 0 leaves the choice to it.
        name: what to call the session in errors.

    Raises:
        DataError: from the function that it gives: a sample that does not fit the model.
        KeyError: the model has no such value.
        RuntimeFailure: from that function: the model fails on the sample.
    """
    fed = {v.name for v in model.graph.inputs}
    fetched = [v for v in values if v not in fed]
    with model_for_session(_with_outputs(model, fetched)) as loadable:
        session = Session(loadable, threads=threads, name=name)
        del loadable  # the session has its own
        fetcher = session.fetcher(fetched)

        def look(sample: Sample, source: str) -> list[Any]:
            inputs = fit(sample, session.inputs, session.input_dtypes, source)
            outputs = iter(fetcher.run(inputs))
            beat()
            return [inputs[v] if v in fed else next(outputs) for v in values]

        with running(session):
            yield look


def _with_outputs(model: ir.Model, values: Sequence[str]) -> ir.Model:
    """A copy of the model that gives out these values alone; what it gave out before, when there are none."""
    clone = model.clone()
    if not values:
        return clone
    found = {v.name: v for node in clone.graph for v in node.outputs}
    outputs = [found[name] for name in values]
    for value in outputs:
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    clone.graph.outputs[:] = outputs
    return clone
