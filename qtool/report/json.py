"""The report as one JSON document (schema qtool.report/5, described in docs/report.md), and back."""

from __future__ import annotations

import json
from typing import Any

from qtool.errors import DataError, printable
from qtool.report.model import COMMANDS, SCHEMA, Report, heading
from qtool.report.serial import jsonable, restore


def to_json(report: Report) -> str:
    """Indented JSON; inf and nan are the strings "inf", "-inf" and "nan", which JSON numbers can't be."""
    document = {"schema": SCHEMA, **jsonable(report)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()  # file names that are no UTF-8, as JSON escapes


def from_json(text: str, name: str = "the report") -> Report:
    """Read a report back: `to_json` gives the same text again.

    Args:
        text: a document that `to_json` made.
        name: what to call it in an error.

    Raises:
        DataError: not JSON, no report, of another version, or damaged: nothing is guessed or left out.
    """
    try:
        document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {printable(str(error), 120)}", _HINT) from error
    found = document.pop("schema", None) if isinstance(document, dict) else None
    if found != SCHEMA:
        shown = printable(repr(found), 60)
        raise DataError(
            f"{name}: not a report of this version of qtool (schema {shown}, not '{SCHEMA}')", _HINT
        )
    try:
        report: Report = restore(Report, document, "")
        _check(report)
        again = jsonable(report)
    except (ValueError, ArithmeticError, LookupError) as error:
        raise DataError(f"{name}: a damaged report: {printable(str(error), 160)}", _HINT) from error
    if again != document:
        raise DataError(
            f"{name}: a damaged report: {printable(_difference(again, document, ''), 120)} does not follow "
            "from the rest",
            _HINT,
        )
    return report


_HINT = "quantize --json and compare --json make one, or --report RUN.json"


def _check(report: Report) -> None:
    """What types don't say."""
    if report.command not in COMMANDS:
        raise ValueError(f"command is {report.command!r}")
    for kind in (*(k for row in report.coverage for k in row.counts), *(e.kind for e in report.explained)):
        if kind:
            heading(kind)
    if report.chosen and report.chosen not in {trial.name for trial in report.trials}:
        raise ValueError(f"chosen is {report.chosen!r}, which is no trial")
    if report.race is not None and {*report.race.speedup, "quantized"} != set(report.race.milliseconds):
        raise ValueError("race.speedup is of other models than race.milliseconds")


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _difference(a: Any, b: Any, where: str) -> str:
    """Where two documents of one form first differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(a[k], b[k], f"{where}.{k}" if where else k) for k in a if k in b]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return where
    return next((_difference(x, y, path) for x, y, path in pairs if x != y), where)
