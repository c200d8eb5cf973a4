"""The sizes that kernels are timed at: shapes of activations and weights, and the node's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]
Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """One size of a kernel.

    Args:
        data: the shapes of its activations.
        weights: the shapes of the constants behind them.
        attributes: of the node.
    """

    data: tuple[Shape, ...]
    weights: tuple[Shape, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


ELEMENTS = ((1, 16, 16, 16), (1, 64, 28, 28), (1, 64, 56, 56), (1, 64, 112, 112), (1, 64, 224, 224))
IMAGES = ((1, 16, 16, 16), (1, 64, 28, 28), (1, 64, 56, 56), (1, 64, 112, 112))
WORDS = ((1, 16, 256), (1, 128, 384), (1, 256, 2048))


def convolutions(*shapes: tuple[int, int, int, int], stride: int = 1, group: int = 1) -> tuple[Size, ...]:
    """Return sizes of (channels in, out, side of the image, side of the kernel)."""
    return tuple(
        Size(
            ((1, channels, side, side),),
            ((out, channels // (channels if group == 0 else group), kernel, kernel),),
            {
                "kernel_shape": (kernel, kernel),
                "pads": (kernel // 2,) * 4,
                "strides": (stride, stride),
                "group": group or channels,
            },
        )
        for channels, out, side, kernel in shapes
    )


def convolutions_1d(*shapes: tuple[int, int, int, int], depthwise: bool = False) -> tuple[Size, ...]:
    """Return sizes of (channels in, out, length, kernel)."""
    return tuple(
        Size(
            ((1, i, length),),
            ((o, 1 if depthwise else i, k),),
            {"kernel_shape": (k,), "pads": (k // 2, k // 2), "group": i if depthwise else 1},
        )
        for i, o, length, k in shapes
    )


def products(rows: int, *shapes: tuple[int, int]) -> tuple[Size, ...]:
    """Return products of a count of rows by weights of these shapes."""
    return tuple(Size(((1, rows, k),), ((k, n),)) for k, n in shapes)


def sizes(*shapes: Shape, operands: int = 1, **attributes: Attribute) -> tuple[Size, ...]:
    """Return sizes of these shapes, the same for all operands."""
    return tuple(Size((shape,) * operands, (), attributes) for shape in shapes)


def lstms(*shapes: tuple[int, int, int]) -> tuple[Size, ...]:
    """Return sizes of (steps, inputs, hidden)."""
    return tuple(Size(((t, 1, i),), ((1, 4 * h, i), (1, 4 * h, h)), {"hidden_size": h}) for t, i, h in shapes)


def transposed(*shapes: tuple[int, int]) -> tuple[Size, ...]:
    """Return sizes of (channels in, side of the image): to twice the side and half the channels."""
    attributes = {"kernel_shape": (2, 2), "strides": (2, 2)}
    return tuple(Size(((1, c, side, side),), ((c, c // 2, 2, 2),), attributes) for c, side in shapes)


def attention(*rows: int) -> tuple[Size, ...]:
    """Return products of queries by keys: twelve heads of 32 values."""
    return tuple(Size(((1, 12, n, 32), (1, 12, 32, n))) for n in rows)
