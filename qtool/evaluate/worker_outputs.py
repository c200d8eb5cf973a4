"""The outputs of a candidate on given samples: the work of a worker, and the comparison made of it here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtool.data.fit import fit
from qtool.data.samples import Arrays, LoadedSamples, Sample, Samples
from qtool.evaluate.cached_outputs import CachedOutputs, Recorded
from qtool.evaluate.float_io import with_float_io
from qtool.evaluate.reference_outputs import digest
from qtool.graph.parcel import Parcel
from qtool.runtime.session import Session, running

CANDIDATE = "the candidate"


def outputs_of(
    model: Parcel,
    samples: Sequence[Sample],
    source: str,
    threads: int,
    runtime: str,
    progress: Callable[[str, int, int], None],
) -> Recorded:
    """Run a candidate on samples.

    Args:
        model: the candidate.
        samples: to run.
        source: the name of their source, for errors.
        threads: of the runtime.
        runtime: and its precision.
        progress: called with the samples done.

    Raises:
        DataError: a sample does not fit.
        RuntimeFailure: the candidate fails on one.
    """
    outputs: dict[str, list[Any]] = {}
    with model.opened() as loadable:
        session = with_float_io(Session(loadable, threads=threads, name=CANDIDATE, runtime=runtime))
        for done, sample in enumerate(samples, start=1):
            inputs = fit(sample, session.inputs, session.input_dtypes, source)
            with running(session):
                outputs[digest(inputs)] = session.run(inputs)
            progress("candidates", done, len(samples))
    return Recorded.of(session, outputs)


def held(samples: Samples) -> LoadedSamples[Arrays]:
    """Return the samples with their arrays in memory."""
    items = {sample.name: dict(sample.inputs) for sample in samples.read()}
    return LoadedSamples(samples.name, samples.traits, items, lambda arrays: arrays)


def replayed(recorded: Recorded) -> CachedOutputs:
    """Return a model that gives recorded outputs."""
    return CachedOutputs(CANDIDATE, _never, recorded=recorded)


def _never() -> Any:
    raise AssertionError("the outputs of all samples are recorded")
