"""`Reading`: how the user wants samples read; and the rule that a single item stands for a list of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def as_list(value: Any) -> Sequence[Any]:
    """Return the value if it is a list, or a tuple of it alone.

    A string is a sequence of letters to Python: `fail_if="sqnr<20"` would be eight gates.
    """
    if isinstance(value, str | Path | int | float) or not isinstance(value, Sequence):
        return (value,)
    return value


class ListFields:
    """Base of a frozen dataclass of options: a field whose default is a tuple accepts a single item, too."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            value: Any = getattr(self, each.name)
            if isinstance(each.default, tuple) and isinstance(value, str | int | float):
                object.__setattr__(self, each.name, as_list(value))


@dataclass(frozen=True, kw_only=True)
class Reading(ListFields):
    """The user's options for reading samples. The command line has one for each field.

    Args:
        samples: the largest number of samples of a source, chosen with `seed`; 0: all.
        seed: of the choice, and of random samples.
        split_batch: a file holds many samples, along the first axis of its arrays.
        shape: input -> shape where the model leaves it open; '' is the only input.
        rename: name in the samples -> name of the input.
        fill: input -> the number that fills it in every sample, for inputs that the samples lack.
        layout: of the samples' arrays: 'nhwc' or 'nchw'; '': that of the model.
        preset: images: a row of PRESETS in tables/images.py.
        mean, std: images: subtracted, then divided by, a number or one a channel, after the preset's scale.
        resize: images: 'stretch', 'center-crop' or 'letterbox'.
        channels: images: 'rgb' or 'bgr'.
        tokenizer: text: the tokenizer.json.
        max_tokens: text: longer texts are cut; 0: the tokenizer's own limit.
        columns: tables: names and globs; '!' before one leaves it out.
        rate: audio: samples a second that the model expects; 0: the rate of the files.
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
    def changed(self) -> list[str]:
        """The fields that differ from their default."""
        default = Reading()
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]
