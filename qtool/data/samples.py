"""Samples, the protocol of every source, and what sources share."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.errors import DataError, UsageError, counted, printable
from qtool.tables.sources import KINDS

Arrays = dict[str, NDArray[np.generic]]
T = TypeVar("T")

# What the name of a part adds to the name of its source (data/split.py).
_PART = re.compile(r" \(\d+ of \d+ (?:calibrate|select|judge|select and judge)\)$")


@dataclass(frozen=True)
class Traits:
    """The kind of a source, and the decisions on how it is read.

    Args:
        kind: a row of tables/sources.py.
        notes: a line for each decision, for `qtool data`.
        synthetic: the samples are random numbers, and no verdict can rest on them.
    """

    kind: str
    notes: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class Sample:
    """One set of model inputs, the name that messages call it by, and the text that it is of, if any."""

    name: str
    inputs: Mapping[str, NDArray[np.generic]]
    text: str = ""


class Samples(Protocol):
    """A stream of samples in a fixed order that can be read again and again."""

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> Traits: ...

    def __len__(self) -> int: ...

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        """Yield the samples in order; with positions, only those, without loading the others."""


@dataclass(frozen=True)
class LoadedSamples(Generic[T]):
    """Samples that are loaded one by one, each from a file (or a folder, or a number) of its own.

    Args:
        name: of the source, for messages.
        traits: of the source.
        items: name of a sample -> what it is loaded from, in order.
        load: returns the inputs of a sample. It raises a DataError if it can't.
    """

    name: str
    traits: Traits
    items: Mapping[str, T]
    load: Callable[[T], Arrays]

    def __len__(self) -> int:
        return len(self.items)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, (name, item) in enumerate(self.items.items()):
            if positions is None or index in positions:
                yield Sample(name, self.load(item))


class Wrapped:
    """Base of a source that changes the samples of another one, whose name, traits and length it keeps."""

    def __init__(self, source: Samples) -> None:
        self._source = source

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def traits(self) -> Traits:
        return self._source.traits

    def __len__(self) -> int:
        return len(self._source)


@dataclass(frozen=True)
class Part:
    """Some samples of a source, by position, in the order of the source."""

    source: Samples
    positions: frozenset[int]
    name: str

    @property
    def traits(self) -> Traits:
        return self.source.traits

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        chosen = sorted(self.positions)
        return self.source.read({p for i, p in enumerate(chosen) if positions is None or i in positions})


@dataclass(frozen=True)
class SourceSpec:
    """The files of a source, the inputs of the model, and the user's options: all that opens a source.

    Args:
        text: as the user wrote it.
        folder: where the files are.
        names: of the files, relative to the folder, at least one, in natural order. A single file is a folder
            of one. Empty for kinds that are no path.
        inputs: of the model, with shapes as the user gave them.
        reading: how the user wants the samples read.
        model: the folder of the model, for files that lie beside it; None for a model in memory.
        unneeded: inputs that are made where samples lack them (data/decoder_inputs.py).
    """

    text: str
    folder: Path
    names: list[str]
    inputs: ModelInputs
    reading: Reading
    model: Path | None = None
    unneeded: Set[str] = frozenset()

    @property
    def files(self) -> dict[str, Path]:
        """Name -> path of each file."""
        return {name: self.folder / name for name in self.names}

    @cached_property
    def wanted(self) -> dict[str, ModelInput]:
        """The inputs that samples must have, by their names in the samples: --map renames some, --fill fills
        others.
        """
        rename, fill = self.reading.rename, self.reading.fill
        own = {n: p for n, p in self.inputs.items() if n not in rename.values()}
        renamed = {old: self.inputs[new] for old, new in rename.items() if new in self.inputs}
        return {n: p for n, p in (own | renamed).items() if p.name not in fill}

    @property
    def needed(self) -> dict[str, ModelInput]:
        """The wanted inputs without those that can be made: a decoder's samples may be token ids alone."""
        return {n: p for n, p in self.wanted.items() if p.name not in self.unneeded}

    def only_input(self, problem: str) -> tuple[str, ModelInput]:
        """Return the one input that samples must have, and its name in the samples.

        Args:
            problem: why samples of this kind can't name more inputs than one.

        Raises:
            DataError: the model has another number of inputs.
        """
        if len(self.needed) != 1:
            names = printable(", ".join(self.needed), 120) or "none"
            raise DataError(
                f"{printable(self.text)}: {problem}, and the model has "
                f"{counted(len(self.needed), 'input')} ({names})",
                "save .npz files, whose keys are input names; or --fill INPUT=NUMBER for all but one",
            )
        return next(iter(self.needed.items()))


def by_file(starts: Sequence[int], positions: Set[int] | None = None) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield each file that has wanted samples, and the positions of those samples within the file.

    Args:
        starts: the position of the first sample of each file among all, and then the number of all.
        positions: among all; None: all of them.
    """
    chosen: Sequence[int] = range(starts[-1]) if positions is None else sorted(positions)
    for index, (start, end) in enumerate(pairwise(starts)):
        first, last = (bisect_left(chosen, edge) for edge in (start, end))
        if first < last:
            yield index, [position - start for position in chosen[first:last]]


def where(source: str, sample: str) -> str:
    """Return what messages call a sample: the path of its file, and its place in a file of many."""
    path = PurePath(_PART.sub("", source))
    in_file = path.name and sample.startswith(path.name)
    return printable(str(path.with_name(sample) if in_file else path / sample))


def evenly(total: int, most: int) -> frozenset[int]:
    """Return the positions of at most `most` of `total` samples, evenly spread."""
    count = min(total, most)
    return frozenset(index * total // count for index in range(count))


def digest_of(sample: Sample) -> int:
    """Return a sha256 of a sample's inputs, as a number; its name does not count."""
    digest = hashlib.sha256()
    for name, held in sorted(sample.inputs.items()):
        array = np.asarray(held)
        array = np.ascontiguousarray(array.astype(str) if array.dtype == object else array)
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest(), "big")


def synthetic(source: Samples | None) -> bool:
    """Return whether the samples are random numbers, on which no verdict can rest."""
    return source is not None and source.traits.synthetic


_OF_SOME_KINDS: frozenset[str] = frozenset().union(*(kind.options for kind in KINDS.values()))


def check_used(reading: Reading, sources: Sequence[Samples]) -> None:
    """Refuse options that none of the sources uses.

    Raises:
        UsageError: with the option, and the kinds that use it.
    """
    kinds = {source.traits.kind for source in sources}
    used: frozenset[str] = frozenset().union(*(KINDS[k].options for k in kinds))
    for name in reading.changed:
        if name in _OF_SOME_KINDS and name not in used:
            users = " and ".join(k.name for k in KINDS.values() if name in k.options)
            have = f"the samples here are {' and '.join(sorted(kinds))}" if kinds else "there are none here"
            raise UsageError(f"--{name.replace('_', '-')} is for samples of the kind {users}; {have}")
