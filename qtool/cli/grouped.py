"""Options under headings: a command with forty of them reads better in parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click


class Grouped(click.Option):
    """An option that the help shows under a heading of its own."""

    def __init__(self, *args: Any, group: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def under(group: str) -> Callable[..., Any]:
    """`click.option` for options under that heading."""
    return partial(click.option, cls=Grouped, group=group)


def format_grouped(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options' help, the plain ones first, then heading by heading as they were declared."""
    sections: dict[str, list[tuple[str, str]]] = {"": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            sections.setdefault(getattr(param, "group", ""), []).append(record)
    for group, records in sections.items():
        if records:
            with formatter.section(group or "Options"):
                formatter.write_dl(records)
