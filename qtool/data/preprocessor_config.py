"""preprocessor_config.json: the file that a Hugging Face image processor saves beside its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.data.files import opened, shown
from qtool.data.pixels import BILINEAR, FILTERS, Fitting, Norm
from qtool.errors import DataError
from qtool.tables.images import PROCESSOR

_MOST_BYTES = 1 << 20
_MOST_PIXELS = 1 << 14  # a side
_WHOLE_FROM = 384  # as in timm, crop_pct is ignored from this side on


@dataclass(frozen=True)
class Processor:
    """The contents of the file.

    Args:
        norm: in RGB order, whatever order the model wants.
        size: height and width of the result; None where they depend on the image.
        swap: whether the model wants BGR.
    """

    file: Path
    norm: Norm
    fitting: Fitting
    size: tuple[int, int] | None
    swap: bool


def processor_beside(folder: Path | None) -> Processor | None:
    """Return the processor in the folder of a model; None if there is none.

    Raises:
        DataError: the file is there, and is no such description.
    """
    if folder is None or not (folder / PROCESSOR).exists():
        return None
    file = folder / PROCESSOR
    with opened(file, _MOST_BYTES) as stream:
        config = json.load(stream)
    if not isinstance(config, dict):
        raise DataError(f"{shown(file)}: not a JSON object")
    try:
        return _parsed(file, config)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{shown(file)}: {error}", "with --preset, or with --resize, --mean and --std, it is not read"
        ) from error


def _parsed(file: Path, config: Mapping[str, Any]) -> Processor:
    """Return the processor, read as the library does; the defaults are those of most of its classes."""
    rescaled = _flag(config, "do_rescale", True)
    mean, std = (_numbers(config, key) for key in ("image_mean", "image_std"))
    normalized = _flag(config, "do_normalize", bool(mean))
    if normalized and not (mean and std):
        raise ValueError("do_normalize, but no image_mean and image_std")
    norm = Norm(
        scale=_number(config, "rescale_factor", 1 / 255) if rescaled else 1.0,
        shift=-1.0 if rescaled and _flag(config, "rescale_offset", False) else 0.0,
        mean=mean if normalized else (),
        std=std if normalized else (),
    )
    fitting, size = _fitting(config)
    return Processor(file, norm, fitting, size, _flag(config, "do_flip_channel_order", False))


def _fitting(config: Mapping[str, Any]) -> tuple[Fitting, tuple[int, int] | None]:
    number = config.get("resample", BILINEAR)
    if number is None:
        number = BILINEAR
    if type(number) is not int or number not in FILTERS:
        raise ValueError(f"resample is none of {', '.join(map(str, FILTERS))}")
    size = config.get("size") if _flag(config, "do_resize", True) else None
    box, edge = _box(size, "size"), _edge(size, "size")
    crop = _box(config.get("crop_size"), "crop_size") if _flag(config, "do_center_crop", False) else None
    pct = _number(config, "crop_pct", 1.0)
    if crop and edge:  # a number with a crop behind it is the shorter side
        return Fitting("center-crop", min(1.0, min(crop) / edge), number), crop
    if crop and box:
        return Fitting("stretch", min(1.0, min(crop) / min(box)), number), crop
    if crop:
        return Fitting("center-crop", filter=number), crop
    if edge and pct < 1 and edge < _WHOLE_FROM:
        return Fitting("center-crop", pct, number), (edge, edge)
    if isinstance(size, dict) and "shortest_edge" in size and "longest_edge" not in size and pct == 1:
        return Fitting("center-crop", filter=number), None
    square = (edge, edge) if edge and not (isinstance(size, dict) and "longest_edge" in size) else None
    return Fitting("stretch", filter=number), box or square


def _box(value: Any, key: str) -> tuple[int, int] | None:
    """Return height and width; a number only counts where it stands for a square."""
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return _side(value["height"], key), _side(value["width"], key)
    if key == "crop_size" and value is not None:
        return _side(value, key), _side(value, key)
    return None


def _edge(value: Any, key: str) -> int | None:
    if isinstance(value, dict):
        return _side(value["shortest_edge"], key) if "shortest_edge" in value else None
    return None if value is None else _side(value, key)


def _side(value: Any, key: str) -> int:
    if type(value) is not int or not 0 < value <= _MOST_PIXELS:
        raise ValueError(f"{key} is no size of an image")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} is neither true nor false")
    return default if value is None else value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not 1e-9 < value < 1e9:
        raise ValueError(f"{key} is no number above 0")
    return float(value)


def _numbers(config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = config.get(key)
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else [value]
    fits = numbers and all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers)
    if not fits or len(numbers) > 4 or (key == "image_std" and not all(n > 0 for n in numbers)):
        raise ValueError(f"{key} is no list of numbers" + (" above 0" if key == "image_std" else ""))
    return tuple(map(float, numbers))
