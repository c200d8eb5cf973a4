"""Images, a sample a file: decoded, resized, and normalised as flags, or a file beside the model, say."""

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
from qtool.data.preprocessor_config import NAME, Processor, processor_beside
from qtool.data.reading import Reading
from qtool.data.samples import Arrays, FileSamples, SourceSpec, Traits
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.tables.images import CHANNELS, PRESETS, RESIZES

# What is decoded, whatever a file's name is: the more formats, the more decoders for hostile files.
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
# EXIF's number for how a camera was held -> what undoes it.
_TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip
_CHOICES = f"--preset {'|'.join(PRESETS)}, or --mean and --std, or {NAME} beside the model"


def open_images(source: SourceSpec) -> FileSamples[Path]:
    """The images of a folder, for the one input of the model that takes some.

    Raises:
        UsageError: no such input, options that contradict it, a normalisation that nobody named.
        DataError: the file beside the model can't be used.
    """
    reading = source.reading
    _checked(reading)
    frame = image_input(source.inputs, reading.fill)
    beside = processor_beside(source.model) if _wants_file(frame, reading) else None
    recipe, how = settled(frame, reading, beside, source.text)
    table = recipe.norm.table(frame.channels, frame.dtype)

    def load(file: Path) -> Arrays:
        return {frame.name: _read_image(file, recipe, table)}

    return FileSamples(source.text, Traits("images", how), source.files, load)


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
            known = ", ".join(FORMATS)
            raise DataError(f"{shown(file)}: not an image of a known format ({known})") from None
        except Image.DecompressionBombError:
            raise DataError(
                f"{shown(file)}: too many pixels (at most {MOST_PIXELS:,})",
                "scale it down, or leave it out",
            ) from None
        except DataError as error:
            raise DataError(f"{shown(file)}: {error.message}", error.hint) from error


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held; what can't be told of that is no reason to refuse an image."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever a parser of foreign bytes raises
        turn = None
    return image if turn is None else image.transpose(turn)


def settled(
    frame: Frame, reading: Reading, beside: Processor | None, source: str = ""
) -> tuple[Recipe, tuple[str, ...]]:
    """What makes arrays of images, and the same in words: flags, then the preset, then the file.

    Args:
        source: what the user called the images.

    Raises:
        UsageError: something is open, or does not go together.
    """
    sized = _sized(frame, beside)
    swap = (reading.channels == "bgr") if reading.channels else bool(beside and beside.swap)
    if swap and frame.channels == 1:
        raise UsageError(f"--channels bgr: input '{printable(frame.name)}' has one channel")
    norm, whence = _norm(frame, reading, beside, swap, source)
    fitting = _fitting(reading, beside)
    recipe = Recipe(sized, norm, fitting, swap)
    return recipe, _how(recipe, whence)


def _checked(reading: Reading) -> None:
    """What a caller in Python may have misspelt, and the command line can't."""
    for option, value, known in (
        ("--preset", reading.preset, PRESETS),
        ("--resize", reading.resize, RESIZES),
        ("--channels", reading.channels, CHANNELS),
    ):
        if value and value not in known:
            raise UsageError(
                f"{option}: no '{printable(value)}'",
                did_you_mean(value, known) or f"one of {', '.join(known)}",
            )
    if reading.layout:
        raise UsageError("--layout is for arrays: images are laid out as the model wants them")


def _wants_file(frame: Frame, reading: Reading) -> bool:
    """Whether something is open that the file beside the model can say."""
    told = bool(reading.preset or ((reading.mean or reading.std) and reading.resize))
    return not told or frame.height is None or frame.width is None


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
    """What becomes of a pixel, and who says so."""
    given = bool(reading.preset or reading.mean or reading.std)
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
    if given:
        norm = _asked(reading, swap)
        _plausible(norm, reading)
        whence = ", ".join(f"--{name}" for name in ("preset", "mean", "std") if getattr(reading, name))
    elif beside is not None:
        norm, whence = beside.norm.swapped() if swap else beside.norm, beside.file.name
    else:
        raise UsageError(
            f"input '{printable(frame.name)}' takes {frame.dtype}: how the pixels of "
            f"{printable(source) or 'images'} become its numbers can't be guessed",
            _CHOICES,
        )
    for name, numbers in (("mean", norm.mean), ("std", norm.std)):
        if len(numbers) not in (0, 1, frame.channels):
            raise UsageError(
                f"{whence}: {len(numbers)} numbers for {name}; input '{printable(frame.name)}' has "
                f"{frame.channels} channel{'s' if frame.channels > 1 else ''}",
                f"--{name} with one number, or with {frame.channels}"
                if frame.channels > 1
                else f"--{name} NUMBER",
            )
    return norm, whence


def _asked(reading: Reading, swap: bool) -> Norm:
    """The preset's numbers are for RGB; those of the user are in the model's order."""
    preset = PRESETS[reading.preset or "raw"]
    norm = Norm(preset.scale, preset.shift, preset.mean, preset.std)
    norm = norm.swapped() if swap else norm
    return replace(norm, mean=reading.mean or norm.mean, std=reading.std or norm.std)


def _plausible(norm: Norm, reading: Reading) -> None:
    """Refuse numbers that are for pixels of another range than those they meet."""
    low, high = norm.shift, (LEVELS - 1) * norm.scale + norm.shift
    if not reading.preset and (any(0 < m <= 1 for m in norm.mean) or any(s < 1 for s in norm.std)):
        option, number = (
            ("--mean", reading.mean) if any(0 < m <= 1 for m in norm.mean) else ("--std", reading.std)
        )
        raise UsageError(
            f"{option} {_told(number)} looks like one for pixels in 0..1; they are 0..255",
            "add --preset unit (or --preset raw, if 0..255 is meant)",
        )
    if reading.preset and reading.mean and not all(low <= m <= high for m in reading.mean):
        raise UsageError(
            f"--mean {_told(reading.mean)} lies outside of the pixels, which --preset "
            f"{reading.preset} takes to {low:g}..{high:g}",
            "leave out --preset, or give --mean and --std for that range",
        )


def _told(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{n:g}" for n in numbers)


def _fitting(reading: Reading, beside: Processor | None) -> Fitting:
    found = beside.fitting if beside and not reading.preset else Fitting()
    if reading.preset:
        preset = PRESETS[reading.preset]
        found = Fitting(preset.resize, preset.shorter)
    if reading.resize not in ("", found.resize):
        found = Fitting(reading.resize, filter=found.filter)
    return found


def _how(recipe: Recipe, whence: str) -> tuple[str, ...]:
    frame, fitting = recipe.frame, recipe.fitting
    colours = {1: "grey", 3: "BGR" if recipe.swap else "RGB", 4: "BGRA" if recipe.swap else "RGBA"}
    table = recipe.norm.table(frame.channels, "float64")
    cut = f", after scaling to 1/{fitting.shorter:g} of it" if fitting.shorter < 1 else ""
    return (
        f"input '{printable(frame.name)}': {frame.height} x {frame.width} (height x width), "
        f"{colours[frame.channels]}, {frame.layout}, {frame.dtype}",
        f"other sizes: {fitting.resize} ({RESIZES[fitting.resize]}{cut}), {FILTERS[fitting.filter]}",
        f"pixels x in 0..255 become {recipe.norm}: {table.min():.4g} to {table.max():.4g} ({whence})",
    )
