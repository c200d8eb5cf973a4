"""What every command of qtool can do: options from a file and the environment, and '-' for a model.

A command gets all of it with `@click.command(cls=Command)`, and each of its options without further ado.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import click

from qtool.cli.config import Settings, settings
from qtool.cli.showconfig import show
from qtool.cli.streams import refuse_dash_files, streams
from qtool.errors import EXIT_OK

# In click's ctx.meta.
_SETTINGS = "qtool.cli.settings"
_SHOW = "qtool.cli.show"


class Command(click.Command):
    """A command whose options are set by a flag, else QTOOL_<OPTION>, else a file, else their default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Eager: the settings must be known before any other option looks for its value.
        self.params += [
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_configure,
                help="Options from a TOML file. Default: qtool.toml, else [tool.qtool] in pyproject.toml, in "
                "this folder. QTOOL_<OPTION> in the environment wins over it, a flag over both.",
            ),
            click.Option(
                ["--show-config"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_ask_to_show,
                help="Print every option, its value and who set it, and do nothing.",
            ),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, list(args))
        except click.MissingParameter:
            if not ctx.meta.get(_SHOW):
                raise
            ctx.params.clear()
            rest = click.Command.parse_args(self._undemanding(), ctx, list(args))
        if not ctx.resilient_parsing:
            refuse_dash_files(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.meta.get(_SHOW):
            show(ctx, ctx.meta[_SETTINGS])
            return EXIT_OK
        with streams(ctx) as send:
            code = super().invoke(ctx)
            if code == EXIT_OK:
                send()
            return code

    def _undemanding(self) -> Command:
        """The same command with nothing required, to show what an incomplete one has."""
        twin = copy.copy(self)
        twin.params = [copy.copy(param) for param in self.params]
        for param in twin.params:
            param.required = False
        return twin


def _configure(ctx: click.Context, param: click.Parameter, given: Path | None) -> None:
    """Find the settings, and hand them to click as defaults."""
    if ctx.resilient_parsing or _SETTINGS in ctx.meta:  # completing; parsing again for --show-config
        return
    group = ctx.parent.command if ctx.parent else None
    commands = group.commands if isinstance(group, click.Group) else {str(ctx.info_name): ctx.command}
    ours = {name: command for name, command in commands.items() if isinstance(command, Command)}
    found: Settings = settings(ctx, ours, given, os.environ)
    ctx.meta[_SETTINGS] = found
    ctx.default_map = {name: setting.value for name, setting in found.values.items()}


def _ask_to_show(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_SHOW] = True
