"""random:N: made-up samples, for speed and plumbing. They satisfy no gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set

import numpy as np
from numpy.typing import NDArray

from qtool.data.files import MOST_FILES
from qtool.data.found import Found
from qtool.data.header import BYTES
from qtool.data.model_inputs import ModelInput
from qtool.data.samples import Sample, Traits
from qtool.errors import UsageError, printable

_INTEGERS = 10  # 0..9: classes, tokens, indices of even small tables


def open_random(found: Found) -> Random:
    """N samples of random numbers.

    Raises:
        UsageError: no such number, or an input that can't be made up.
    """
    text = found.text.removeprefix("random:")
    count = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
    if not 0 < count <= MOST_FILES:
        raise UsageError(
            f"'{printable(found.text)}': how many samples?", f"random:32; a number from 1 to {MOST_FILES:,}"
        )
    inputs = {name: (spec, _shape(spec)) for name, spec in found.wanted.items()}
    return Random(found.text, count, found.reading.seed, inputs)


class Random:
    """Random samples, each of which is made from the seed and its number alone.

    Args:
        name: of the source.
        count: of samples.
        seed: the user's.
        inputs: what the samples call each, and its shape.
    """

    def __init__(
        self, name: str, count: int, seed: int, inputs: dict[str, tuple[ModelInput, tuple[int, ...]]]
    ) -> None:
        self.name = name
        self.traits = Traits("random", tuple(_how(inputs, seed)), synthetic=True)
        self._count = count
        self._seed = seed
        self._inputs = inputs

    def __len__(self) -> int:
        return self._count

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index in range(self._count):
            if positions is None or index in positions:
                rng = np.random.default_rng([self._seed, index])
                made = {name: _made(rng, spec, shape) for name, (spec, shape) in self._inputs.items()}
                yield Sample(str(index), made)


def _shape(spec: ModelInput) -> tuple[int, ...]:
    """The shape to be made up: an open first axis is a batch of 1.

    Raises:
        UsageError: another axis is open, it is too large, or the type can't be made up.
    """
    if spec.dtype in ("", "str"):
        what = "strings" if spec.dtype else "values of a type that numpy lacks"
        raise UsageError(
            f"random samples hold no {what}, which the input '{printable(spec.name)}' takes",
            "samples in a .csv, or from file.py:function",
        )
    axes = spec.shape
    if axes is None or any(not isinstance(a, int) for a in axes[1:]):
        example = "1,3,224,224" if axes is None else ",".join(_example(i, a) for i, a in enumerate(axes))
        raise UsageError(
            f"random:N: the model leaves the shape of the input '{printable(spec.name)}' open ({spec})",
            f"--shape {printable(spec.name)}={example}",
        )
    shape = tuple(a if isinstance(a, int) else 1 for a in axes)
    if math.prod(shape) * np.dtype(spec.dtype).itemsize > BYTES:
        raise UsageError(f"the input '{printable(spec.name)}' is too large to be made up: {spec}")
    return shape


def _example(place: int, axis: int | str | None) -> str:
    return str(axis) if isinstance(axis, int) else "1" if not place else "16"


def _made(rng: np.random.Generator, spec: ModelInput, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if spec.floating:
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    most = 2 if spec.dtype == "bool" else _INTEGERS
    return np.asarray(rng.integers(0, most, shape)).astype(spec.dtype)


def _how(inputs: dict[str, tuple[ModelInput, tuple[int, ...]]], seed: int) -> Iterator[str]:
    yield f"made up from --seed {seed}: nobody's data, which satisfies no gate"
    for name, (spec, shape) in inputs.items():
        kind = "standard normal" if spec.floating else f"integers 0..{_INTEGERS - 1}"
        drawn = "true or false" if spec.dtype == "bool" else kind
        yield f"input '{name}': {spec.dtype} [{', '.join(map(str, shape))}], {drawn}"
