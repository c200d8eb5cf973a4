"""Types of options: a source of samples, a number of bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

# Two letters or more: C:/ is a drive. A path that went through pathlib has one slash.
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/+.", re.DOTALL)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def is_url(value: object) -> bool:
    """Return whether an option's value is a URL, such as s3://bucket/m.onnx: cli/urls.py makes it a file."""
    return isinstance(value, str | Path) and _URL.match(str(value)) is not None


class SourceType(click.types.StringParamType):
    """A source of samples: a path, or a word for samples that are in no file."""

    name = "src"
    _WORDS = re.compile("none$|random:")

    def relative_to(self, base: Path, value: str) -> str:
        """Return the source that a file in `base` names, from the current folder."""
        return value if self._WORDS.match(value) or is_url(value) else str(base / value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete a path."""
        return [CompletionItem(incomplete, type="file")]


class ListOfChoices(click.Choice[str]):
    """One of some words, or several of them separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the words, separated by commas."""
        own = super().convert
        return ",".join(own(part.strip(), param, ctx) for part in str(value).split(","))


class BytesType(click.types.StringParamType):
    """A number of bytes: 250MB (10^6), 8GiB (2^30), 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of bytes, rounded down."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(value).strip().lower())
        if not match:
            self.fail(f"{value!r} is not a size, such as 250MB or 8GiB", param, ctx)
        number, unit = match.groups()
        return int(float(number) * {**_UNITS, **_BINARY}[unit or ""])


class OutputType(click.Path):
    """A file to write, or '-' where that is allowed.

    Args:
        allow_dash: it may be stdout.
        folder: it may be a folder; the value is then the text, which may end with a slash.
    """

    def __init__(self, allow_dash: bool = False, folder: bool = False) -> None:
        super().__init__(path_type=None if folder else Path, allow_dash=allow_dash)
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return its path; one that ends with a slash names a folder, and is refused unless it may be one."""
        from qtool.graph.save import target_path

        if not self._folder:
            target_path(value)
        return super().convert(value, param, ctx)


def part_of(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int]:
    """Return I and N of 'I/N', as a callback of click; one part of one without a value."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text or "1/1")
    index, count = (int(n) for n in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise click.BadParameter(f"'{text}' is not I/N with I from 1 to N", ctx, param)
    return index, count


SRC = SourceType()
OUTPUT = OutputType()
OUTPUT_OR_STDOUT = OutputType(allow_dash=True)
OUTPUT_OF_QUANTIZE = OutputType(allow_dash=True, folder=True)
BYTES = BytesType()
