"""Calibration by itself: what samples show of a model, as something to keep, merge and review.

A shard is a pure function of model, source and shard, so that any number of processes or machines can make
one each; merged, in any order, they are what one run over all samples would have found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import cast

from qtool.calibration.checkpoint import Checkpoint, CheckpointFile
from qtool.calibration.ranges_file import Calibration
from qtool.calibration.runner import SoFar, calibrate
from qtool.commands.prepare import NO_SAMPLES, load_model, prepare_model, read_samples
from qtool.data.open import Data
from qtool.data.reading import ListFields, Reading
from qtool.data.samples import Part, Sample, Samples, Wrapped, check_used, digest_of, evenly
from qtool.errors import DataError, UsageError
from qtool.options import ModelLike, Options, Progress, silent
from qtool.plan.activations import nonnegative
from qtool.plan.eligible import observable
from qtool.plan.prepared import PreparedModel
from qtool.runtime.blas import single_threaded_blas
from qtool.runtime.cpu import fitting_target
from qtool.runtime.pool import all_results, opened
from qtool.tables.targets import AUTO, TargetName

# Samples that the main process looks at where others read them.
_LOOKED_AT = 8


def ignored(doubt: str) -> None:
    """Ignore a doubt about samples: the default."""


@dataclass(frozen=True)
class Shard:
    """The samples number `index`, `index` + `count`, .. of a source, counted from 1."""

    index: int = 1
    count: int = 1

    def of(self, source: Samples) -> Samples:
        """The shard's own samples."""
        positions = frozenset(range(self.index - 1, len(source), self.count))
        return Part(source, positions, source.name) if self.count > 1 else source

    def split(self, parts: int) -> list[Shard]:
        """Shards that are this one together."""
        return [Shard(self.index + self.count * part, self.count * parts) for part in range(parts)]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Calibrating(ListFields):
    """The options of a calibration.

    Args:
        calib_format: the kind of the samples, where they don't show it.
        reading: how they are to be read.
        target: whose preparation the model gets: the tensors are those of the prepared model.
        shard: which of the samples.
        threads: of the runtime in each process; 0 leaves the choice to it.
        memory: bytes that the observed activations of a sample may take; where all would take more, the
            samples pass several times. None: no limit.
        jobs: workers, each with a part of the samples; 0: one, or with `ray` the CPUs of the cluster. More
            than one needs a model and samples that are named by paths.
        ray: 'auto' or the address of a Ray cluster, for workers there; '': processes here.
        checkpoint: a file that is kept up to date, for a run that goes on from it with `resume`.
    """

    calib_format: str = ""
    reading: Reading = field(default_factory=Reading)
    target: TargetName = "auto"
    shard: Shard = Shard()
    threads: int = 0
    memory: int | None = None
    jobs: int = 0
    ray: str = ""
    checkpoint: str | Path | None = None
    resume: bool = False


class _Digested(Wrapped):
    """A source that adds up the digests of what it gives out, of each sample once.

    Args:
        source: the samples.
        digest: of the first `done` of them.
    """

    def __init__(self, source: Samples, digest: int = 0, done: int = 0) -> None:
        super().__init__(source)
        self.digest = digest
        self._done = done

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        order = range(len(self)) if positions is None else sorted(positions)
        for position, sample in zip(order, self._source.read(positions), strict=True):
            if position == self._done:
                self.digest += digest_of(sample)
                self._done += 1
            yield sample


@single_threaded_blas()
def calibrate_model(
    model: ModelLike,
    data: Data,
    options: Calibrating | None = None,
    progress: Progress = silent,
    warn: Callable[[str], None] = ignored,
) -> Calibration:
    """Run samples through a model, and keep what they show of every tensor that could be quantized.

    Args:
        model: a path, or a model in memory.
        data: a source that tables/sources.py knows, or an object that data/iterables.py takes.
        options: everything else.
        progress: called as the samples pass.
        warn: called at the end with each doubt about the samples.

    Raises:
        QtoolError: UsageError, ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    options = options or Calibrating()
    if options.resume and options.checkpoint is None:
        raise UsageError("--resume: from which file?", "--checkpoint FILE --resume")
    source = load_model(model)
    observed = read_samples(source, data, options.reading, options.calib_format)
    samples = options.shard.of(observed)
    check_used(options.reading, [samples])
    if not len(samples):
        raise DataError(f"{samples.name}: shard {options.shard} has no samples", "fewer shards")
    prepared = prepare_model(source, Options(target=options.target), sets=replace(NO_SAMPLES, judge=samples))
    if options.ray or min(options.jobs, len(samples)) > 1:
        calibration = _by_workers(model, data, options, len(samples), progress)
        for _ in samples.read(evenly(len(samples), _LOOKED_AT)):
            pass  # the workers read the others
    else:
        calibration = _by_this_process(prepared, samples, options, progress)
    for doubt in observed.doubts():
        warn(doubt)
    return calibration


def _by_this_process(
    prepared: PreparedModel, samples: Samples, options: Calibrating, progress: Progress
) -> Calibration:
    file, start = None, Checkpoint(SoFar(), 0)
    if options.checkpoint is not None:
        run = {
            "model_sha256": prepared.source.sha256,
            "target": prepared.task.scheme.target.name,
            "source": samples.name,
            "shard": str(options.shard),
            "samples": str(len(samples)),
            "memory": str(options.memory or 0),
        }
        file = CheckpointFile(Path(options.checkpoint), run, resume=options.resume)
        start = file.read() or start
    source = _Digested(samples, start.digest, min(start.so_far.done, len(samples)))

    def keep(so_far: Callable[[], SoFar]) -> None:
        if file is not None:
            file.keep(lambda: Checkpoint(so_far(), source.digest))

    values = observable(prepared.view)
    ranges = calibrate(
        prepared.model,
        values,
        source,
        threads=options.threads,
        histograms=True,
        positive=nonnegative(prepared.view, values),
        memory=options.memory,
        since=start.so_far,
        keep=keep,
        progress=lambda done, total: progress("calibrate", done, total),
    )
    if file is not None:
        file.remove()
    return Calibration(prepared.source.sha256, len(source), source.digest % (1 << 256), ranges)


def _by_workers(
    model: ModelLike, data: Data, options: Calibrating, samples: int, progress: Progress
) -> Calibration:
    """The parts of a calibration, one a worker, merged."""
    if not isinstance(model, str | Path) or not isinstance(data, str | Path):
        raise UsageError("several workers need a model and samples that are named by paths", "jobs=1")
    if options.checkpoint is not None:
        raise UsageError("--checkpoint is for one worker", "leave out -j, or run shards of their own")
    target = cast(TargetName, fitting_target()) if options.target == AUTO else options.target
    options = replace(options, target=target)  # not that of another machine, which may run a part
    with opened(options.jobs, options.ray) as pool:
        shards = options.shard.split(min(pool.jobs, samples))
        parts = [replace(options, shard=shard, jobs=1, ray="") for shard in shards]
        calls = [(str(model), str(data), part) for part in parts]
        done = all_results(
            pool, calibrate_model, calls, lambda done, total: progress("calibrate", done, total)
        )
    return reduce(Calibration.merge, done)
