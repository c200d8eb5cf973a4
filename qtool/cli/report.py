"""`qtool report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qtool.cli.command import Command
from qtool.cli.common_options import gates_of, gates_option
from qtool.cli.config import OfOneRun
from qtool.cli.deliver import TABLE, deliver, report_options
from qtool.cli.output_files import check_reports
from qtool.report.formats import FORMATS


@click.command(cls=Command)
@click.argument("run", metavar="RUN.json", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    cls=OfOneRun,
    type=click.Choice([TABLE, *FORMATS]),
    show_default=f"{TABLE}; nothing with --report",
    help="What to print.",
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="EXPR",
    help="Judge by this gate instead of the saved ones: [OUTPUT:]METRIC<NUMBER, or >, as in qtool compare. "
    "A metric that was not measured fails. Repeatable.",
)
@gates_option
@click.option("--force", is_flag=True, help="Replace existing files of --report.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but warnings and failed gates.")
@click.option("-v", "--verbose", is_flag=True, help="Show all metrics, and every node left in float.")
@report_options
def report(run: Path, **values: Any) -> int:
    """Render a saved result, or judge it by other gates, without running a model.

    quantize and compare write RUN.json with --json or --report RUN.json.

    \b
    qtool report run.json
    qtool report run.json --format markdown > summary.md
    qtool report run.json --report junit.xml --report outputs.csv
    qtool report run.json --fail-if 'sqnr<25' && ship int8.onnx

    \b
    Exit codes: 0 every gate held; 1 a gate failed, in the saved run or now; 2 usage, or RUN.json is
    damaged or of another version.
    """
    from qtool.report.saved import read_report, rejudge

    form = _form(values)
    check_reports(values, [run], [])
    return deliver(rejudge(read_report(run), gates_of(values)), form, values)


def _form(values: dict[str, Any]) -> str:
    """Return the form of stdout: as requested, else the table, or nothing where files are written."""
    silent = values["quiet"] or values["report"]
    return values["form"] or ("json" if values["as_json"] else "" if silent else TABLE)
