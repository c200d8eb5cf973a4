"""The samples on which two models differ most, each reduced to what a page can show of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.samples import Sample
from qtool.numerics.metrics import sqnr_db

_KEPT = 4
_TEXT = 500
# The longest side of an image, and the points of a signal: a page has little room.
_PIXELS, _POINTS = 64, 256
_LEAST_SIDE, _LEAST_POINTS = 8, 32
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class WorstSample:
    """One of the samples on which two models differ most.

    Args:
        name: of the sample.
        output: its worst output.
        sqnr: of that output on this sample, in dB.
        text: of the sample, where it is one.
        shape: height, width and channels of the image that it is; () for none.
        pixels: of the reduced image: bytes as base64, from the least to the greatest value.
        signal: points of the signal that it is; () for none.
    """

    name: str
    output: str
    sqnr: float
    text: str = ""
    shape: tuple[int, ...] = ()
    pixels: str = ""
    signal: tuple[float, ...] = ()


class WorstSamples:
    """Collects the samples on which two models differ most.

    Args:
        names: of the outputs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._kept: list[WorstSample] = []

    def add(
        self, sample: Sample, inputs: Mapping[str, Any], expected: Sequence[Any], actual: Sequence[Any]
    ) -> None:
        """Keep a sample if it is among the worst.

        Args:
            sample: its name and text.
            inputs: as the models got them.
            expected, actual: the outputs.
        """
        outputs = zip(self._names, expected, actual, strict=True)
        levels = [(_level(a, b), name) for name, a, b in outputs if _floats(a, b)]
        if not levels:
            return
        level, output = min(levels)
        full = len(self._kept) == _KEPT
        if not math.isfinite(level) or (full and level >= self._kept[-1].sqnr):
            return
        shown = {"text": sample.text[:_TEXT]} if sample.text else _shown(inputs)
        kept = [*self._kept, WorstSample(sample.name, output, level, **shown)]
        self._kept = sorted(kept, key=lambda s: s.sqnr)[:_KEPT]

    @property
    def samples(self) -> tuple[WorstSample, ...]:
        """The worst samples, the worst first."""
        return tuple(self._kept)


def _floats(a: Any, b: Any) -> bool:
    return all(isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in (a, b)) and a.shape == b.shape


def _level(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the SQNR in dB; inf where nothing can be said."""
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        level = sqnr_db(float(np.square(a).sum()), float(np.square(a - b).sum()))
    return math.inf if math.isnan(level) else level


def _shown(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image or a signal among the inputs, reduced; {} where there is none."""
    for array in inputs.values():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fui" or not array.size:
            continue
        if (image := _image(array)) is not None:
            return {"shape": image.shape, "pixels": base64.b64encode(image.tobytes()).decode()}
        if array.size >= _LEAST_POINTS and array.size == max(array.shape):
            points = array.reshape(-1)[:: math.ceil(array.size / _POINTS)]
            return {"signal": tuple(float(x) for x in np.nan_to_num(points.astype(np.float32)))}
    return {}


def _image(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return the first image [height, width, channels] of a batch, reduced; None where it is no image."""
    if array.ndim != 4:
        return None
    first = array[0]
    if first.shape[0] in _CHANNELS:
        first = first.transpose(1, 2, 0)
    if first.shape[2] not in _CHANNELS or min(first.shape[:2]) < _LEAST_SIDE:
        return None
    step = math.ceil(max(first.shape[:2]) / _PIXELS)
    small = np.nan_to_num(first[::step, ::step].astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(small.min()), float(small.max())
    return np.asarray(np.rint((small - low) * (255 / (high - low) if high > low else 0.0)), np.uint8)
