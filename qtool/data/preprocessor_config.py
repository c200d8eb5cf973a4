"""preprocessor_config.json, which a Hugging Face image processor leaves beside its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.data.files import opened, shown
from qtool.data.pixels import BILINEAR, FILTERS, Fitting, Norm
from qtool.errors import DataError

NAME = "preprocessor_config.json"
_MOST_BYTES = 1 << 20
_MOST_PIXELS = 1 << 14  # a side
_WHOLE_FROM = 384  # crop_pct means nothing from this side on, which is timm's rule


@dataclass(frozen=True)
class Processor:
    """What the file says.

    Args:
        norm: in RGB order, whatever order the model wants.
        size: height and width that come out; None where they depend on the image.
        swap: the model wants BGR.
    """

    file: Path
    norm: Norm
    fitting: Fitting
    size: tuple[int, int] | None
    swap: bool


def processor_beside(folder: Path | None) -> Processor | None:
    """The processor in a model's folder; None where there is none.

    Raises:
        DataError: the file is there, and is no such description.
    """
    if folder is None or not (folder / NAME).exists():
        return None
    file = folder / NAME
    with opened(file, _MOST_BYTES) as stream:
        found = json.load(stream)
    if not isinstance(found, dict):
        raise DataError(f"{shown(file)}: not a JSON object")
    try:
        return _parsed(file, found)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{shown(file)}: {error}", "with --preset, or with --resize, --mean and --std, it is not read"
        ) from error


def _parsed(file: Path, found: Mapping[str, Any]) -> Processor:
    """As the library reads it; what is left out is as most of its classes have it."""
    rescaled = _flag(found, "do_rescale", True)
    mean, std = (_numbers(found, key) for key in ("image_mean", "image_std"))
    normalized = _flag(found, "do_normalize", bool(mean))
    if normalized and not (mean and std):
        raise ValueError("do_normalize, but no image_mean and image_std")
    norm = Norm(
        scale=_number(found, "rescale_factor", 1 / 255) if rescaled else 1.0,
        shift=-1.0 if rescaled and _flag(found, "rescale_offset", False) else 0.0,
        mean=mean if normalized else (),
        std=std if normalized else (),
    )
    fitting, size = _fitting(found)
    return Processor(file, norm, fitting, size, _flag(found, "do_flip_channel_order", False))


def _fitting(found: Mapping[str, Any]) -> tuple[Fitting, tuple[int, int] | None]:
    number = found.get("resample", BILINEAR)
    if number is None:
        number = BILINEAR
    if type(number) is not int or number not in FILTERS:
        raise ValueError(f"resample is none of {', '.join(map(str, FILTERS))}")
    given = found.get("size") if _flag(found, "do_resize", True) else None
    box, edge = _box(given, "size"), _edge(given, "size")
    crop = _box(found.get("crop_size"), "crop_size") if _flag(found, "do_center_crop", False) else None
    pct = _number(found, "crop_pct", 1.0)
    if crop and edge:  # a number with a crop behind it is the shorter side
        return Fitting("center-crop", min(1.0, min(crop) / edge), number), crop
    if crop and box:
        return Fitting("stretch", min(1.0, min(crop) / min(box)), number), crop
    if crop:
        return Fitting("center-crop", filter=number), crop
    if edge and pct < 1 and edge < _WHOLE_FROM:
        return Fitting("center-crop", pct, number), (edge, edge)
    if isinstance(given, dict) and "shortest_edge" in given and "longest_edge" not in given and pct == 1:
        return Fitting("center-crop", filter=number), None
    square = (edge, edge) if edge and not (isinstance(given, dict) and "longest_edge" in given) else None
    return Fitting("stretch", filter=number), box or square


def _box(value: Any, key: str) -> tuple[int, int] | None:
    """Height and width; of a number only where it stands for a square."""
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


def _flag(found: Mapping[str, Any], key: str, default: bool) -> bool:
    value = found.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} is neither true nor false")
    return default if value is None else value


def _number(found: Mapping[str, Any], key: str, default: float) -> float:
    value = found.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not 1e-9 < value < 1e9:
        raise ValueError(f"{key} is no number above 0")
    return float(value)


def _numbers(found: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = found.get(key)
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else [value]
    fits = numbers and all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers)
    if not fits or len(numbers) > 4 or (key == "image_std" and not all(n > 0 for n in numbers)):
        raise ValueError(f"{key} is no list of numbers" + (" above 0" if key == "image_std" else ""))
    return tuple(map(float, numbers))
