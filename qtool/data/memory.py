"""Samples handed over by a Python caller: any iterable of dicts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.npz import NpzDirectory
from qtool.data.samples import Sample
from qtool.errors import DataError


class InMemory:
    """Samples of a list, or of anything that can be iterated again and knows its length."""

    def __init__(self, samples: Iterable[Mapping[str, Any]], length: int) -> None:
        self._samples = samples
        self._length = length
        self.name = "samples"

    def __len__(self) -> int:
        return self._length

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, sample in enumerate(self._samples):
            if positions is None or index in positions:
                yield Sample(str(index), as_arrays(sample, str(index)))


class Spooled:
    """Samples of a generator, which can be read only once: kept in a temporary folder, not in memory.

    The folder goes when this object does.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qtool-samples-")
        folder = Path(self._folder.name)
        count = 0
        for count, sample in enumerate(samples, start=1):
            np.savez(folder / f"{count - 1}.npz", allow_pickle=False, **as_arrays(sample, str(count - 1)))
        if not count:
            raise DataError("the iterable of samples is empty")
        self._files = NpzDirectory(folder)
        self.name = "samples"

    def __len__(self) -> int:
        return len(self._files)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for sample in self._files.read(positions):
            yield Sample(sample.name.removesuffix(".npz"), sample.inputs)


def as_arrays(sample: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """The sample's values as arrays.

    Raises:
        DataError: it is no mapping of names to arrays.
    """
    if not isinstance(sample, Mapping):
        raise DataError(
            f"sample {name} is a {type(sample).__name__}", "each sample is a dict: input name -> array"
        )
    return {str(k): np.asarray(v) for k, v in sample.items()}
