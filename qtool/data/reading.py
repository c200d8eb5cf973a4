"""How samples are to be read: what no file can say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from qtool.data.listed import Listed


@dataclass(frozen=True, kw_only=True)
class Reading(Listed):
    """What a user says of their samples.

    Args:
        samples: at most so many of a source, chosen with `seed`; 0: all.
        split_batch: a file holds many samples, along its arrays' first axis.
        shape: input -> shape where the model leaves it open; '' is the only input.
        rename: name in the samples -> name of the input.
        fill: input -> the number that fills it in every sample, for inputs that the samples lack.
        layout: 'nhwc' or 'nchw': that of the samples' arrays; '': the model's.
        preset: images: a row of PRESETS in data/pixels.py.
        mean, std: images: subtracted, then divided by, a number or one a channel, after the preset's scale.
        resize: images: 'stretch', 'center-crop' or 'letterbox'.
        channels: images: 'rgb' or 'bgr'.
        tokenizer: text: the tokenizer.json.
        max_tokens: text: what is longer is cut; 0: as the tokenizer says.
        columns: tables: names and globs; '!' before one leaves it out.
        rate: audio: samples a second that the model wants; 0: those of the files.
    """

    samples: int = 0
    seed: int = 0
    split_batch: bool = False
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)
    layout: str = ""
    preset: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: str = ""
    channels: str = ""
    tokenizer: str | Path | None = None
    max_tokens: int = 0
    columns: tuple[str, ...] = ()
    rate: int = 0

    @property
    def given(self) -> list[str]:
        """The fields that differ from their default."""
        plain = Reading()
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
