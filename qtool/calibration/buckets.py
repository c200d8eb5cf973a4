"""Buckets of the steps of a model that is run step after step, by an input that tells the step.

The samples of each bucket set ranges of their own (temporal dynamic quantization, arXiv 2306.02316).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qtool.data.samples import Samples, where
from qtool.errors import DataError, UsageError, counted, printable


@dataclass(frozen=True)
class Buckets:
    """Samples by step.

    Args:
        input: the input of the model that holds the step. Of a batch, the greatest counts.
        bounds: the steps, ascending, at which the next bucket begins.
        positions: the samples of each bucket, one more than `bounds`.
    """

    input: str
    bounds: tuple[float, ...]
    positions: tuple[frozenset[int], ...]


def buckets_of(source: Samples, name: str, most: int) -> Buckets:
    """Return the samples in at most `most` buckets, each of about as many different steps.

    Args:
        source: the samples that set ranges.
        name: of the input that holds the step.
        most: number of buckets.

    Raises:
        DataError: a sample lacks the input, or holds no finite number there.
        UsageError: all samples are of one step.
    """
    steps = []
    for sample in source.read():
        held = np.asarray(sample.inputs.get(name, ()))
        if not held.size or held.dtype.kind not in "iuf" or not np.isfinite(held).all():
            here = where(source.name, sample.name)
            raise DataError(f"{here}: input '{printable(name)}' holds no step (--timestep): a finite number")
        steps.append(np.float32(held.max()))
    distinct = np.unique(np.asarray(steps, np.float32))
    if distinct.size < 2:
        raise UsageError(
            f"--timestep: all {counted(len(steps), 'sample')} that set ranges are of one step",
            "give samples from the whole run of the model, each with its step",
        )
    count = min(most, distinct.size)
    firsts = np.arange(1, count) * distinct.size // count
    bounds = (distinct[firsts - 1] + distinct[firsts]) / 2
    bucket = np.searchsorted(bounds, steps, side="right")
    positions = tuple(frozenset(np.flatnonzero(bucket == index).tolist()) for index in range(len(bounds) + 1))
    return Buckets(name, tuple(map(float, bounds)), positions)
