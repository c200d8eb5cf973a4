"""`qtool profile`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qtool.cli.command import Command
from qtool.cli.progress import progress_line
from qtool.cli.types import OUTPUT
from qtool.errors import EXIT_OK, printable

if TYPE_CHECKING:
    from qtool.plan.cost_table import CostTable


@click.command(cls=Command)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The cost table to write (JSON).")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the runtime."
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced"]),
    default="balanced",
    show_default=True,
    help="fast: fewer sizes and fewer runs.",
)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Also print the table as JSON instead of text.")
@click.option("-q", "--quiet", is_flag=True, help="No table and no progress; errors and warnings only.")
def profile(output: Path, threads: int, effort: str, force: bool, as_json: bool, quiet: bool) -> int:
    """Time this machine's kernels, and write the cost table behind placement.

    Convolutions, products, activations and ops that move values are timed in float, in int8 and in the
    other forms, at several sizes, with the conversions between them. Times come from the runtime's trace.
    If the runtime ran another kernel, the table says so and has no time. The tables of qtool were made by
    this command. Use an idle machine: on a busy one the fastest of several passes counts.

    \b
    qtool profile -o costs.json
    qtool profile -o costs.json --effort fast --threads 4 --force

    \b
    JSON: schema qtool.costs/1, docs/targets.md. Exit codes: 0 done; 2 usage; 5 the environment;
    6 the runtime failed.
    """
    from qtool.commands.profile import Profiling, profile_machine

    with progress_line("profile", quiet) as progress:
        costs = profile_machine(output, Profiling(threads=threads, effort=effort, force=force), progress)
    try:
        _print(costs, output, as_json, quiet)
    except BrokenPipeError:  # `| head`: the table is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for row in costs.untimed:
        told = f"{row.row} in {row.kind.value} ({row.size}): not timed, the runtime ran {row.ran}"
        click.echo(f"warning: {printable(told)}", err=True)
    return EXIT_OK


def _print(costs: CostTable, output: Path, as_json: bool, quiet: bool) -> None:
    if as_json:
        from qtool.plan.cost_table import to_json

        click.echo(to_json(costs), nl=False)
    elif not quiet:
        from qtool.report.profile import render_profile
        from qtool.report.terminal import TableConsole

        render_profile(costs, TableConsole())
        click.echo(f"written     {printable(str(output))}")
    sys.stdout.flush()
