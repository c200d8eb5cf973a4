"""Hold a value from a file or the environment against the option that it is for."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import click

from qtool.cli.types import SourceType
from qtool.errors import UsageError, did_you_mean, printable


def from_file(ctx: click.Context, option: click.Option, value: Any, base: Path, where: str) -> Any:
    """A TOML value as what click takes: of the right type, its paths relative to `base`.

    Raises:
        UsageError: of the wrong type, or refused by the option.
    """
    wanted, kinds = _wanted(option)
    many = option.multiple or option.nargs != 1
    items = [_spelled(option, item) for item in (value if many and isinstance(value, list) else [value])]
    for item in items:
        # A bool is an int to Python, and to nobody else.
        if not isinstance(item, kinds) or (isinstance(item, bool) and bool not in kinds):
            wanted = f"{wanted}, or a list of such" if many else wanted
            raise UsageError(f"{where}: wants {wanted}, not {_shown(item)}", _example(option))
        if isinstance(item, str) and "\0" in item:
            raise UsageError(f"{where}: holds a null character")
    placed = [_placed(option, item, base) for item in items]
    return _accepted(ctx, option, placed if many else placed[0], where)


def from_text(ctx: click.Context, option: click.Option, text: str, where: str) -> Any:
    """The text of an environment variable as what click takes; a repeatable option has one value a line.

    Lines, because gates and patterns hold spaces, commas, colons and brackets.

    Raises:
        UsageError: refused by the option.
    """
    many = option.multiple or option.nargs != 1
    value: Any = [line.strip() for line in text.splitlines() if line.strip()] if many else text
    return _accepted(ctx, option, value, where)


def _wanted(option: click.Option) -> tuple[str, tuple[type, ...]]:
    kind = option.type
    if isinstance(kind, type(click.BOOL)):
        return "true or false", (bool,)
    if isinstance(kind, type(click.INT)):
        return "a whole number", (int,)
    if isinstance(kind, type(click.FLOAT)):
        return "a number", (int, float)
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(map(str, kind.choices))}", (str,)
    return "a string", (str,)


def _spelled(option: click.Option, value: Any) -> Any:
    """A choice among numbers is one of words to click, and of numbers to whoever writes `bits = 4`."""
    numeric = isinstance(option.type, click.Choice) and str(value) in map(str, option.type.choices)
    return str(value) if numeric and not isinstance(value, bool) else value


def _example(option: click.Option) -> str:
    name = max(option.opts, key=len).lstrip("-")
    if isinstance(option.type, type(click.BOOL)):
        return f"{name} = true"
    if isinstance(option.type, click.Choice):
        return f'{name} = "{next(iter(option.type.choices))}"'
    return ""


def _placed(option: click.Option, value: Any, base: Path) -> Any:
    """A relative path starts from the folder of the file that names it; '-' is stdin or stdout anywhere."""
    if isinstance(option.type, SourceType):
        return option.type.relative_to(base, value)
    if isinstance(option.type, click.Path) and value != "-":
        return str(base / value)
    return value


def _accepted(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        known = [str(c) for c in option.type.choices] if isinstance(option.type, click.Choice) else []
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise UsageError(f"{where}: {printable(error.message).rstrip('.')}", hint) from error
    return value


def _shown(value: Any) -> str:
    """A TOML value as a person would write it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the date {value}"
    return printable(json.dumps(value, ensure_ascii=False, default=str), 60)
