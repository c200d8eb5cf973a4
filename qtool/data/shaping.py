"""What can be done to the samples of any source: names, layouts, stacked batches, inputs they lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.data.samples import Held, Part, Sample, Samples, Wrapped, where
from qtool.errors import DataError, UsageError, did_you_mean, printable

Change = Callable[[Sample], Mapping[str, Held]]


def check_names(inputs: ModelInputs, reading: Reading) -> None:
    """Hold what --map and --fill say against the model, before any sample is read.

    Raises:
        UsageError: an input that the model does not have, two for one, or a number that it can't hold.
    """
    _known(reading.rename.values(), inputs, "--map")
    _known(reading.fill, inputs, "--fill")
    for new, count in Counter(reading.rename.values()).items():
        if count > 1:
            raise UsageError(f"--map: {count} names for the input '{printable(new)}'", "one each")
        if new in reading.fill:
            raise UsageError(f"--map and --fill are both for the input '{printable(new)}'")
    for name, value in reading.fill.items():
        _full(inputs[name], value, ())


def as_asked(source: Samples, inputs: ModelInputs, reading: Reading) -> Samples:
    """The source as the reading wants it: names, layout, batches, missing inputs, how many.

    The names in the reading are those of inputs: see `check_names`.

    Raises:
        DataError: batches that can't be split.
    """
    if reading.rename:
        source = Changed(source, partial(_renamed, reading.rename, source.name))
    if reading.layout:
        source = Changed(source, partial(_laid_out, reading.layout, inputs))
    if reading.fill:
        filled = {inputs[name]: value for name, value in reading.fill.items()}
        source = Changed(source, partial(_filled, filled, inputs, source.name))
    if reading.split_batch:
        source = SplitBatch(source, inputs)
    if 0 < reading.samples < len(source):
        source = Part(source, chosen(len(source), reading), source.name)
    return source


def chosen(total: int, reading: Reading) -> frozenset[int]:
    """The positions of the samples that the reading chooses among so many."""
    order = np.random.default_rng(reading.seed).permutation(total)
    return frozenset(map(int, order[: reading.samples]))


class Changed(Wrapped):
    """A source whose samples' inputs are changed one by one."""

    def __init__(self, source: Samples, change: Change) -> None:
        super().__init__(source)
        self._change = change

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for sample in self._source.read(positions):
            yield Sample(sample.name, self._change(sample))


class SplitBatch(Wrapped):
    """A source of stacked samples, cut along the first axis into what the model takes at once.

    An input is cut where its first axis is longer than the model's, which counts as 1 where the model
    leaves it open; all that are cut must be equally long. The others go whole with every part.
    """

    def __init__(self, source: Samples, inputs: ModelInputs) -> None:
        super().__init__(source)
        self._inputs = inputs
        self._parts = [self._count(sample) for sample in source.read()]

    def __len__(self) -> int:
        return sum(self._parts)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        starts = np.concatenate([[0], np.cumsum(self._parts)]).tolist()
        wanted = set(range(len(self))) if positions is None else positions
        files = {
            i: [k for k in range(count) if starts[i] + k in wanted] for i, count in enumerate(self._parts)
        }
        needed = {i for i, parts in files.items() if parts}
        for i, sample in zip(sorted(needed), self._source.read(needed), strict=True):
            arrays = {name: np.asarray(held) for name, held in sample.inputs.items()}
            for k in files[i]:
                yield Sample(f"{sample.name}[{k}]", {n: self._cut(n, a, k) for n, a in arrays.items()})

    def _width(self, name: str) -> int:
        """How many rows of an input the model takes at once."""
        spec = self._inputs.get(name)
        first = spec.shape[0] if spec and spec.shape else None
        return first if isinstance(first, int) and first > 0 else 1

    def _cuts(self, name: str, held: Held) -> bool:
        spec = self._inputs.get(name)
        return held.ndim > 0 and not (spec and spec.shape == ()) and held.shape[0] > self._width(name)

    def _cut(self, name: str, array: np.ndarray, k: int) -> np.ndarray:
        width = self._width(name)
        return array[k * width : (k + 1) * width] if self._cuts(name, array) else array

    def _count(self, sample: Sample) -> int:
        here = where(self.name, sample.name)
        counts: dict[str, int] = {}
        for name, held in sample.inputs.items():
            if not self._cuts(name, held):
                continue
            counts[name], rest = divmod(held.shape[0], self._width(name))
            if rest:
                raise DataError(
                    f"{here}: input '{printable(name)}' has {held.shape[0]} rows; the model "
                    f"takes {self._width(name)} at once",
                    "--split-batch cuts whole batches only",
                )
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{printable(n)}: {c}" for n, c in counts.items())
            raise DataError(f"{here}: inputs split into unequal numbers of samples ({shown})")
        return next(iter(counts.values()), 1)


