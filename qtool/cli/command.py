"""The class of every command: options from a file and the environment, '-' for a model, the guard.

`@click.command(cls=Command)` gives a command all of it, for every option that it declares.
"""

from __future__ import annotations

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qtool.cli.config import settings
from qtool.cli.guard import HERE, guarded
from qtool.cli.help import Option, format_options, help_all_option
from qtool.cli.progress import clear_line
from qtool.cli.show_config import show
from qtool.cli.streams import refuse_dash_files, streams
from qtool.cli.types import BYTES, is_url
from qtool.errors import EXIT_OK, QtoolError, UsageError
from qtool.runtime.deaths import SECONDS, SECONDS_A_GB, Limits

# In click's ctx.meta.
_SETTINGS = "qtool.cli.settings"
_SHOW = "qtool.cli.show"
_LIMITS = "qtool.cli.limits"
_ARGUMENTS = "qtool.cli.arguments"

# The parameter of a command that can be continued.
_CHECKPOINT = "checkpoint"
_KEPT = "the best plan so far is in '{}': --plan replays it, --resume goes on"

# As the context's obj: work in a process of its own.
GUARDED = object()


class Command(click.Command):
    """A command whose options are set by a flag, else QTOOL_<OPTION>, else a file, else their default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Eager: the settings must be read before any other option takes its value.
        self.params += [
            Option(
                ["--config"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_configure,
                brief="Options from a TOML file. Default: qtool.toml.",
                help="Options from a TOML file. Default: qtool.toml, else [tool.qtool] in pyproject.toml, in "
                "this folder. QTOOL_<OPTION> in the environment wins over it, a flag over both.",
            ),
            Option(
                ["--show-config"],
                rare=True,
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_request_listing,
                help="Print every option, its value and its origin, and exit.",
            ),
            Option(
                ["--time-limit"],
                rare=True,
                type=click.FloatRange(min=0),
                metavar="SECONDS",
                expose_value=False,
                callback=_limit,
                help="The CPU time that one step, such as a check or an inference, may take; 0 is no limit. "
                f"Default: {SECONDS}, and {SECONDS_A_GB} more per GB of model.",
            ),
            Option(
                ["--memory-limit"],
                rare=True,
                type=BYTES,
                expose_value=False,
                callback=_limit,
                help="The memory limit, such as 4GB; 0 is no limit. Default: nine tenths of the machine's.",
            ),
            help_all_option(),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = tuple(args)
        try:
            rest = super().parse_args(ctx, list(args))
        except click.MissingParameter:
            if not ctx.meta.get(_SHOW):
                raise
            ctx.params.clear()
            rest = click.Command.parse_args(self._without_required(), ctx, list(args))
        if not ctx.resilient_parsing:
            refuse_dash_files(ctx)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_options(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.meta.get(_SHOW):
            show(ctx, ctx.meta[_SETTINGS])
            return EXIT_OK
        if ctx.find_root().obj is not GUARDED:
            return self._work(ctx)
        limits = Limits(**ctx.meta.get(_LIMITS, {}), advice=_advice(ctx))
        try:
            return guarded(partial(self._work, ctx), limits)
        except (KeyboardInterrupt, QtoolError) as error:
            clear_line()  # of a child that was ended by force
            checkpoint = ctx.params.get(_CHECKPOINT)
            if isinstance(error, KeyboardInterrupt) and checkpoint is not None and checkpoint.exists():
                click.echo(_KEPT.format(checkpoint), err=True)
            raise

    def _work(self, ctx: click.Context) -> int:
        with streams(ctx) as send:
            code: int = super().invoke(ctx)
            if code == EXIT_OK:
                send()
            return code

    def _without_required(self) -> Command:
        """Return this command with nothing required, for --show-config."""
        twin = copy.copy(self)
        twin.params = [copy.copy(param) for param in self.params]
        for param in twin.params:
            param.required = False
        return twin


def command_line() -> tuple[str, ...]:
    """Return the words of the command that runs, with flags in place of a file and of the environment."""
    ctx = click.get_current_context()
    words = [*ctx.command_path.split(), *map(_without_secrets, ctx.meta[_ARGUMENTS])]
    for name, setting in ctx.meta[_SETTINGS].values.items():
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
            option = next(param for param in ctx.command.params if param.name == name)
            words += flags_of(option, setting.value)
    return tuple(words)


def _without_secrets(word: str) -> str:
    """Return a word of the command line; a URL, also behind --option=, without password and query."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not is_url(value):
        return word
    from qtool.graph.remote import public

    return flag + equals + public(value)


def flags_of(option: click.Parameter, value: Any) -> list[str]:
    """Return an option with its value as words of a command line."""
    values = value if isinstance(value, (tuple, list)) else [value]
    flag = option.opts[0]
    return [w for v in values for w in ([flag] if v is True else [] if v is False else [flag, str(v)])]


def _configure(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Set click's defaults by the file and the environment."""
    if ctx.resilient_parsing or _SETTINGS in ctx.meta:  # completing; parsing again for --show-config
        return
    group = ctx.parent.command if ctx.parent else None
    commands = group.commands if isinstance(group, click.Group) else {str(ctx.info_name): ctx.command}
    ours = {name: command for name, command in commands.items() if isinstance(command, Command)}
    ctx.meta[_SETTINGS] = settings(ctx, ours, path, os.environ)
    ctx.default_map = {name: setting.value for name, setting in ctx.meta[_SETTINGS].values.items()}


def _request_listing(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_SHOW] = True


def _advice(ctx: click.Context) -> str:
    """Return how to keep the results of a command that is ended by force; '' where it keeps none."""
    if _CHECKPOINT not in ctx.params:
        return ""
    checkpoint = ctx.params[_CHECKPOINT]
    return (
        f"--resume goes on from {checkpoint}"
        if checkpoint
        else "--checkpoint FILE keeps the best plan so far"
    )


def _limit(ctx: click.Context, param: click.Parameter, limit: float | None) -> None:
    """Store a limit for the guard."""
    if limit is None or ctx.resilient_parsing:
        return
    if not HERE:
        raise UsageError(f"{param.opts[0]}: this system can't hold a process to limits")
    field = {"time_limit": "seconds", "memory_limit": "memory"}[str(param.name)]
    ctx.meta.setdefault(_LIMITS, {})[field] = limit
