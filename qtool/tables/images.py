"""How pixels become a model's numbers: a row a habit of those who train models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """y = (x * scale + shift - mean) / std, for pixels x in 0..255.

    Args:
        mean, std: one a channel, or none: 0 and 1.
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
        Preset("raw", "0..255, as they are"),
        Preset("unit", "0..1", scale=1 / 255),
        Preset("signed", "-1..1", scale=2 / 255, shift=-1.0),
        # torchvision's: Resize(256), CenterCrop(224), ToTensor, Normalize.
        Preset(
            "imagenet",
            "torchvision's mean and std, cropped to the middle",
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize="center-crop",
            shorter=224 / 256,
        ),
    )
}

# What to do with an image of another size than the model's.
RESIZES: dict[str, str] = {
    "stretch": "each side by itself",
    "center-crop": "the shorter side fits, the longer is cut",
    "letterbox": "the longer side fits, the rest is grey (114)",
}
CHANNELS = ("rgb", "bgr")
