"""Option values from the environment and from a file, for every option of every command.

click declares the options; only `ONCE` names some here. click takes a flag first, then these settings
(`default_map`), then the default. The environment wins over the file here and not by click's
`auto_envvar_prefix`: a variable has a value per line, and a value may be meant for another command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from qtool.cli import config_file, config_values
from qtool.cli.config_file import ConfigFile
from qtool.errors import UsageError, did_you_mean, printable

PREFIX = "QTOOL_"

# Options that belong to one run of one command, and why no file and no variable may set them.
ONCE = {
    "help": "it shows the help",
    "help-all": "it shows the help",
    "config": "it names the file itself",
    "show-config": "it replaces the command by a listing",
    "dry-run": "a command that silently writes nothing would look finished",
}


class OfOneRun(click.Option):
    """An option that no file and no variable sets: another command has an option of the same name."""


@dataclass(frozen=True)
class Setting:
    """A value that an option gets without a flag, and the variable or file that it comes from."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Settings:
    """The settings of one command, by click's parameter name, and the file that was read."""

    file: str | None = None
    values: Mapping[str, Setting] = field(default_factory=dict)


def settings(
    ctx: click.Context,
    commands: Mapping[str, click.Command],
    path: Path | None,
    environment: Mapping[str, str],
) -> Settings:
    """Return what the environment and the file set for the command of `ctx`.

    Args:
        ctx: the context of the command that runs; its name is a key of `commands`.
        commands: all commands that can be configured.
        path: the file of --config.
        environment: os.environ.

    Raises:
        UsageError: an unknown key or variable, a value that the option refuses, a file that can't be read.
    """
    options = _Options(commands)
    command = str(ctx.info_name)
    values: dict[str, Setting] = {}

    def put(key: str, origin: str, convert: Callable[[click.Option], Any], *, shared: bool) -> None:
        option = options.by_command[command].get(key)
        if option and not (shared and options.meant_for_another(command, key, convert)):
            values[str(option.name)] = Setting(convert(option), origin)

    file = config_file.find(path)
    if file is not None:
        for where, key, value, shared in _of_file(file, options, command):
            convert = partial(config_values.from_file, ctx, value=value, base=file.base, where=where)
            put(key, file.name, convert, shared=shared)
    for variable, key, text in _of_environment(environment, options):
        where = f"environment variable {variable}"
        put(key, variable, partial(config_values.from_text, ctx, text=text, where=where), shared=True)
    return Settings(file.name if file else None, values)


def checked_table(
    where: str, table: Mapping[str, Any], command: click.Command, names: Set[str]
) -> dict[str, tuple[str, click.Option, Any]]:
    """Return the entries of a table of a command's options: key -> place, option, value as it stands there.

    Args:
        where: the table, for messages.
        table: of a TOML file.
        command: whose options they are.
        names: of the parameters that the table may set.

    Raises:
        UsageError: another key, or a key that is there twice.
    """
    options = _Options({str(command.name): command})
    own = {
        key: option for key, option in options.by_command[str(command.name)].items() if option.name in names
    }
    return {
        key: (place, own[key], value) for place, key, value in _checked(where, table, own.keys(), options)
    }


def key_of(option: click.Option) -> str:
    """Return the name of an option in a file: its first long name, without the dashes."""
    return next(iter(_keys(option)), option.name or "")


def variable_of(key: str) -> str:
    """Return the environment variable of a key."""
    return PREFIX + key.upper().replace("-", "_")


