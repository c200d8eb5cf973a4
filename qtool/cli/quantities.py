"""Numbers with a unit, as options take them."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


class BytesType(click.types.StringParamType):
    """A number of bytes: 250MB (10^6), 8GiB (2^30), 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Bytes, rounded down."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(value).strip().lower())
        if not found:
            self.fail(f"{value!r} is no size, such as 250MB or 8GiB", param, ctx)
        number, unit = found.groups()
        return int(float(number) * {**_UNITS, **_BINARY}[unit or ""])


BYTES = BytesType()
