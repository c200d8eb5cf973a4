"""Options that are lists: a single item stands for a list of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any


def listed(value: Any) -> Sequence[Any]:
    """The value if it is a list, or a tuple of it alone.

    A string is a sequence of letters to Python: `fail_if="sqnr<20"` would be eight gates.
    """
    if isinstance(value, str | Path | int | float) or not isinstance(value, Sequence):
        return (value,)
    return value


class Listed:
    """Base of a frozen dataclass of options: a field whose default is a tuple takes a single item, too."""

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # the subclasses are dataclasses
            value: Any = getattr(self, each.name)
            if isinstance(each.default, tuple) and isinstance(value, str | int | float):
                object.__setattr__(self, each.name, listed(value))
