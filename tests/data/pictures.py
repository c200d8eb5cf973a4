"""Helpers of the tests of images: random pictures, files of them, the array of the first one, the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qtool.data.model_inputs import Axis, ModelInput
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.errors import QtoolError

RAW = Reading(preset="raw")


def port(*shape: Axis, dtype: str = "float32", name: str = "x") -> dict[str, ModelInput]:
    return {name: ModelInput(name, shape, dtype)}


def picture(height: int = 5, width: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(folder: Path, pixels: np.ndarray, name: str = "a.png", **options: Any) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name, **options)
    return folder


def read(
    folder: Path, model_inputs: dict[str, ModelInput], reading: Reading = RAW, model: Path | None = None
) -> np.ndarray:
    """The one input of the first sample."""
    sample = next(iter(open_source(folder, model_inputs, reading, kind="images", model=model).read()))
    (array,) = sample.inputs.values()
    return np.asarray(array)


def refused(
    folder: Path, model_inputs: dict[str, ModelInput], reading: Reading = RAW, **more: Any
) -> QtoolError:
    with pytest.raises(QtoolError) as caught:
        read(folder, model_inputs, reading, **more)
    assert "\n" not in caught.value.message
    return caught.value


# The model's side: layout, channels, type
