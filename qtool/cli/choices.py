"""The options of `qtool quantize` that choose types and forms, beyond mode and target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from qtool.cli.grouped import under
from qtool.plan.scheme import (
    ACTIVATION_TYPES,
    BLOCKS,
    FORMATS,
    IO_TYPES,
    PRECISIONS,
    PREFERENCES,
    WEIGHT_TYPES,
)
from qtool.tables.methods import METHODS
from qtool.tables.modes import WEIGHT_BITS

F = TypeVar("F", bound=Callable[..., Any])

_option = under("Types and forms")

_OPTIONS = (
    _option(
        "--bits",
        type=click.Choice([str(b) for b in WEIGHT_BITS]),
        default="8",
        show_default=True,
        callback=lambda context, option, value: int(value),
        help="weight-only: bits of a weight.",
    ),
    _option(
        "--block",
        type=click.Choice([str(b) for b in BLOCKS]),
        callback=lambda context, option, value: int(value or 0),
        help="weight-only: values that share a scale. Default: 32 for 4 bits, 64 for 2; for 8 bits a "
        "channel, or as few as the weight's accuracy asks for.",
    ),
    _option(
        "--prefer",
        type=click.Choice(PREFERENCES),
        default="size",
        show_default=True,
        help="weight-only: size stores weights in fewer bits and computes in float, at FP32 speed; speed "
        "computes on the packed weights (MatMulNBits) where that is faster.",
    ),
    _option(
        "--format",
        type=click.Choice(FORMATS),
        default="qdq",
        show_default=True,
        help="static: QuantizeLinear/DequantizeLinear pairs, or integer operators (QLinearConv ..).",
    ),
    _option(
        "--weights",
        type=click.Choice([t.name for t in WEIGHT_TYPES]),
        show_default="the target's",
        callback=lambda context, option, value: value or "",
        help="static: the type of weights.",
    ),
    _option(
        "--acts",
        type=click.Choice([t.name for t in ACTIVATION_TYPES]),
        show_default="the target's",
        callback=lambda context, option, value: value or "",
        help="static: the type of activations.",
    ),
    _option(
        "--method",
        type=click.Choice(list(METHODS)),
        default="minmax",
        show_default=True,
        help="static: how a range follows from what calibration saw. "
        + "; ".join(f"{m.name}: {m.summary}" for m in METHODS.values())
        + ".",
    ),
    _option("--symmetric", is_flag=True, help="static: activation ranges symmetric about zero."),
    _option("--per-tensor", is_flag=True, help="static: one scale a weight, not one a channel."),
    _option(
        "--io",
        type=click.Choice(IO_TYPES),
        default="float",
        show_default=True,
        help="The type of the model's float inputs and outputs: uint8 or int8 (static: scale and zero point "
        "are in the metadata), float16 (fp16).",
    ),
    _option(
        "--requantize",
        is_flag=True,
        help="Take a model that is quantized already back to floats first. Default: what is quantized stays.",
    ),
    _option(
        "--input-range",
        multiple=True,
        metavar="[INPUT=]LOW,HIGH",
        help="static with --calib none: what the model's float inputs hold. Repeatable.",
    ),
    _option(
        "--set",
        "sets",
        multiple=True,
        metavar="PATTERN=PRECISION",
        help=f"Nodes that should differ from the mode: {', '.join(PRECISIONS)}. Of several the last wins; "
        "all win over --include, --exclude. Repeatable.",
    ),
)
NAMES = tuple(
    "bits block prefer format weights acts method symmetric per_tensor io requantize input_range sets".split(
        " "
    )
)


def choice_options(command: F) -> F:
    """All of the above, in that order in the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
