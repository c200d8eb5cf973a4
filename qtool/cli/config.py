"""Options from the environment and from a file, for every option of every command.

Nothing here knows an option by name but `ONCE`: what click declares is what can be set. click itself puts
a flag before these settings and these before the default; the environment wins over the file here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from qtool.cli import configfile, values
from qtool.cli.configfile import ConfigFile
from qtool.errors import UsageError, did_you_mean, printable

PREFIX = "QTOOL_"

# Options that belong to one run of one command, and why no file and no variable may set them.
ONCE = {
    "help": "it shows the help",
    "help-all": "it shows the help",
    "config": "it names the file itself",
    "show-config": "it replaces the command by a listing",
    "dry-run": "a command that quietly writes nothing would be taken for done",
}


class OfOneRun(click.Option):
    """An option that no file and no variable sets: another command calls something else so."""


@dataclass(frozen=True)
class Setting:
    """A value that an option gets without a flag, and the variable or file that says so."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Settings:
    """What applies to one command, by click's name of the parameter, and the file that was read."""

    file: str | None = None
    values: Mapping[str, Setting] = field(default_factory=dict)


def settings(
    ctx: click.Context,
    commands: Mapping[str, click.Command],
    given: Path | None,
    environment: Mapping[str, str],
) -> Settings:
    """What the environment and the file set for the command of `ctx`.

    Args:
        ctx: of the command that runs; its name is a key of `commands`.
        commands: all that can be configured: a key that none of them has is a mistake.
        given: the file of --config.
        environment: os.environ.

    Raises:
        UsageError: an unknown key or variable, a value that the option refuses, a file that can't be read.
    """
    known = _Known(commands)
    command = ctx.info_name or ""
    own = known.options[command]
    found: dict[str, Setting] = {}
    file = configfile.find(given)
    if file is not None:
        for entry in _of_file(file, known, command):
            where, key, value = entry.where, entry.key, entry.value
            made = partial(values.from_file, ctx, value=value, base=file.base, where=where)
            if (option := own.get(key)) and not (entry.shared and known.for_others(command, key, made)):
                found[str(option.name)] = Setting(made(option), file.name)
    for variable, key, text in _of_environment(environment, known):
        made = partial(values.from_text, ctx, text=text, where=f"environment variable {variable}")
        if (option := own.get(key)) and not known.for_others(command, key, made):
            found[str(option.name)] = Setting(made(option), variable)
    return Settings(file.name if file else None, found)


def key_of(option: click.Option) -> str:
    """What an option is called in a file: its first long name, without the dashes."""
    return next(iter(_keys(option)), option.name or "")


def variable_of(key: str) -> str:
    """What a key is called in the environment."""
    return PREFIX + key.upper().replace("-", "_")


class _Known:
    """What can be set, and what to say of all else.

    Args:
        commands: by their names.
    """

    def __init__(self, commands: Mapping[str, click.Command]) -> None:
        self.options = {
            name: {
                key: p
                for p in command.params
                if isinstance(p, click.Option) and not isinstance(p, OfOneRun)
                for key in _keys(p)
            }
            for name, command in commands.items()
        }
        found = (p for command in commands.values() for p in command.params)
        self.arguments = {p.name for p in found if isinstance(p, click.Argument)}
        # What can be set for all commands: not what some of them take on the command line only.
        self.every = {key for options in self.options.values() for key in options} - self.arguments

    def for_others(self, command: str, key: str, made: Callable[[click.Option], Any]) -> bool:
        """Whether a command's option refuses a value that the option of another command takes.

        Such a value is meant for that other: `effort = "best"` for quantize, though profile has an effort.

        Args:
            command: the one that runs.
            key: of the option.
            made: the value as click takes it.
        """
        others = [
            options[key] for name, options in self.options.items() if name != command and key in options
        ]
        return not _takes(self.options[command][key], made) and any(_takes(other, made) for other in others)

    def hint(self, key: str, allowed: Set[str]) -> str:
        """What may be meant by a key that is not allowed here."""
        owners = [name for name, options in self.options.items() if key in options]
        if key in self.arguments:
            own = f"; of {', '.join(owners)} it is an option: [{owners[0]}]" if owners else ""
            return f"{key.upper()} is given on the command line{own}"
        if owners:
            return f"it is an option of {', '.join(owners)}"
        return did_you_mean(key, allowed - ONCE.keys())


def _keys(option: click.Option) -> list[str]:
    return [_key(name.removeprefix("--")) for name in option.opts if name.startswith("--")]


def _key(word: str) -> str:
    """'_' and '-' are one."""
    return word.replace("_", "-")


def _takes(option: click.Option, made: Callable[[click.Option], Any]) -> bool:
    try:
        made(option)
    except UsageError:
        return False
    return True


@dataclass(frozen=True)
class _Entry:
    """A key of a file, its place there, and whether it is set for every command that has it."""

    where: str
    key: str
    value: Any
    shared: bool


def _of_file(file: ConfigFile, known: _Known, command: str) -> Iterator[_Entry]:
    """What a file sets for one command: first what is set for all, then what is set for it alone.

    A table is always for a command: that and an option may share a name.
    """
    tables = {word: value for word, value in file.table.items() if isinstance(value, dict)}
    plain = {word: value for word, value in file.table.items() if word not in tables}
    for word in tables:
        if _key(word) not in known.options:
            what = "is an option, not a command" if _key(word) in known.every else "is no command"
            hint = did_you_mean(word, known.options) or f"commands: {', '.join(known.options)}"
            raise UsageError(f"{file.name}: [{printable(word, 60)}] {what}", hint)
    for word in plain:
        if _key(word) in known.options and _key(word) not in known.every:
            raise UsageError(f"{file.name}: {word} is a command", f"write its options under [{word}]")
    for entry in _checked(file.name, plain, known.every, known):
        yield _Entry(*entry, shared=True)
    for word, table in tables.items():
        own = list(_checked(f"{file.name}: [{word}]", table, known.options[_key(word)].keys(), known))
        for entry in own if _key(word) == command else ():
            yield _Entry(*entry, shared=False)


def _checked(
    where: str, table: Mapping[str, Any], allowed: Set[str], known: _Known
) -> Iterator[tuple[str, str, Any]]:
    """The keys of one table, all of them allowed, none of them twice."""
    seen: dict[str, str] = {}
    for word, value in table.items():
        key = _key(word)
        if key in ONCE:
            raise UsageError(f"{where}: '{word}' can't be set in a file: {ONCE[key]}", f"use --{key}")
        if key not in allowed:
            raise UsageError(f"{where}: no option '{printable(word, 60)}'", known.hint(key, allowed))
        if key in seen:
            raise UsageError(f"{where}: '{seen[key]}' and '{word}' are the same option", "keep one of them")
        seen[key] = word
        yield f"{where}: {word}", key, value


def _of_environment(environment: Mapping[str, str], known: _Known) -> Iterator[tuple[str, str, str]]:
    """(variable, key, text); an empty text is none, as is the custom."""
    names = {variable_of(key): key for key in known.every | ONCE.keys()}
    for variable in sorted(v for v in environment if v.startswith(PREFIX)):
        where, key = f"environment variable {printable(variable, 60)}", names.get(variable)
        if key is None:
            close = did_you_mean(variable.upper(), (variable_of(k) for k in known.every - ONCE.keys()))
            raise UsageError(f"{where}: there is no such option", close)
        if key in ONCE:
            raise UsageError(f"{where}: can't be set there: {ONCE[key]}", f"use --{key}")
        if environment[variable].strip():
            yield variable, key, environment[variable]
