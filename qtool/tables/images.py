"""Presets from pixels to model inputs, one for each common convention of training."""

from __future__ import annotations

from dataclasses import dataclass

PROCESSOR = "preprocessor_config.json"
"""The file beside a model that says how its image inputs are made."""


@dataclass(frozen=True)
class Preset:
    """y = (x * scale + shift - mean) / std, for pixels x in 0..255.

    Args:
        mean, std: one for each channel; empty: 0 and 1.
        resize: a row of RESIZES that goes with it.
        shorter: with center-crop, the crop's side / the resized image's shorter side.
    """

    name: str
    summary: str
    scale: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: str = "stretch"
    shorter: float = 1.0


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("raw", "0..255, unchanged"),
        Preset("unit", "0..1", scale=1 / 255),
        Preset("signed", "-1..1", scale=2 / 255, shift=-1.0),
        # torchvision's: Resize(256), CenterCrop(224), ToTensor, Normalize.
        Preset(
            "imagenet",
            "torchvision's mean and std, center crop",
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize="center-crop",
            shorter=224 / 256,
        ),
    )
}

# Ways to fit an image of another size to the input.
RESIZES: dict[str, str] = {
    "stretch": "scale each side on its own",
    "center-crop": "scale the shorter side to fit, crop the longer",
    "letterbox": "scale the longer side to fit, pad with grey (114)",
}
CHANNELS = ("rgb", "bgr")
