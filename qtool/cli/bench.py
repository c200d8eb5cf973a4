"""`qtool bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.command import Command, command_line
from qtool.cli.common_options import runtime_option
from qtool.cli.deliver import file_options, write_reports
from qtool.cli.output_files import check_reports
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_help, source_options
from qtool.cli.streams import called
from qtool.cli.types import SRC
from qtool.errors import EXIT_GATE, EXIT_OK, UsageError, counted, printable
from qtool.report.formats import BENCH_FORMATS

if TYPE_CHECKING:
    from qtool.commands.bench import Bench


@click.command(cls=Command)
@click.argument("models", metavar="A [B]...", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--data", type=SRC, help=source_help("Samples to run the models on. Required"))
@click.option(
    "--max-time",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit. Timing ends earlier once every ratio is known to 1%.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the runtime."
)
@runtime_option(
    "Runtime of all models, or, repeated, of each in turn",
    "onnxruntime",
    multiple=True,
)
@click.option("--profile-ops", is_flag=True, help="Also show the time of each op, and the slowest nodes.")
@click.option(
    "--fail-if",
    multiple=True,
    metavar="EXPR",
    help="Exit 1 when EXPR holds for a model other than A, or can't be judged: 'speedup<1.2' (time of A / "
    "time of the model), 'size>0.5' (bytes of the model / bytes of A). Repeatable.",
)
@click.option("-v", "--verbose", is_flag=True, help="With --profile-ops: show every op and more nodes.")
@click.option("-q", "--quiet", is_flag=True, help="No table and no progress; errors and failed gates only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option("--force", is_flag=True, help="Replace existing files of --report.")
@file_options(BENCH_FORMATS)
@source_options("data")
def bench(models: tuple[Path, ...], data: str | None, **values: Any) -> int:
    """Time models side by side: latency, load time, memory, file size.

    Each model runs in its own process, and the processes run in turns of some milliseconds. Each round
    starts new processes, since memory layout changes a model's speed. A difference is reported only where
    the 95% interval of the ratio over rounds lies beyond 1.5%. One of the models may be -, a model on stdin.

    \b
    qtool bench model.onnx int8.onnx --data samples/
    qtool bench model.onnx int8.onnx --data random:8 --shape images=1,3,224,224 --profile-ops
    qtool bench model.onnx int8.onnx --data samples/ --fail-if 'speedup<1.2' && ship int8.onnx
    qtool bench model.onnx int8.onnx --data samples/ --report bench.html
    qtool bench *.onnx --data samples/ --threads 2 --max-time 60 --json | jq '.models[].latency'

    \b
    JSON: schema qtool.bench/1, docs/report.md. Exit codes: 0 done, every gate held; 1 a gate failed;
    2 usage; 3 a model; 4 the data; 5 the environment; 6 the runtime failed.
    """
    if not models:
        raise UsageError("bench needs a model", "qtool bench model.onnx int8.onnx --data SRC")
    if data is None:
        raise UsageError(
            "bench needs samples to run the models on",
            "--data SRC; for speed made-up ones will do: --data random:8 (--shape INPUT=1,3,224,224)",
        )
    from qtool.commands.bench import Benching, bench_models

    names = ("data_format", "runtime", "threads", "max_time", "profile_ops", "fail_if")
    options = Benching(**{name: values[name] for name in names}, reading=reading_of(values))
    check_reports({**values, "data": data}, models, [], BENCH_FORMATS)
    with progress_line("bench", values["quiet"]) as progress:
        result = _named(bench_models(models, data, options, progress))
    result = replace(result, arguments=command_line())
    try:
        write_reports(result, values, BENCH_FORMATS)
    finally:  # print the result even where a file can't be written
        _deliver(result, values)
    return EXIT_GATE if result.failed else EXIT_OK


def _deliver(result: Bench, values: Mapping[str, Any]) -> None:
    """Print the result, its warnings and failed gates."""
    try:
        _print(result, values["as_json"], values["quiet"], values["verbose"])
    except BrokenPipeError:  # `| head`: the verdict below still counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for warning in result.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    for gate in result.failed:
        click.echo(f"gate failed: {printable(gate.why)} ({counted(result.rounds, 'round')})", err=True)


def _named(result: Bench) -> Bench:
    """Name stdin in place of its temporary file."""
    models = tuple(replace(m, path=called(m.path)) for m in result.models)
    gates = tuple(replace(g, model=called(g.model)) for g in result.gates)
    return replace(result, models=models, gates=gates, warnings=tuple(map(called, result.warnings)))


def _print(result: Bench, as_json: bool, quiet: bool, verbose: bool) -> None:
    if as_json:
        from qtool.report.bench import to_json

        click.echo(to_json(result), nl=False)
    elif not quiet:
        from qtool.report.bench import render_bench
        from qtool.report.terminal import TableConsole

        render_bench(result, TableConsole(), verbose)
    sys.stdout.flush()
