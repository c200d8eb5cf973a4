"""Why a node is left in float: a code that programs compare, and a detail that people read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Code(Enum):
    """What kind of reason it is. Nothing compares the text of a reason."""

    CONSTRAINT = "constraint"  # the user asked for it
    NO_FORM = "no-form"  # true of the mode and the op type, and of no node in particular
    TARGET = "target"  # the target's kernels make it not worth it
    UNSUITED = "unsuited"  # its types, attributes or constants have no quantized form
    STORAGE = "storage"  # its weight can't be stored in fewer bits, or not without too much loss
    FLOAT16 = "float16"  # float16 can't hold it, or gains nothing
    NO_RANGE = "no-range"  # calibration found no range that a scale can stand for
    OUTLIERS = "outliers"  # calibration found values that 8 bits can't resolve
    NOT_FASTER = "not-faster"  # measured: int8 takes no less time
    ACCURACY = "accuracy"  # measured: its error costs more than its speed is worth
    NEIGHBOURS = "neighbours"  # measured: Q and DQ around it take more than it saves
    PART = "part"  # it runs in float as a part of a quantized product


# Reasons whose details are figures, each node its own: a table counts them under these words.
HEADINGS: dict[Code, str] = {
    Code.NOT_FASTER: "not faster in int8 on this machine",
    Code.ACCURACY: "too sensitive for the time it saves",
    Code.NEIGHBOURS: "isolated: its neighbours are in float",
}


@dataclass(frozen=True)
class Reason:
    """Why one node is left in float.

    Args:
        code: the kind of reason.
        detail: the rest of it in words, with its figures.
    """

    code: Code
    detail: str = ""

    @property
    def general(self) -> bool:
        """Whether it is true of the mode rather than of the node, so that a report need not repeat it."""
        return self.code is Code.NO_FORM

    @property
    def short(self) -> Reason:
        """The reason without the figures of one node, for counting."""
        return Reason(self.code) if self.code in HEADINGS else self

    def __str__(self) -> str:
        return ": ".join(part for part in (HEADINGS.get(self.code, ""), self.detail) if part)
