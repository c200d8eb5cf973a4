"""Reasons to leave a node in float: a code for programs, and a detail for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Code(Enum):
    """The kind of a reason. Programs compare it, never the text."""

    CONSTRAINT = "constraint"  # an option of the user
    NO_FORM = "no-form"  # the mode has no form of the op type
    TARGET = "target"  # not worthwhile with the target's kernels
    UNSUITED = "unsuited"  # its types, attributes or constants have no quantized form
    STORAGE = "storage"  # its weight can't be stored in fewer bits, or loses too much
    FLOAT16 = "float16"  # float16 can't hold it, or gains nothing
    NO_RANGE = "no-range"  # calibration found no usable range
    OUTLIERS = "outliers"  # calibration found values that 8 bits can't resolve
    NOT_FASTER = "not-faster"  # measured: int8 takes no less time
    ACCURACY = "accuracy"  # measured: too much error for the time that it saves
    NEIGHBOURS = "neighbours"  # measured: Q and DQ around it cost more than it saves
    PART = "part"  # it runs in float as part of a quantized product


# Reasons whose details are figures of one node: a table counts them under these words.
HEADINGS: dict[Code, str] = {
    Code.NOT_FASTER: "not faster in int8 on this machine",
    Code.ACCURACY: "too sensitive for the time it saves",
    Code.NEIGHBOURS: "isolated: its neighbours are in float",
}


@dataclass(frozen=True)
class Reason:
    """The reason to leave one node in float.

    Args:
        code: the kind of reason.
        detail: words and figures.
    """

    code: Code
    detail: str = ""

    @property
    def general(self) -> bool:
        """Whether it holds for the mode, not for the node, so that a report leaves it out."""
        return self.code is Code.NO_FORM

    @property
    def short(self) -> Reason:
        """The reason without the figures of one node, for counting."""
        return Reason(self.code) if self.code in HEADINGS else self

    def __str__(self) -> str:
        return ": ".join(part for part in (HEADINGS.get(self.code, ""), self.detail) if part)
