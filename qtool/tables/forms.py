"""The forms that a node can take: how it computes, and from what."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """What becomes of a node. A node in no form computes in the float type it came with."""

    INT8 = "int8"  # in integers; activations have scales from calibration
    DYNAMIC = "int8-dynamic"  # in integers; activations get their scales at every run
    NBITS = "nbits"  # on blocks of integer weights that the kernel unpacks (MatMulNBits)
    FLOAT16 = "float16"  # in float16


# What a report calls them, in the order of its columns.
HEADINGS: dict[Form, str] = {
    Form.INT8: "int8",
    Form.DYNAMIC: "int8 at run time",
    Form.NBITS: "blocked weights",
    Form.FLOAT16: "float16",
}
