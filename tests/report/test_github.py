"""GitHub's workflow commands: read back as its runner reads them, whatever the names are."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import example, given, settings

from qtool.errors import printable
from qtool.report.github import muted, workflow_commands
from tests.report.made import BARE, GATED, TEXTS, named
from tests.tiers import examples

COMMAND = re.compile(r"::(?P<kind>\w+) title=(?P<title>[^:,\r\n]*)::(?P<message>[^\r\n]*)")


def read(line: str) -> tuple[str, str, str]:
    """Kind, title and message of a command, unescaped."""
    command = COMMAND.fullmatch(line)
    assert command, line
    title, message = command["title"], command["message"]
    for code, mark in (("%3A", ":"), ("%2C", ",")):
        title = title.replace(code, mark)
    return (
        command["kind"],
        *(t.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%") for t in (title, message)),
    )  # type: ignore[return-value]


def test_an_error_a_failed_gate_and_a_warning_a_warning() -> None:
    commands = [read(line) for line in workflow_commands(GATED)]
    assert [kind for kind, _, _ in commands] == ["warning", "error", "error", "error", "error"]
    assert commands[0][1:] == ("qtool compare", GATED.warnings[0])
    assert commands[1][1:] == (
        "gate failed: sqnr<30",
        "sqnr<30: sqnr is 28 (signal to quantization noise of the worst output, dB) (200 samples)",
    )


def test_without_failures_there_is_no_annotation() -> None:
    assert workflow_commands(BARE) == []


@given(TEXTS)
@example("%0A::error::x")
@example("a\n::set-env name=x::y")
@example("a::b,c=d")
@settings(max_examples=examples(200), deadline=None)
def test_a_name_stays_in_its_place(text: str) -> None:
    lines = workflow_commands(named(text))
    assert len(lines) == 5
    (kind, _, message), *errors = map(read, lines)
    assert (kind, message) == ("warning", printable(text))
    assert {(kind, title) for kind, title, _ in errors} == {("error", printable(f"gate failed: {text}"))}


@given(TEXTS)
def test_no_name_ends_the_silence_around_a_table(text: str) -> None:
    report = replace(named(text))
    first, *inside, last = muted(report, f"::error::{printable(text)}").splitlines()
    mark = first.removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{64}", mark)
    assert last == f"::{mark}::"
    assert not any(mark in line for line in inside)
