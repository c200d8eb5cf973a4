"""Generate the reference from the code: the help of every command, the public Python names, the tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from inspect import cleandoc
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

ERRORS = {
    name: thing
    for name in qtool.__all__
    if isinstance(thing := getattr(qtool, name), type) and issubclass(thing, qtool.QtoolError)
}
Rows = Iterable[tuple[str, ...]]


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages (mkdocs calls it)."""
    pages = {"commands": commands_page, "python": python_page, "tables": tables_page}
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def table(heads: tuple[str, ...], rows: Rows) -> str:
    """A Markdown table."""
    lines = (heads, ("---",) * len(heads), *rows)
    return (
        "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines) + "\n"
    )


def commands_page() -> str:
    """The help of every command, with every option."""
    root = click.Context(cli, info_name="qtool", **cli.context_settings)
    parts = ["# Commands\n", prose(cli.help or "")]
    for name, command in cli.commands.items():
        ctx = click.Context(command, info_name=name, parent=root)
        parts += [
            f"## qtool {name}\n",
            f"```text\n{command.get_usage(ctx)}\n```\n",
            prose(command.help or ""),
        ]
        parts += list(option_tables(command, ctx))
    return "\n".join(parts)


def prose(text: str) -> str:
    """A click help text as Markdown: paragraphs that click leaves as they are become blocks of code."""
    shown = []
    for paragraph in re.split(r"\n\s*\n", cleandoc(text)):
        is_block, lines = paragraph.startswith("\b"), paragraph.lstrip("\b\n")
        shown.append(f"```text\n{lines}\n```\n" if is_block else f"{escape(lines)}\n")
    return "\n".join(shown)


def escape(text: str) -> str:
    """Help text, so that Markdown takes nothing in it for its own."""
    return re.sub(r"([*_|\[\]])", r"\\\1", html.escape(text, quote=False))


def option_tables(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """The options of a command, a table a heading of its help."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for param in command.get_params(ctx):
        if isinstance(param, click.Option):
            param.hidden = False  # those that only --help-all shows
            names, text = param.get_help_record(ctx) or ("", "")
            groups.setdefault(getattr(param, "topic", "") or "", []).append((f"`{names}`", escape(text)))
    for group, rows in groups.items():
        yield (f"**{group}**\n" if group else "")
        yield table(("option", "what it does"), rows)


def python_page() -> str:
    """Every public name, by what it is."""
    errors = [name for name in qtool.__all__ if name in ERRORS]
    functions = [name for name in qtool.__all__ if name[0].islower()]
    types = [name for name in qtool.__all__ if name not in functions and name not in errors]
    parts = ["# Python\n", "`import qtool` imports nothing heavy: a name is loaded when it is first used.\n"]
    for heading, names in (("Functions", functions), ("Options and results", types), ("Errors", errors)):
        parts += [f"## {heading}\n", *(f"::: qtool.{name}\n" for name in names)]
    return "\n".join(parts)


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
    codes = sorted((error.exit_code, name) for name, error in ERRORS.items() if error.exit_code)
    parts += ["## Exit codes\n", table(("code", "error"), [(str(code), f"`{name}`") for code, name in codes])]
    return "\n".join(parts)
