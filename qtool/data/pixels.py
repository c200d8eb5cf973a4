"""From an image to the array of a model's input: size, colours, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qtool.data.image_input import Frame
from qtool.errors import DataError

LEVELS = 256
# The largest image, decoded or resized: Pillow's own bound, 256 MiB.
MOST_PIXELS = (1 << 30) // 4 // 3
_GREY = 114
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Pillow's number of a filter, also used in preprocessor_config.json -> its name.
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
BILINEAR = 2


@dataclass(frozen=True)
class Norm:
    """y = (x * scale + shift - mean) / std, for pixels x in 0..255; mean, std: none, one, one a channel."""

    scale: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def swapped(self) -> Norm:
        """Return the normalisation for channels in the order BGR."""
        return replace(self, mean=_swapped(self.mean), std=_swapped(self.std))

    def table(self, channels: int, dtype: str) -> NDArray[Any]:
        """Return what each pixel value becomes: [channels, 256], computed in float64."""
        levels = np.arange(LEVELS, dtype=np.float64) * self.scale + self.shift
        mean = np.broadcast_to(np.asarray(self.mean or (0.0,)), (channels,))
        std = np.broadcast_to(np.asarray(self.std or (1.0,)), (channels,))
        table: NDArray[Any] = ((levels - mean[:, None]) / std[:, None]).astype(dtype)
        return table

    def __str__(self) -> str:
        scaled = "x" if self.scale == 1 else f"x / {1 / self.scale:.6g}"
        if self.shift:
            scaled += f" {'-' if self.shift < 0 else '+'} {abs(self.shift):g}"
        if self.mean and any(self.mean):
            scaled += f" - {_listed(self.mean)}"
        if self.std and any(n != 1 for n in self.std):
            scaled = (
                f"({scaled}) / {_listed(self.std)}" if " " in scaled else f"{scaled} / {_listed(self.std)}"
            )
        return scaled


@dataclass(frozen=True)
class Fitting:
    """The way in which an image of any size becomes one of the model's size.

    Args:
        resize: a row of RESIZES.
        shorter: the model's side / that of the image before the rest is cut from around its middle.
        filter: Pillow's number of it.
    """

    resize: str = "stretch"
    shorter: float = 1.0
    filter: int = BILINEAR


@dataclass(frozen=True)
class Recipe:
    """Everything that makes an array of an image; the height and width of `frame` are known."""

    frame: Frame
    norm: Norm
    fitting: Fitting
    swap: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in Pillow's order."""
        return self.frame.width or 1, self.frame.height or 1

    def array(self, image: Image.Image, table: NDArray[Any]) -> NDArray[Any]:
        """Return the array for the input, in the layout of the frame.

        Args:
            table: of the norm, for the channels and type of the frame.

        Raises:
            DataError: the pixels can't be made 0..255, or the sides differ too much.
        """
        pixels = np.asarray(fitted(flat(image, self.frame.channels), self.size, self.fitting))
        pixels = pixels.reshape(*pixels.shape[:2], self.frame.channels)
        if self.swap:  # alpha stays the last of four channels
            pixels = pixels[:, :, [2, 1, 0, *range(3, self.frame.channels)]]
        array = table[np.arange(self.frame.channels), pixels]
        if self.frame.first:
            array = np.moveaxis(array, -1, 0)
        return np.ascontiguousarray(array[None] if self.frame.batched else array)


def flat(image: Image.Image, channels: int) -> Image.Image:
    """Return the image in 8 bits a channel: L, RGB or RGBA. Alpha is dropped for models without it."""
    if image.mode == "F":
        raise DataError("its pixels are floats, of no known range", "save them as .npz")
    if image.mode.startswith("I"):  # 16 bits; Pillow scales 32 bits to 16
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("P", "PA") and channels < 4:
        image = image.convert("RGBA")  # a palette's transparency would be a colour otherwise
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def fitted(image: Image.Image, size: tuple[int, int], fitting: Fitting) -> Image.Image:
    """Return the image in the given width and height."""
    if fitting.resize == "letterbox":
        return _letterboxed(image, size, fitting.filter)
    width, height = (max(1, round(side / fitting.shorter)) for side in size)
    if fitting.resize == "center-crop":
        width, height = _covering(image.size, (width, height))
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{image.width} x {image.height} pixels: too long to be cut to its middle", "--resize stretch"
        )
    if image.size != (width, height):
        image = image.resize((width, height), fitting.filter)
    left, top = round((width - size[0]) / 2), round((height - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def _covering(have: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the same proportions that just covers `least`, rounded as torchvision does."""
    if have[0] * least[1] <= have[1] * least[0]:
        return least[0], max(least[1], int(least[0] * have[1] / have[0]))
    return max(least[0], int(least[1] * have[0] / have[1])), least[1]


def _letterboxed(image: Image.Image, size: tuple[int, int], filter_: int) -> Image.Image:
    ratio = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    if image.size != inner:
        image = image.resize(inner, filter_)
    grey = _GREY if image.mode == "L" else (_GREY, _GREY, _GREY, 255)[: len(image.mode)]
    framed = Image.new(image.mode, size, grey)
    framed.paste(image, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return framed


def _swapped(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return (*numbers[2::-1], *numbers[3:]) if len(numbers) > 1 else numbers


def _listed(numbers: tuple[float, ...]) -> str:
    text = ", ".join(f"{n:.6g}" for n in numbers)
    return text if len(numbers) == 1 else f"[{text}]"
