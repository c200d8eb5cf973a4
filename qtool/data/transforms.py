"""Options that change the samples of any source: names, layout, filled inputs, batches, how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.decoder_inputs import completed, unneeded_inputs
from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.data.samples import Arrays, Part, Sample, Samples, Wrapped, by_file, where
from qtool.errors import DataError, UsageError, did_you_mean, printable

Change = Callable[[Sample], Mapping[str, NDArray[np.generic]]]


def check_names(inputs: ModelInputs, reading: Reading) -> None:
    """Check --map and --fill against the model, before any sample is read.

    Raises:
        UsageError: the model has no such input, an input has two names, or can't hold the number.
    """
    _check_inputs(reading.rename.values(), inputs, "--map")
    _check_inputs(reading.fill, inputs, "--fill")
    for new, count in Counter(reading.rename.values()).items():
        if count > 1:
            raise UsageError(f"--map: {count} names for the input '{printable(new)}'", "one each")
        if new in reading.fill:
            raise UsageError(f"--map and --fill are both for the input '{printable(new)}'")
    for name, value in reading.fill.items():
        _full(inputs[name], value, ())


def transformed(source: Samples, inputs: ModelInputs, reading: Reading) -> Samples:
    """Return the source with renamed, laid out, filled and split samples, and as many as the user wants.

    Args:
        source: samples as they are stored.
        inputs: of the model.
        reading: its names are checked: see `check_names`.

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
    if unneeded_inputs(inputs):
        source = Changed(source, partial(completed, inputs))
    if reading.split_batch:
        source = SplitBatch(source, inputs)
    if 0 < reading.samples < len(source):
        source = Part(source, chosen(len(source), reading), source.name)
    return source


def chosen(total: int, reading: Reading) -> frozenset[int]:
    """Return the positions that --samples and --seed choose among `total`."""
    order = np.random.default_rng(reading.seed).permutation(total)
    return frozenset(map(int, order[: reading.samples]))


class Changed(Wrapped):
    """A source whose samples are changed one by one."""

    def __init__(self, source: Samples, change: Change) -> None:
        super().__init__(source)
        self._change = change

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for sample in self._source.read(positions):
            yield replace(sample, inputs=self._change(sample))


class SplitBatch(Wrapped):
    """A source of stacked samples, cut along the first axis into the batches that the model takes.

    An input is cut where its first axis is longer than the model's, which counts as 1 where it is open. All
    inputs that are cut must give equally many pieces. The others go whole with every piece.
    """

    def __init__(self, source: Samples, inputs: ModelInputs) -> None:
        super().__init__(source)
        self._inputs = inputs
        self._starts = [0, *accumulate(self._count(sample) for sample in source.read())]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        wanted = dict(
            by_file(self._starts, {p for p in positions if p < len(self)} if positions else positions)
        )
        for pieces, sample in zip(wanted.values(), self._source.read(wanted.keys()), strict=True):
            for k in pieces:
                yield Sample(f"{sample.name}[{k}]", {n: self._cut(n, a, k) for n, a in sample.inputs.items()})

    def _width(self, name: str) -> int:
        """Return how many rows of an input the model takes at once."""
        spec = self._inputs.get(name)
        first = spec.shape[0] if spec and spec.shape else None
        return first if isinstance(first, int) and first > 0 else 1

    def _is_cut(self, name: str, array: NDArray[Any]) -> bool:
        spec = self._inputs.get(name)
        return array.ndim > 0 and not (spec and spec.shape == ()) and array.shape[0] > self._width(name)

    def _cut(self, name: str, array: NDArray[Any], k: int) -> NDArray[Any]:
        width = self._width(name)
        return array[k * width : (k + 1) * width] if self._is_cut(name, array) else array

    def _count(self, sample: Sample) -> int:
        """Return how many pieces a sample gives.

        Raises:
            DataError: a piece would be too short, or inputs give unequal numbers of pieces.
        """
        here = where(self.name, sample.name)
        counts: dict[str, int] = {}
        for name, array in sample.inputs.items():
            if not self._is_cut(name, array):
                continue
            counts[name], rest = divmod(array.shape[0], self._width(name))
            if rest:
                raise DataError(
                    f"{here}: input '{printable(name)}' has {array.shape[0]} rows; the model "
                    f"takes {self._width(name)} at once",
                    "--split-batch cuts whole batches only",
                )
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{printable(n)}: {c}" for n, c in counts.items())
            raise DataError(f"{here}: inputs split into unequal numbers of samples ({listed})")
        return next(iter(counts.values()), 1)


