"""Check a value from a file or the environment by the option that it is for."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import click

from qtool.cli.types import SourceType, is_url
from qtool.errors import UsageError, did_you_mean, printable


def from_file(ctx: click.Context, option: click.Option, value: Any, base: Path, where: str) -> Any:
    """Return a TOML value as click takes it; relative paths start from `base`.

    Raises:
        UsageError: of the wrong type, or refused by the option.
    """
    wanted, kinds = _wanted(option)
    many = option.multiple or option.nargs != 1
    items = [_spelled(option, item) for item in (value if many and isinstance(value, list) else [value])]
    for item in items:
        # A bool is an int in Python.
        if not isinstance(item, kinds) or (isinstance(item, bool) and bool not in kinds):
            wanted = f"{wanted}, or a list of such" if many else wanted
            raise UsageError(f"{where}: wants {wanted}, not {_shown(item)}", _example(option))
        if isinstance(item, str) and "\0" in item:
            raise UsageError(f"{where}: holds a null character")
    placed = [_placed(option, item, base) for item in items]
    return _accepted(ctx, option, placed if many else placed[0], where)


def from_text(ctx: click.Context, option: click.Option, text: str, where: str) -> Any:
    """Return the text of an environment variable as click takes it.

    A repeatable option has one value per line: gates and patterns contain spaces, commas and brackets.

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
    """Return a value as click spells it: `bits = 4` is one of the choices "4" and "8"."""
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
    """Return a value with its path relative to the folder of the file; '-' is stdin or stdout."""
    if isinstance(option.type, SourceType):
        return option.type.relative_to(base, value)
    if isinstance(option.type, click.Path) and value != "-" and not is_url(value):
        return os.path.join(base, value)  # noqa: PTH118  # a slash at the end, which a Path loses, is refused
    return value


def _accepted(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    try:
        option.type_cast_value(ctx, value)
    except UsageError as error:  # of a type of our own
        raise UsageError(f"{where}: {error.message}", error.hint) from error
    except click.BadParameter as error:
        choices = [str(c) for c in option.type.choices] if isinstance(option.type, click.Choice) else []
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise UsageError(f"{where}: {printable(error.message).rstrip('.')}", hint) from error
    return value


def _shown(value: Any) -> str:
    """Return a TOML value for a message."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the date {value}"
    return printable(json.dumps(value, ensure_ascii=False, default=str), 60)
