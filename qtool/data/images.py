"""Samples of images, a file a sample: decoded, resized and normalised as options or a config file say."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from qtool.data.files import WHOLE_BYTES, opened, shown
from qtool.data.image_input import Frame, image_input
from qtool.data.pixels import FILTERS, LEVELS, MOST_PIXELS, Fitting, Norm, Recipe
from qtool.data.preprocessor_config import Processor, processor_beside
from qtool.data.reading import Reading
from qtool.data.samples import Arrays, LoadedSamples, SourceSpec, Traits
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.tables.images import CHANNELS, PRESETS, PROCESSOR, RESIZES

# The formats that are decoded, whatever the file is called. Each one more is a decoder for hostile files.
FORMATS = {
    "BMP": "Bmp",
    "GIF": "Gif",
    "JPEG": "Jpeg",
    "PNG": "Png",
    "PPM": "Ppm",
    "TIFF": "Tiff",
    "WEBP": "WebP",
}
for _plugin in FORMATS.values():
    import_module(f"PIL.{_plugin}ImagePlugin")  # Pillow itself loads some of them only when others fail
# EXIF's orientation -> the transpose that undoes it.
_TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip
_CHOICES = f"--preset {'|'.join(PRESETS)}, or --mean and --std, or {PROCESSOR} beside the model"


def open_images(source: SourceSpec) -> LoadedSamples[Path]:
    """Return the images of a folder as samples, for the only input of the model that takes images.

    Raises:
        UsageError: there is no such input, options contradict it, or no normalisation is given.
        DataError: the file beside the model can't be used.
    """
    reading = source.reading
    _check_options(reading)
    frame = image_input(source.inputs, reading.fill)
    beside = processor_beside(source.model) if _needs_file(frame, reading) else None
    recipe, notes = recipe_for(frame, reading, beside, source.text)
    table = recipe.norm.table(frame.channels, frame.dtype)

    def load(file: Path) -> Arrays:
        return {frame.name: _read_image(file, recipe, table)}

    return LoadedSamples(source.text, Traits("images", notes), source.files, load)


def _read_image(file: Path, recipe: Recipe, table: NDArray[Any]) -> NDArray[Any]:
    """Return the array that an image becomes.

    Raises:
        DataError: the file is no image, is damaged or too large.
    """
    with opened(file, WHOLE_BYTES) as stream, warnings.catch_warnings(action="ignore"):
        try:
            with Image.open(stream, formats=tuple(FORMATS)) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                return recipe.array(_upright(image), table)
        except UnidentifiedImageError:
            formats = ", ".join(FORMATS)
            raise DataError(f"{shown(file)}: not an image of a known format ({formats})") from None
        except Image.DecompressionBombError:
            raise DataError(
                f"{shown(file)}: too many pixels (at most {MOST_PIXELS:,})",
                "scale it down, or leave it out",
            ) from None
        except DataError as error:
            raise DataError(f"{shown(file)}: {error.message}", error.hint) from error


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as the camera was held; unreadable EXIF data are ignored."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser raises many kinds
        turn = None
    return image if turn is None else image.transpose(turn)


def recipe_for(
    frame: Frame, reading: Reading, beside: Processor | None, source: str = ""
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe for images, and notes on it. Options win over the preset, the preset over the file.

    Args:
        frame: the input.
        reading: the options.
        beside: the file beside the model.
        source: name of the images, for messages.

    Raises:
        UsageError: size or normalisation is missing, or options contradict each other.
    """
    sized = _sized(frame, beside)
    swap = (reading.channels == "bgr") if reading.channels else bool(beside and beside.swap)
    if swap and frame.channels == 1:
        raise UsageError(f"--channels bgr: input '{printable(frame.name)}' has one channel")
    norm, origin = _norm(frame, reading, beside, swap, source)
    fitting = _fitting(reading, beside)
    recipe = Recipe(sized, norm, fitting, swap)
    return recipe, _notes(recipe, origin)


def _check_options(reading: Reading) -> None:
    """Check names that the command line checks itself, but a caller in Python may have misspelt."""
    for option, value, names in (
        ("--preset", reading.preset, PRESETS),
        ("--resize", reading.resize, RESIZES),
        ("--channels", reading.channels, CHANNELS),
    ):
        if value and value not in names:
            raise UsageError(
                f"{option}: no '{printable(value)}'",
                did_you_mean(value, names) or f"one of {', '.join(names)}",
            )
    if reading.layout:
        raise UsageError("--layout is for arrays: images are laid out as the model wants them")


def _needs_file(frame: Frame, reading: Reading) -> bool:
    """Return whether options and model leave something open that the file beside the model may settle."""
    settled = bool(reading.preset or ((reading.mean or reading.std) and reading.resize))
    return not settled or frame.height is None or frame.width is None


