"""Samples handed over by a Python caller: any iterable of dicts."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.samples import Arrays, Sample, Traits
from qtool.errors import DataError, printable


class InMemory:
    """Samples of a list, or of anything that can be iterated again and knows its length."""

    def __init__(self, samples: Iterable[Mapping[str, Any]], length: int) -> None:
        self._samples = samples
        self._length = length
        self.name = "samples"
        self.traits = Traits("python")

    def __len__(self) -> int:
        return self._length

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, sample in enumerate(self._samples):
            if positions is None or index in positions:
                yield Sample(str(index), as_arrays(sample, str(index)))


class Spooled:
    """Samples of a generator, which can be read only once: kept in a temporary folder, not in memory.

    The folder goes when this object does, or when reading the generator fails.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]], name: str = "samples") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qtool-samples-"))
        self._discard = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._names: list[list[str]] = []
        self.name = name
        self.traits = Traits("python")
        try:
            for index, sample in enumerate(samples):
                arrays = as_arrays(sample, str(index))
                # By position: an input may be called `file`, or anything else that savez takes itself.
                np.savez(self._folder / f"{index}.npz", *arrays.values())
                self._names.append(list(arrays))
        except BaseException:
            self._discard()
            raise
        if not self._names:
            self._discard()
            raise DataError("the iterable of samples is empty")

    def __len__(self) -> int:
        return len(self._names)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, names in enumerate(self._names):
            if positions is not None and index not in positions:
                continue
            with np.load(self._folder / f"{index}.npz", allow_pickle=False) as archive:
                arrays = {name: archive[f"arr_{i}"] for i, name in enumerate(names)}
            yield Sample(str(index), arrays)


def drained(reader: Any) -> Iterator[Mapping[str, Any]]:
    """The samples of an onnxruntime CalibrationDataReader: get_next gives one, and None at the end."""
    while (sample := reader.get_next()) is not None:
        yield sample


def as_arrays(sample: Mapping[str, Any], name: str) -> Arrays:
    """The sample's values as arrays; strings as numpy's fixed-width ones.

    Raises:
        DataError: it is no mapping of names to arrays.
    """
    if not isinstance(sample, Mapping):
        raise DataError(
            f"sample {name} is a {type(sample).__name__}", "each sample is a dict: input name -> array"
        )
    arrays: Arrays = {}
    for key, value in sample.items():
        try:
            array = np.asarray(value)
            if array.dtype == object and all(isinstance(v, str) for v in array.reshape(-1)):
                array = array.astype(str)
        except ValueError as error:
            raise DataError(
                f"sample {name}: '{printable(str(key))}' is no array: {printable(str(error))}"
            ) from error
        if array.dtype == object:
            raise DataError(f"sample {name}: '{printable(str(key))}' holds Python objects, not numbers")
        arrays[str(key)] = array
    return arrays