class _Options:
    """The options that can be set.

    Args:
        commands: name -> command.
    """

    def __init__(self, commands: Mapping[str, click.Command]) -> None:
        self.by_command = {
            name: {
                key: param
                for param in command.params
                if isinstance(param, click.Option) and not isinstance(param, OfOneRun)
                for key in _keys(param)
            }
            for name, command in commands.items()
        }
        params = [param for command in commands.values() for param in command.params]
        self.arguments = {param.name for param in params if isinstance(param, click.Argument)}
        # Keys that can be set for all commands: not those that some commands take as arguments.
        self.shared = {key for options in self.by_command.values() for key in options} - self.arguments

    def meant_for_another(self, command: str, key: str, convert: Callable[[click.Option], Any]) -> bool:
        """Return whether a command's option refuses a value that another command's option accepts.

        `effort = "best"` is meant for quantize: the effort of profile has no such value.

        Args:
            command: the one that runs.
            key: of the option.
            convert: the value for an option; it raises UsageError where the option refuses it.
        """

        def accepts(name: str) -> bool:
            try:
                convert(self.by_command[name][key])
            except UsageError:
                return False
            return True

        return not accepts(command) and any(
            accepts(name) for name, options in self.by_command.items() if name != command and key in options
        )

    def hint(self, key: str, allowed: Set[str]) -> str:
        """Return a hint for a key that is not allowed."""
        owners = [name for name, options in self.by_command.items() if key in options]
        if key in self.arguments:
            own = f"; of {', '.join(owners)} it is an option: [{owners[0]}]" if owners else ""
            return f"{key.upper()} is given on the command line{own}"
        if owners:
            return f"it is an option of {', '.join(owners)}"
        return did_you_mean(key, allowed - ONCE.keys())


def _keys(option: click.Option) -> list[str]:
    return [_key(name.removeprefix("--")) for name in option.opts if name.startswith("--")]


def _key(word: str) -> str:
    """Return a word of a file as a key: '_' and '-' are one."""
    return word.replace("_", "-")


def _of_file(file: ConfigFile, options: _Options, command: str) -> Iterator[tuple[str, str, Any, bool]]:
    """Yield (place, key, value, shared): first the keys for all commands, then those of this one.

    A table is always for a command: a command and an option may share a name.
    """
    tables = {word: value for word, value in file.table.items() if isinstance(value, dict)}
    plain = {word: value for word, value in file.table.items() if word not in tables}
    for word in tables:
        if _key(word) not in options.by_command:
            what = "is an option, not a command" if _key(word) in options.shared else "is no command"
            hint = did_you_mean(word, options.by_command) or f"commands: {', '.join(options.by_command)}"
            raise UsageError(f"{file.name}: [{printable(word, 60)}] {what}", hint)
    for word in plain:
        if _key(word) in options.by_command and _key(word) not in options.shared:
            raise UsageError(f"{file.name}: {word} is a command", f"write its options under [{word}]")
    for entry in _checked(file.name, plain, options.shared, options):
        yield *entry, True
    for word, table in tables.items():
        allowed = options.by_command[_key(word)].keys()
        entries = list(_checked(f"{file.name}: [{word}]", table, allowed, options))
        for entry in entries if _key(word) == command else ():
            yield *entry, False


def _checked(
    where: str, table: Mapping[str, Any], allowed: Set[str], options: _Options
) -> Iterator[tuple[str, str, Any]]:
    """Yield (place, key, value) of one table, whose keys must be allowed and different."""
    words: dict[str, str] = {}
    for word, value in table.items():
        key = _key(word)
        if key in ONCE:
            raise UsageError(f"{where}: '{word}' can't be set in a file: {ONCE[key]}", f"use --{key}")
        if key not in allowed:
            raise UsageError(f"{where}: no option '{printable(word, 60)}'", options.hint(key, allowed))
        if key in words:
            raise UsageError(f"{where}: '{words[key]}' and '{word}' are the same option", "keep one of them")
        words[key] = word
        yield f"{where}: {word}", key, value


def _of_environment(environment: Mapping[str, str], options: _Options) -> Iterator[tuple[str, str, str]]:
    """Yield (variable, key, text); an empty text counts as unset."""
    keys = {variable_of(key): key for key in options.shared | ONCE.keys()}
    for variable in sorted(v for v in environment if v.startswith(PREFIX)):
        where, key = f"environment variable {printable(variable, 60)}", keys.get(variable)
        if key is None:
            close = did_you_mean(variable.upper(), (variable_of(k) for k in options.shared - ONCE.keys()))
            raise UsageError(f"{where}: there is no such option", close)
        if key in ONCE:
            raise UsageError(f"{where}: can't be set there: {ONCE[key]}", f"use --{key}")
        if environment[variable].strip():
            yield variable, key, environment[variable]
