"""random:N: samples of random numbers, for speed and plumbing. They satisfy no gate."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qtool.data.model_inputs import ModelInput
from qtool.data.npz import MAX_BYTES
from qtool.data.samples import Arrays, LoadedSamples, SourceSpec, Traits
from qtool.errors import UsageError, printable

_MOST_SAMPLES = 100_000
_INTEGERS = 10  # 0..9: classes, tokens, and indices of even small tables


def open_random(source: SourceSpec) -> LoadedSamples[int]:
    """Return N samples of random numbers, each made from the seed and its own number alone.

    Raises:
        UsageError: N is no number, or random numbers can't make up an input.
    """
    text, seed = source.text.removeprefix("random:"), source.reading.seed
    count = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
    if not 0 < count <= _MOST_SAMPLES:
        raise UsageError(
            f"'{printable(source.text)}': how many samples?",
            f"random:32; a number from 1 to {_MOST_SAMPLES:,}",
        )
    shapes = {name: _shape(spec) for name, spec in source.wanted.items()}

    def load(number: int) -> Arrays:
        rng = np.random.default_rng([seed, number])
        return {name: _numbers(rng, source.wanted[name], shape) for name, shape in shapes.items()}

    notes = [f"made up from --seed {seed}: random numbers, which satisfy no gate"]
    for name, shape in shapes.items():
        spec = source.wanted[name]
        kind = "standard normal" if spec.floating else f"integers 0..{_INTEGERS - 1}"
        kind = "true or false" if spec.dtype == "bool" else kind
        notes.append(f"input '{name}': {spec.dtype} [{', '.join(map(str, shape))}], {kind}")
    traits = Traits("random", tuple(notes), synthetic=True)
    return LoadedSamples(source.text, traits, {str(number): number for number in range(count)}, load)


def _shape(spec: ModelInput) -> tuple[int, ...]:
    """Return the shape of the random numbers for an input; an open first axis is a batch of 1.

    Raises:
        UsageError: another axis is open, the input is too large, or has a type that can't be made up.
    """
    name = printable(spec.name)
    if spec.dtype in ("", "str"):
        what = "strings" if spec.dtype else "values of a type that numpy lacks"
        raise UsageError(
            f"random samples hold no {what}, which the input '{name}' takes",
            "samples in a .csv, or from file.py:function",
        )
    axes = spec.shape
    if axes is None or any(not isinstance(a, int) for a in axes[1:]):
        example = "1,3,224,224"
        if axes is not None:
            example = ",".join(
                str(a) if isinstance(a, int) else "16" if i else "1" for i, a in enumerate(axes)
            )
        raise UsageError(
            f"random:N: the model leaves the shape of the input '{name}' open ({spec})",
            f"--shape {name}={example}",
        )
    shape = tuple(a if isinstance(a, int) else 1 for a in axes)
    if math.prod(shape) * np.dtype(spec.dtype).itemsize > MAX_BYTES:
        raise UsageError(f"the input '{name}' is too large to be made up: {spec}")
    return shape


def _numbers(rng: np.random.Generator, spec: ModelInput, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if spec.floating:
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    return np.asarray(rng.integers(0, 2 if spec.dtype == "bool" else _INTEGERS, shape)).astype(spec.dtype)
