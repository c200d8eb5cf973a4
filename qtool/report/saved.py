"""A report that was saved: read back, rendered again, judged anew. Nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qtool.data.reading import as_list
from qtool.evaluate.gates import judge, parse
from qtool.report.json import REPORT
from qtool.report.model import Report


def read_report(path: str | Path) -> Report:
    """The report that `--json` or `--report FILE.json` has put in a file.

    Raises:
        UsageError: it can't be read, is damaged, or of another version of qtool.
    """
    return REPORT.read(Path(path))


def rejudge(report: Report, fail_if: str | Sequence[str]) -> Report:
    """The same report under other gates; without any, its own verdict stands.

    A metric that was not measured then fails, as there is nothing to judge; so does what was measured on
    random data.

    Raises:
        UsageError: no gate, no such metric, or no such output.
    """
    if not fail_if:
        return report
    user_metrics = report.comparison.user_metrics if report.comparison else {}
    gates = [parse(text, list(user_metrics)) for text in as_list(fail_if)]
    return replace(report, gates=tuple(judge(gates, report.verdict)))
