"""What can be done to the samples of any source: names, layouts, stacked batches, inputs they lack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial

import numpy as np

from qtool.data.ports import Port, Ports
from qtool.data.reading import Reading
from qtool.data.samples import Held, Part, Sample, Source, Traits
from qtool.errors import DataError, UsageError, did_you_mean, printable

Change = Callable[[Sample], Mapping[str, Held]]


def as_asked(source: Source, ports: Ports, reading: Reading) -> Source:
    """The source as the reading wants it: names, layout, batches, missing inputs, how many.

    Raises:
        UsageError: an input that the model does not have.
        DataError: batches that can't be split.
    """
    if reading.rename:
        _known(reading.rename.values(), ports, "--map")
        source = Changed(source, partial(_renamed, reading.rename, source.name))
    if reading.layout:
        source = Changed(source, partial(_laid_out, reading.layout))
    if reading.fill:
        _known(reading.fill, ports, "--fill")
        constants = {name: _constant(ports[name], value) for name, value in reading.fill.items()}
        source = Changed(source, partial(_filled, constants, source.name))
    if reading.split_batch:
        source = SplitBatch(source, ports)
    if 0 < reading.samples < len(source):
        source = Part(source, chosen(len(source), reading), source.name)
    return source


def chosen(total: int, reading: Reading) -> frozenset[int]:
    """The positions of the samples that the reading chooses among so many."""
    order = np.random.default_rng(reading.seed).permutation(total)
    return frozenset(map(int, order[: reading.samples]))


class Changed:
    """A source whose samples' inputs are changed one by one."""

    def __init__(self, source: Source, change: Change) -> None:
        self._source = source
        self._change = change

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def traits(self) -> Traits:
        return self._source.traits

    def __len__(self) -> int:
        return len(self._source)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for sample in self._source.read(positions):
            yield Sample(sample.name, self._change(sample))


class SplitBatch:
    """A source of stacked samples, cut along the first axis into what the model takes at once.

    An input is cut where its first axis is longer than the model's, which counts as 1 where the model
    leaves it open; all that are cut must be equally long. The others go whole with every part.
    """

    def __init__(self, source: Source, ports: Ports) -> None:
        self._source = source
        self._ports = ports
        self._parts = [self._count(sample) for sample in source.read()]

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def traits(self) -> Traits:
        return self._source.traits

    def __len__(self) -> int:
        return sum(self._parts)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        starts = np.concatenate([[0], np.cumsum(self._parts)]).tolist()
        wanted = set(range(len(self))) if positions is None else positions
        files = {
            i: [k for k in range(count) if starts[i] + k in wanted] for i, count in enumerate(self._parts)
        }
        chosen = {i for i, parts in files.items() if parts}
        for i, sample in zip(sorted(chosen), self._source.read(chosen), strict=True):
            arrays = {name: np.asarray(held) for name, held in sample.inputs.items()}
            for k in files[i]:
                yield Sample(f"{sample.name}[{k}]", {n: self._cut(n, a, k) for n, a in arrays.items()})

    def _width(self, name: str) -> int:
        """How many rows of an input the model takes at once."""
        port = self._ports.get(name)
        first = port.shape[0] if port and port.shape else None
        return first if isinstance(first, int) and first > 0 else 1

    def _cuts(self, name: str, held: Held) -> bool:
        port = self._ports.get(name)
        return held.ndim > 0 and not (port and port.shape == ()) and held.shape[0] > self._width(name)

    def _cut(self, name: str, array: np.ndarray, k: int) -> np.ndarray:
        width = self._width(name)
        return array[k * width : (k + 1) * width] if self._cuts(name, array) else array

    def _count(self, sample: Sample) -> int:
        where = f"{self.name}/{sample.name}"
        counts: dict[str, int] = {}
        for name, held in sample.inputs.items():
            if not self._cuts(name, held):
                continue
            counts[name], rest = divmod(held.shape[0], self._width(name))
            if rest:
                raise DataError(
                    f"{printable(where)}: input '{printable(name)}' has {held.shape[0]} rows; the model "
                    f"takes {self._width(name)} at once",
                    "--split-batch cuts whole batches only",
                )
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{printable(n)}: {c}" for n, c in counts.items())
            raise DataError(f"{printable(where)}: inputs split into unequal numbers of samples ({shown})")
        return next(iter(counts.values()), 1)


def _renamed(names: Mapping[str, str], source: str, sample: Sample) -> dict[str, Held]:
    for old in names:
        if old not in sample.inputs:
            raise DataError(
                f"{printable(f'{source}/{sample.name}')} has no '{printable(old)}' to be mapped",
                did_you_mean(old, sample.inputs) or f"it has: {printable(', '.join(sorted(sample.inputs)))}",
            )
    return {names.get(name, name): held for name, held in sample.inputs.items()}


def _laid_out(layout: str, sample: Sample) -> dict[str, Held]:
    """Images that lie as `layout` says, as the other of the two."""
    return {name: _turned(held, layout) for name, held in sample.inputs.items()}


def _turned(held: Held, layout: str) -> Held:
    if held.ndim not in (3, 4, 5):
        return held
    array = np.asarray(held)
    if layout == "nhwc":
        return np.moveaxis(array, -1, -3 if array.ndim < 5 else 1)
    return np.moveaxis(array, -3 if array.ndim < 5 else 1, -1)


def _filled(constants: Mapping[str, np.ndarray], source: str, sample: Sample) -> dict[str, Held]:
    for name in constants:
        if name in sample.inputs:
            raise DataError(
                f"{printable(f'{source}/{sample.name}')} has '{printable(name)}' itself", "leave out --fill"
            )
    return {**sample.inputs, **constants}


def _constant(port: Port, value: float) -> np.ndarray:
    """An input full of one number; an open axis is 1 long."""
    if port.dtype in ("", "str"):
        raise UsageError(f"--fill {port.name}={value:g}: the model wants {port}")
    shape = [axis if isinstance(axis, int) else 1 for axis in port.shape or ()]
    filled = np.full(shape, value)
    cast = filled.astype(port.dtype)
    if not port.floating and np.any(cast != filled):
        raise UsageError(f"--fill {port.name}={value:g}: the model wants {port}")
    return cast


def _known(names: Iterable[str], ports: Ports, option: str) -> None:
    for name in names:
        if name not in ports:
            hint = did_you_mean(name, ports) or f"inputs: {printable(', '.join(ports))}"
            raise UsageError(f"{option}: the model has no input '{printable(name)}'", hint)
