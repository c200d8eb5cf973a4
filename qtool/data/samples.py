"""What a source of samples is, and what a part of one is."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qtool.data.reading import Reading
from qtool.errors import UsageError, printable
from qtool.tables.sources import KINDS

Arrays = dict[str, NDArray[np.generic]]

# What the name of a part adds to its source's (data/split.py).
_PART = re.compile(r" \(\d+ of \d+ (?:calibrate|select|judge|select and judge)\)$")


class Held(Protocol):
    """An array, or one that still lies in a file: what it is is known, `np.asarray` reads it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __array__(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Traits:
    """How a source is read.

    Args:
        kind: a row of tables/sources.py.
        how: what was settled about it, a line each, for `qtool data`.
        synthetic: nobody's data: made up, good for plumbing and no verdict.
    """

    kind: str
    how: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class Sample:
    """One set of model inputs and where it came from."""

    name: str
    inputs: Mapping[str, Held]


class Samples(Protocol):
    """A re-iterable stream of samples in a fixed order."""

    @property
    def name(self) -> str: ...

    @property
    def traits(self) -> Traits: ...

    def __len__(self) -> int: ...

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        """The samples in order; with positions, only those, without loading the others."""


class Wrapped:
    """A source in front of another one: of its name, its traits and its length."""

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
    """Some samples of a source, by position, in the source's order."""

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


def by_file(starts: Sequence[int], positions: Set[int] | None = None) -> Iterator[tuple[int, Sequence[int]]]:
    """The wanted positions within each file of many samples, for files with any.

    Args:
        starts: of each file's first sample among all, and the number of all.
        positions: among all; None: all of them.
    """
    chosen: Sequence[int] = range(starts[-1]) if positions is None else sorted(positions)
    for index, (start, end) in enumerate(pairwise(starts)):
        first, last = (bisect_left(chosen, edge) for edge in (start, end))
        if first < last:
            yield index, [position - start for position in chosen[first:last]]


def where(source: str, sample: str) -> str:
    """What to call a sample in a message; a file of many says so in the names of its samples."""
    path = PurePath(_PART.sub("", source))
    known = path.name and sample.startswith(path.name)
    return printable(str(path.with_name(sample) if known else path / sample))


def evenly(total: int, most: int) -> frozenset[int]:
    """The positions of at most so many of `total` samples, as far apart as can be."""
    count = min(total, most)
    return frozenset(index * total // count for index in range(count))


def synthetic(source: Samples | None) -> bool:
    """Whether a source's samples are made up, and so no ground for a verdict."""
    return source is not None and source.traits.synthetic


_OF_SOME_KINDS: frozenset[str] = frozenset().union(*(kind.options for kind in KINDS.values()))


def check_used(reading: Reading, sources: Sequence[Samples]) -> None:
    """Refuse options that none of the sources at hand knows what to do with.

    Raises:
        UsageError: naming the option, and the kinds that it is for.
    """
    kinds = {source.traits.kind for source in sources}
    known: frozenset[str] = frozenset().union(*(KINDS[k].options for k in kinds))
    for name in reading.changed:
        if name in _OF_SOME_KINDS and name not in known:
            takers = " and ".join(k.name for k in KINDS.values() if name in k.options)
            have = f"the samples here are {' and '.join(sorted(kinds))}" if kinds else "there are none here"
            raise UsageError(f"--{name.replace('_', '-')} is for samples of the kind {takers}; {have}")
