"""The report as GitHub's workflow commands, which become annotations: a line of output each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from qtool.errors import printable
from qtool.report.json import to_json
from qtool.report.model import Report
from qtool.report.verdict import gate_text

_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = _DATA | {":": "%3A", ",": "%2C"}


def workflow_commands(report: Report) -> list[str]:
    """An ::error a failed gate, a ::warning a warning."""
    warnings = [_command("warning", f"qtool {report.command}", warning) for warning in report.warnings]
    errors = [
        _command(
            "error", f"gate failed: {gate.gate.text}", f"{gate_text(report, gate)} ({gate.samples} samples)"
        )
        for gate in report.failed
    ]
    return warnings + errors


def muted(report: Report, text: str) -> str:
    """Text that holds foreign names, between marks that have GitHub take no command from it.

    The mark that ends it is a digest of the report, which no name in that report can hold.
    """
    mark = hashlib.sha256(to_json(report).encode()).hexdigest()
    return f"::stop-commands::{mark}\n{text}\n::{mark}::"


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_escaped(title, _PROPERTY)}::{_escaped(message, _DATA)}"


def _escaped(text: str, marks: Mapping[str, str]) -> str:
    return "".join(marks.get(c, c) for c in printable(text))