def _renamed(names: Mapping[str, str], source: str, sample: Sample) -> Arrays:
    for old, new in names.items():
        if old not in sample.inputs:
            raise DataError(
                f"{where(source, sample.name)} has no '{printable(old)}' to be mapped",
                did_you_mean(old, sample.inputs) or f"it has: {printable(', '.join(sorted(sample.inputs)))}",
            )
        if new in sample.inputs and new not in names:
            raise DataError(
                f"{where(source, sample.name)} has both '{printable(old)}' and '{printable(new)}'"
            )
    return {names.get(name, name): array for name, array in sample.inputs.items()}


def _laid_out(layout: str, inputs: ModelInputs, sample: Sample) -> Arrays:
    """Return arrays of the given layout in the other one; those that would not fit the model stay."""
    return {name: _turned(array, layout, inputs.get(name)) for name, array in sample.inputs.items()}


def _turned(array: NDArray[Any], layout: str, spec: ModelInput | None) -> NDArray[Any]:
    if array.ndim not in (3, 4, 5):
        return array
    first = 0 if array.ndim == 3 else 1  # the axis of the channels in nchw; 3 axes have no batch
    turned = np.moveaxis(array, -1, first) if layout == "nhwc" else np.moveaxis(array, first, -1)
    if spec is None or spec.shape is None:
        return turned
    # The batch may not fit yet: --split-batch comes later.
    wants = spec.shape[-3:] if array.ndim == 3 else spec.shape[1:]
    has = turned.shape[first:]
    fits = len(wants) == len(has) and all(
        not isinstance(w, int) or w == h for w, h in zip(wants, has, strict=True)
    )
    return turned if fits else array


def _filled(fill: Mapping[ModelInput, float], inputs: ModelInputs, source: str, sample: Sample) -> Arrays:
    """Return the sample with filled inputs; an open axis is as long as the one of its name in the sample."""
    for spec in fill:
        if spec.name in sample.inputs:
            raise DataError(
                f"{where(source, sample.name)} has '{printable(spec.name)}' itself", "leave out --fill"
            )
    lengths = {
        axis: length
        for name, array in sample.inputs.items()
        if name in inputs and (axes := inputs[name].shape) and len(axes) == array.ndim
        for axis, length in zip(axes, array.shape, strict=True)
        if isinstance(axis, str)
    }
    filled = {
        spec.name: _full(spec, value, tuple(lengths.get(str(axis), 1) for axis in spec.shape or ()))
        for spec, value in fill.items()
    }
    return {**sample.inputs, **filled}


def _full(spec: ModelInput, value: float, lengths: tuple[int, ...]) -> NDArray[Any]:
    """Return an input full of one number.

    Args:
        lengths: of its axes where they are open; () makes a single number, to check that it fits.

    Raises:
        UsageError: the input can't hold the number.
    """
    refusal = UsageError(f"--fill {spec.name}={value:g}: the model wants {spec}")
    if spec.dtype in ("", "str"):
        raise refusal
    axes = zip(spec.shape or (), lengths, strict=False)
    filled = np.full([axis if isinstance(axis, int) else length for axis, length in axes], value)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = filled.astype(spec.dtype)
    if np.any(np.isinf(cast) & ~np.isinf(filled) if spec.floating else cast != filled):
        raise refusal
    return cast


def _check_inputs(names: Iterable[str], inputs: ModelInputs, option: str) -> None:
    for name in names:
        if name not in inputs:
            hint = did_you_mean(name, inputs) or f"inputs: {printable(', '.join(inputs))}"
            raise UsageError(f"{option}: the model has no input '{printable(name)}'", hint)
