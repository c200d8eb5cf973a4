"""The result of advise: the kind of a model, what fits it, and commands; as data and on a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from qtool.errors import printable
from qtool.report.model import ModelFile
from qtool.report.tables import labelled, plain
from qtool.serialize.json_format import JsonFormat

_LONGEST_COMMAND = 10_000


@dataclass(frozen=True)
class Fact:
    """One line about the model: its label and its text."""

    label: str
    text: str


@dataclass(frozen=True)
class Step:
    """A command that runs as printed, and what it is for."""

    command: str
    why: str


@dataclass(frozen=True)
class Checklist:
    """The field's checklist for one model.

    Args:
        version: of qtool.
        model: the file.
        kind: a row of tables/architectures.py, or 'already quantized'.
        goal, target: as in the options.
        facts: about the model, its weights and its activations.
        steps: the commands, in order.
        checks: what to look at.
    """

    version: str
    model: ModelFile
    kind: str
    goal: str
    target: str
    facts: tuple[Fact, ...]
    steps: tuple[Step, ...]
    checks: tuple[str, ...]


_FORMAT = JsonFormat(Checklist, "qtool.checklist/1", "checklist")


def to_json(checklist: Checklist) -> str:
    """Return a checklist as one JSON document."""
    return _FORMAT.to_json(checklist)


def render_checklist(checklist: Checklist, console: Console) -> None:
    """Print the checklist on one screen."""
    title = f"{checklist.model.path}: {checklist.kind}; goal {checklist.goal}, target {checklist.target}"
    console.print(plain(title, "bold"), soft_wrap=True)
    console.print(labelled([(fact.label, plain(fact.text)) for fact in checklist.facts]), Text(), sep="\n")
    for number, step in enumerate(checklist.steps, start=1):
        console.print(Text(f"{number}. "), plain(step.why), sep="", soft_wrap=True)
        command = Text(f"   {printable(step.command, _LONGEST_COMMAND)}", "cyan")
        console.print(command, soft_wrap=True)
    console.print()
    for check in checklist.checks:
        console.print(Text("- "), plain(check), sep="", soft_wrap=True)
