"""Calibration by itself: what samples show of a model, as something to keep, merge and review.

A shard is a pure function of model, source and shard, so that any number of processes or machines can make
one each; merged, in any order, they are what one run over all samples would have found.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from qtool.calibrate.runner import calibrate
from qtool.calibrate.serial import Calibration, digest_of
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.data.samples import Part, Sample, Traits, check_used
from qtool.data.samples import Source as Samples
from qtool.errors import DataError
from qtool.job import open_job, read_for
from qtool.options import ModelLike, Options, Progress, silent
from qtool.plan.eligible import observable


@dataclass(frozen=True)
class Shard:
    """The samples number `index`, `index` + `count`, .. of a source, counted from 1."""

    index: int = 1
    count: int = 1

    def of(self, source: Samples) -> Samples:
        """The shard's own samples."""
        positions = frozenset(range(self.index - 1, len(source), self.count))
        return Part(source, positions, source.name) if self.count > 1 else source


WHOLE = Shard()


class _Digested:
    """A source that adds up the digests of what it gives out."""

    def __init__(self, source: Samples) -> None:
        self._source = source
        self.digest = 0

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def traits(self) -> Traits:
        return self._source.traits

    def __len__(self) -> int:
        return len(self._source)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        self.digest = 0
        for sample in self._source.read(positions):
            self.digest += digest_of(sample)
            yield sample


def calibrate_model(
    model: ModelLike,
    data: Data,
    *,
    calib_format: str = "",
    reading: Reading | None = None,
    target: str = "cpu",
    shard: Shard = WHOLE,
    threads: int = 0,
    progress: Progress = silent,
) -> Calibration:
    """Run samples through a model, and keep what they show of every tensor that could be quantized.

    Args:
        model: a path, or a model in memory.
        data: a source that tables/sources.py knows, or an iterable of dicts.
        calib_format: the kind of it, where it does not show that.
        reading: how samples are to be read.
        target: whose preparation the model gets: the tensors are those of the prepared model.
        shard: which of the samples.
        threads: of the runtime; 0 leaves the choice to it.
        progress: called as the samples pass.

    Raises:
        QtoolError: ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    job = open_job(model, Options(target=target))
    reading = reading or Reading()
    samples = read_for(job.source, data, reading, calib_format)
    check_used(reading, [samples])
    source = _Digested(shard.of(samples))
    if not len(source):
        raise DataError(f"{source.name}: shard {shard.index}/{shard.count} has no samples", "fewer shards")
    ranges = calibrate(
        job.prepared.model,
        observable(job.view),
        source,
        threads=threads,
        histograms=True,
        progress=lambda done, total: progress("calibrate", done, total),
    )
    return Calibration(job.source.sha256, len(source), source.digest % (1 << 256), ranges)
