"""--show-config: every option of a command, its value and its origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qtool.cli.config import ONCE, Settings, key_of
from qtool.errors import printable

SCHEMA = "qtool.config/1"
# Options that replace the command. --dry-run does not.
_LEFT_OUT = ONCE.keys() - {"dry-run"}


def show(ctx: click.Context, settings: Settings) -> None:
    """Print the options of a parsed command as a table, with --json as a document."""
    rows = [(key, value, origin) for key, value, origin in _rows(ctx, settings) if key not in _LEFT_OUT]
    if ctx.params.get("as_json"):
        options = {key: {"value": value, "from": origin} for key, value, origin in rows}
        document = {"schema": SCHEMA, "command": ctx.info_name, "config": settings.file, "options": options}
        click.echo(json.dumps(document, indent=2))
        return
    table = [("option", "value", "from"), *((key, _text(value), origin) for key, value, origin in rows)]
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    click.echo(f"{ctx.command_path}, config file: {printable(settings.file or 'none')}\n")
    for key, text, origin in table:
        click.echo(f"{key:{widths[0]}}  {text:{widths[1]}}  {printable(origin)}")


def _rows(ctx: click.Context, settings: Settings) -> list[tuple[str, Any, str]]:
    rows = []
    for option in ctx.command.params:
        if isinstance(option, click.Option) and option.name:
            value = _plain(ctx.params.get(option.name))
            rows.append((key_of(option), value, _origin(ctx, option.name, settings)))
    return rows


def _origin(ctx: click.Context, name: str, settings: Settings) -> str:
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return "flag"
    return settings.values[name].origin if source is ParameterSource.DEFAULT_MAP else "default"


def _plain(value: Any) -> Any:
    """Return a value of JSON's types."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if value is None or value == []:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text, 120)
