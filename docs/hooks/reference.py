"""Generate the reference pages from the code: the help of every command, the public Python names, the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import click
from mkdocs.structure.files import File, Files

import qtool
from qtool.cli.main import cli
from qtool.evaluate.gates import METRICS
from qtool.tables.efforts import EFFORTS
from qtool.tables.methods import METHODS
from qtool.tables.modes import MODES
from qtool.tables.recoveries import RECOVERIES
from qtool.tables.sources import KINDS
from qtool.tables.targets import TARGETS

Rows = Iterable[tuple[str, ...]]


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages (mkdocs calls it)."""
    pages = {"commands": commands_page, "python": python_page, "tables": tables_page}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def table(heads: tuple[str, ...], rows: Rows) -> str:
    """A Markdown table."""
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *escaped)) + "\n"


def commands_page() -> str:
    """The help of every command, with every option."""
    root = click.Context(cli, info_name="qtool")
    parts = ["# Commands\n", prose(cli.help or "")]
    for name, command in cli.commands.items():
        ctx = click.Context(command, info_name=name, parent=root)
        parts += [f"## qtool {name}\n", f"```text\n{command.get_usage(ctx)}\n```\n", prose(command.help or "")]
        parts += list(option_tables(command, ctx))
    return "\n".join(parts)


def prose(text: str) -> str:
    """A click help text as Markdown: paragraphs that click leaves as they are become blocks of code."""
    shown = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        is_block, lines = paragraph.startswith("\b"), paragraph.lstrip("\b\n")
        shown.append(f"```text\n{lines}\n```\n" if is_block else f"{escape(lines)}\n")
    return "\n".join(shown)


def escape(text: str) -> str:
    """Help text, so that Markdown takes nothing in it for its own."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


def option_tables(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """The options of a command, a table a heading of its help."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for param in command.get_params(ctx):
        if isinstance(param, click.Option):
            param.hidden = False  # those that only --help-all shows
            names, text = param.get_help_record(ctx) or ("", "")
            groups.setdefault(getattr(param, "group", "") or "", []).append((f"`{names}`", escape(text)))
    for group, rows in groups.items():
        yield (f"**{group}**\n" if group else "")
        yield table(("option", "what it does"), rows)


def python_page() -> str:
    """Every public name, by what it is."""
    functions = [name for name in qtool.__all__ if name[0].islower()]
    errors = [n for n in qtool.__all__ if isinstance(c := getattr(qtool, n), type) and issubclass(c, Exception)]
    types = [name for name in qtool.__all__ if name not in functions and name not in errors]
    parts = ["# Python\n", "`import qtool` imports nothing heavy: a name is loaded when it is first used.\n"]
    for heading, names in (("Functions", functions), ("Options and results", types), ("Errors", errors)):
        parts += [f"## {heading}\n", *(f"::: {target(name)}\n" for name in names)]
    return "\n".join(parts)


def target(name: str) -> str:
    """The full path of the module and name behind a public name."""
    thing = getattr(qtool, name)
    return f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else f"qtool.{name}"


def tables_page() -> str:
    """The tables that options take their values from."""
    summaries = {
        "Modes (`--mode`)": MODES,
        "Effort (`--effort`)": EFFORTS,
        "Recovery steps (`--recover`)": RECOVERIES,
        "Range estimators (`--method`)": METHODS,
        "Targets (`--target`)": TARGETS,
        "Kinds of samples (`--calib-format`, `--data-format`)": KINDS,
    }
    parts = ["# Tables\n", "The values that options take, from `qtool/tables/`.\n"]
    for heading, rows in summaries.items():
        names = [(f"`{name}`", row.summary) for name, row in rows.items()]
        parts += [f"## {heading}\n", table(("name", "what it is"), names)]
    parts += ["## Metrics of gates (`--fail-if`)\n"]
    parts += [table(("metric", "what it is"), [(f"`{name}`", row.help) for name, row in METRICS.items()])]
    errors = [getattr(qtool, name) for name in qtool.__all__]
    codes = {
        error.exit_code: error.__name__
        for error in errors
        if isinstance(error, type) and issubclass(error, Exception) and error is not qtool.QtoolError
    }
    parts += ["## Exit codes\n", table(("code", "error"), [(str(c), f"`{n}`") for c, n in sorted(codes.items())])]
    return "\n".join(parts)
