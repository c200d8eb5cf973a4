"""The input of a model that takes images: its size, channels and layout."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass

from qtool.data.model_inputs import Axis, ModelInput, ModelInputs
from qtool.errors import UsageError, printable

CHANNELS = (1, 3, 4)
_SHOWN = 6


@dataclass(frozen=True)
class Frame:
    """An input that takes an image at a time.

    Args:
        name, dtype: of the input.
        channels: 1, 3 or 4.
        height, width: None where the model leaves them open.
        batch: of rank 4, its first axis (None where it is open); 1 of rank 3, which has none.
        batched: whether the rank is 4.
        first: whether the channels come before height and width.
    """

    name: str
    dtype: str
    channels: int
    height: int | None
    width: int | None
    batch: int | None
    batched: bool
    first: bool

    @property
    def axis(self) -> int:
        """The axis of the channels."""
        return int(self.batched) + (0 if self.first else 2)

    @property
    def layout(self) -> str:
        """The common name: NCHW, HWC .."""
        return ("N" if self.batched else "") + ("CHW" if self.first else "HWC")


def frame_of(spec: ModelInput) -> Frame | None:
    """Return how an input takes images; None if it does not have rank 3 or 4 and an axis of 1, 3 or 4."""
    shape = spec.shape
    if shape is None or len(shape) not in (3, 4) or spec.dtype in ("", "str", "bool"):
        return None
    batched = len(shape) == 4
    axes = shape[1:] if batched else shape
    if axes[0] not in CHANNELS and axes[2] not in CHANNELS:
        return None
    # In tiny images both ends may look like channels. Take the end that leaves the larger image.
    first = axes[2] not in CHANNELS or (axes[0] in CHANNELS and _least(axes[1:]) >= _least(axes[:2]))
    channels, height, width = map(_fixed, axes if first else (axes[2], axes[0], axes[1]))
    batch = _fixed(shape[0]) if batched else 1
    return Frame(spec.name, spec.dtype, channels or 0, height, width, batch, batched, first)


def image_input(inputs: ModelInputs, filled: Container[str]) -> Frame:
    """Return the only input that takes images and that --fill does not fill; rank 4 goes before rank 3.

    Raises:
        UsageError: there is none, there are several, or it takes several images at once.
    """
    wanted = [spec for name, spec in inputs.items() if name not in filled]
    frames = [frame for spec in wanted if (frame := frame_of(spec))]
    frames = [f for f in frames if f.batched] or frames
    if not frames:
        raise UsageError(
            f"no input of the model looks like one for images: {_listed(wanted)}",
            f"where it leaves channels open: --shape {_name(wanted)}=1,3,224,224; else save samples as .npz",
        )
    if len(frames) > 1:
        raise UsageError(
            f"{len(frames)} inputs of the model look like ones for images: "
            f"{_listed([inputs[f.name] for f in frames])}",
            f"--fill '{printable(frames[-1].name, 60)}=0' fills one with a number; "
            "samples of several images are saved as .npz",
        )
    (frame,) = frames
    if frame.batch not in (None, 1):
        raise UsageError(
            f"input '{printable(frame.name)}' takes {frame.batch} images at once; a sample has one",
            "export the model with an open batch, or save batches as .npz",
        )
    return frame


def _least(sides: tuple[Axis, ...]) -> float:
    return min(side if isinstance(side, int) else math.inf for side in sides)


def _fixed(axis: Axis) -> int | None:
    return axis if isinstance(axis, int) else None


def _listed(inputs: list[ModelInput]) -> str:
    shown = ", ".join(f"'{printable(p.name, 60)}' {p}" for p in inputs[:_SHOWN])
    return (shown or "it has none") + (f", and {len(inputs) - _SHOWN} more" if len(inputs) > _SHOWN else "")


def _name(inputs: list[ModelInput]) -> str:
    return printable(inputs[0].name, 60) if inputs else "INPUT"