def _sized(frame: Frame, beside: Processor | None) -> Frame:
    if frame.height is not None and frame.width is not None:
        return frame
    if beside is None or beside.size is None:
        axes = ["1"] * frame.batched
        axes += [str(frame.channels), "224", "224"] if frame.first else ["224", "224", str(frame.channels)]
        raise UsageError(
            f"input '{printable(frame.name)}' leaves height and width open ({frame.layout})",
            f"--shape {printable(frame.name)}={','.join(axes)}, of the size that the model was trained with",
        )
    height, width = beside.size
    return replace(frame, height=frame.height or height, width=frame.width or width)


def _norm(
    frame: Frame, reading: Reading, beside: Processor | None, swap: bool, source: str
) -> tuple[Norm, str]:
    """Return what becomes of a pixel, and the option or file that says so."""
    if not frame.dtype.startswith("float"):
        if reading.preset not in ("", "raw") or reading.mean or reading.std:
            raise UsageError(
                f"input '{printable(frame.name)}' is {frame.dtype} and takes pixels as they are",
                "leave out --preset, --mean and --std",
            )
        if frame.dtype == "int8":
            raise UsageError(
                f"input '{printable(frame.name)}' is int8: pixels from 0 to 255 don't fit",
                "save samples as .npz, in the scale of that input",
            )
        return Norm(), f"the input is {frame.dtype}"
    if reading.preset or reading.mean or reading.std:
        norm = _norm_of_options(reading, swap)
        _plausible(norm, reading)
        origin = ", ".join(f"--{name}" for name in ("preset", "mean", "std") if getattr(reading, name))
    elif beside is not None:
        norm, origin = beside.norm.swapped() if swap else beside.norm, beside.file.name
    else:
        raise UsageError(
            f"input '{printable(frame.name)}' takes {frame.dtype}: how the pixels of "
            f"{printable(source) or 'images'} become its numbers can't be guessed",
            _CHOICES,
        )
    for name, numbers in (("mean", norm.mean), ("std", norm.std)):
        if len(numbers) not in (0, 1, frame.channels):
            raise UsageError(
                f"{origin}: {len(numbers)} numbers for {name}; input '{printable(frame.name)}' has "
                f"{frame.channels} channel{'s' if frame.channels > 1 else ''}",
                f"--{name} with one number, or with {frame.channels}"
                if frame.channels > 1
                else f"--{name} NUMBER",
            )
    return norm, origin


def _norm_of_options(reading: Reading, swap: bool) -> Norm:
    """Return the normalisation. The preset is for RGB; the user's numbers are in the order of the model."""
    preset = PRESETS[reading.preset or "raw"]
    norm = Norm(preset.scale, preset.shift, preset.mean, preset.std)
    norm = norm.swapped() if swap else norm
    return replace(norm, mean=reading.mean or norm.mean, std=reading.std or norm.std)


def _plausible(norm: Norm, reading: Reading) -> None:
    """Refuse a mean or std that is for pixels of another range."""
    low, high = norm.shift, (LEVELS - 1) * norm.scale + norm.shift
    if not reading.preset and (any(0 < m <= 1 for m in norm.mean) or any(s < 1 for s in norm.std)):
        option, number = (
            ("--mean", reading.mean) if any(0 < m <= 1 for m in norm.mean) else ("--std", reading.std)
        )
        raise UsageError(
            f"{option} {_joined(number)} looks like one for pixels in 0..1; they are 0..255",
            "add --preset unit (or --preset raw, if 0..255 is meant)",
        )
    if reading.preset and reading.mean and not all(low <= m <= high for m in reading.mean):
        raise UsageError(
            f"--mean {_joined(reading.mean)} lies outside of the pixels, which --preset "
            f"{reading.preset} takes to {low:g}..{high:g}",
            "leave out --preset, or give --mean and --std for that range",
        )


def _joined(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{n:g}" for n in numbers)


def _fitting(reading: Reading, beside: Processor | None) -> Fitting:
    fitting = beside.fitting if beside and not reading.preset else Fitting()
    if reading.preset:
        preset = PRESETS[reading.preset]
        fitting = Fitting(preset.resize, preset.shorter)
    if reading.resize not in ("", fitting.resize):
        fitting = Fitting(reading.resize, filter=fitting.filter)
    return fitting


def _notes(recipe: Recipe, origin: str) -> tuple[str, ...]:
    frame, fitting = recipe.frame, recipe.fitting
    colours = {1: "grey", 3: "BGR" if recipe.swap else "RGB", 4: "BGRA" if recipe.swap else "RGBA"}
    table = recipe.norm.table(frame.channels, "float64")
    cut = f", after scaling to 1/{fitting.shorter:g} of it" if fitting.shorter < 1 else ""
    return (
        f"input '{printable(frame.name)}': {frame.height} x {frame.width} (height x width), "
        f"{colours[frame.channels]}, {frame.layout}, {frame.dtype}",
        f"other sizes: {fitting.resize} ({RESIZES[fitting.resize]}{cut}), {FILTERS[fitting.filter]}",
        f"pixels x in 0..255 become {recipe.norm}: {table.min():.4g} to {table.max():.4g} ({origin})",
    )