def _renamed(names: Mapping[str, str], source: str, sample: Sample) -> dict[str, Held]:
    for old in names:
        if old not in sample.inputs:
            raise DataError(
                f"{where(source, sample.name)} has no '{printable(old)}' to be mapped",
                did_you_mean(old, sample.inputs) or f"it has: {printable(', '.join(sorted(sample.inputs)))}",
            )
    for old, new in names.items():
        if new in sample.inputs and new not in names:
            raise DataError(
                f"{where(source, sample.name)} has both '{printable(old)}' and '{printable(new)}'"
            )
    return {names.get(name, name): held for name, held in sample.inputs.items()}


def _laid_out(layout: str, inputs: ModelInputs, sample: Sample) -> dict[str, Held]:
    """Images that lie as `layout` says, as the other of the two; what would not fit then is no image."""
    return {name: _turned(held, layout, inputs.get(name)) for name, held in sample.inputs.items()}


@dataclass(frozen=True)
class Turned:
    """An array whose axes are in another order once it is read."""

    held: Held
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.held.shape[axis] for axis in self.axes)

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.held.dtype

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(np.asarray(self.held).transpose(self.axes), dtype)


def _turned(held: Held, layout: str, spec: ModelInput | None) -> Held:
    rank = held.ndim
    if rank not in (3, 4, 5):
        return held
    first = 0 if rank == 3 else 1  # where the channels are when they come before the pixels; 3: no batch
    axes = list(range(rank))
    if layout == "nhwc":
        axes.insert(first, axes.pop())
    else:
        axes.append(axes.pop(first))
    turned = Turned(held, tuple(axes))
    return turned if _takes(spec, turned.shape) else held


def _takes(spec: ModelInput | None, shape: tuple[int, ...]) -> bool:
    """Whether an input takes a shape; of the batch, --split-batch may yet take care."""
    if spec is None or spec.shape is None:
        return True
    mine = spec.shape[-len(shape) :] if len(shape) == 3 else spec.shape
    theirs = shape if len(shape) == 3 else shape[1:]
    mine = mine if len(shape) == 3 else mine[1:]
    return len(mine) == len(theirs) and all(
        not isinstance(want, int) or want == have for want, have in zip(mine, theirs, strict=True)
    )


def _filled(
    fill: Mapping[ModelInput, float], inputs: ModelInputs, source: str, sample: Sample
) -> dict[str, Held]:
    """The sample with the inputs that it lacks; an axis that has the name of one it has is as long."""
    for spec in fill:
        if spec.name in sample.inputs:
            raise DataError(
                f"{where(source, sample.name)} has '{printable(spec.name)}' itself", "leave out --fill"
            )
    lengths = {
        axis: length
        for name, held in sample.inputs.items()
        if name in inputs and (axes := inputs[name].shape) and len(axes) == held.ndim
        for axis, length in zip(axes, held.shape, strict=True)
        if isinstance(axis, str)
    }
    made: dict[str, Held] = {}
    for spec, value in fill.items():
        made[spec.name] = _full(spec, value, tuple(lengths.get(str(axis), 1) for axis in spec.shape or ()))
    return {**sample.inputs, **made}


def _full(spec: ModelInput, value: float, lengths: tuple[int, ...]) -> np.ndarray:
    """An input full of one number.

    Args:
        lengths: of its axes where they are open; () makes a single number, to see whether it fits.

    Raises:
        UsageError: the input can't hold the number.
    """
    if spec.dtype in ("", "str"):
        raise UsageError(f"--fill {spec.name}={value:g}: the model wants {spec}")
    axes = zip(spec.shape or (), lengths, strict=False)
    filled = np.full([axis if isinstance(axis, int) else length for axis, length in axes], value)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = filled.astype(spec.dtype)
    if np.any(np.isinf(cast) & ~np.isinf(filled) if spec.floating else cast != filled):
        raise UsageError(f"--fill {spec.name}={value:g}: the model wants {spec}")
    return cast


def _known(names: Iterable[str], inputs: ModelInputs, option: str) -> None:
    for name in names:
        if name not in inputs:
            hint = did_you_mean(name, inputs) or f"inputs: {printable(', '.join(inputs))}"
            raise UsageError(f"{option}: the model has no input '{printable(name)}'", hint)
