"""The layout of help: options by topic, first those that most people need, all of them with --help-all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_PLAIN, _LAST = "Options", "Output and running"
_ALL = "qtool.cli.help.all"  # in click's ctx.meta


class Option(click.Option):
    """An option with a place in the help.

    Args:
        topic: the heading that it stands under.
        rare: whether only --help-all shows it.
        brief: the text that -h shows in place of `help` and the default.
    """

    def __init__(
        self, *args: Any, topic: str = _LAST, rare: bool = False, brief: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.topic = topic
        self.rare = rare
        self.brief = brief


def under(topic: str, *, rare: bool = False) -> Callable[..., Callable[[F], F]]:
    """Return the decorator `click.option` for options of a topic."""
    return partial(click.option, cls=Option, topic=topic, rare=rare)


def help_all_option() -> click.Option:
    """Return the option --help-all."""

    def show(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show,
        help="Show every option and exit.",
    )  # fmt: skip


def format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the help of a command's options by topic, in the order of declaration."""
    complete = ctx.meta.get(_ALL, False)
    topics: dict[str, list[tuple[str, str]]] = {_PLAIN: []}
    hidden = 0
    for param in command.get_params(ctx):
        if not isinstance(param, click.Option) or param.hidden:
            continue
        if not complete and getattr(param, "rare", False):
            hidden += 1
            continue
        record = param.get_help_record(ctx)
        if record is None:
            continue
        brief = "" if complete else getattr(param, "brief", "")
        topic = _LAST if "--help" in param.opts else getattr(param, "topic", _PLAIN)
        topics.setdefault(topic, []).append((record[0], brief or record[1]))
    for topic, records in topics.items():
        if records:
            with formatter.section(topic):
                formatter.write_dl(records, col_max=26)
    if hidden:
        formatter.write(f"\n{hidden} more options: {ctx.command_path} --help-all\n")
