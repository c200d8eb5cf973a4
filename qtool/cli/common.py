"""What the commands share: verbosity, gates, progress."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from qtool.cli.grouped import under
from qtool.tables.judging import AUTO, NONE, USUAL

if TYPE_CHECKING:
    from qtool.options import Progress

F = TypeVar("F", bound=Callable[..., Any])

STAGES = {
    "calibrate": "calibrating",
    "compare": "comparing",
    "validate": "validating",
    "survey": "looking",
    "bench": "timing",
    "sensitivity": "finding errors",
    "candidates": "trying plans",
}


class SourceType(click.types.StringParamType):
    """Where samples come from: a path, or a word for what needs none."""

    name = "src"
    _WORDS = re.compile("none$|random:")

    def placed(self, value: str, base: Path) -> str:
        """A source that a file in `base` names, from where we are."""
        return value if self._WORDS.match(value) else str(base / value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """A path."""
        return [CompletionItem(incomplete, type="file")]


SRC = SourceType()


def output_options(command: F) -> F:
    """--json, -q, -v, --threads."""
    for option in (
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            help="All measures, and every node left in float, with its reason.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            help="No table and no progress; errors, warnings and failed gates only.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="One JSON document on stdout instead of tables."
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=0),
            default=0,
            show_default="the runtime's choice; timing uses one",
            help="Threads of the runtime.",
        ),
    ):
        command = option(command)
    return command


_gate = under("Judging")


gates_option: Callable[[F], F] = _gate(
    "--gates",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file of gates, one a line, as --fail-if has them.",
)


def gate_options(command: F) -> F:
    """--fail-if, --gates, --gate, --labels, --metric, --atol, --rtol."""
    for option in (
        _gate(
            "--rtol",
            type=click.FloatRange(min=0),
            default=1e-2,
            show_default=True,
            help="mismatch: what |a - b| may have of |a| ..",
        ),
        _gate(
            "--atol",
            type=click.FloatRange(min=0),
            default=1e-3,
            show_default=True,
            help=".. beyond this.",
        ),
        _gate(
            "--metric",
            "metrics",
            multiple=True,
            metavar="FILE.py:FUNCTION",
            help="A metric of your own: called with a sample's FP32 outputs and the quantized ones, dicts of "
            "arrays, it gives a number; --fail-if 'FUNCTION<0.9' judges the mean. Repeatable.",
        ),
        _gate(
            "--gate",
            type=click.Choice([NONE, USUAL, AUTO]),
            show_default="usual where a model is quantized, none where two are compared",
            help="auto: fail below the SQNR that the precision usually holds: static 20 dB, dynamic 12, "
            "4-bit weights 10, fp16 50. usual: the same, where there are samples to judge by.",
        ),
        gates_option,
        _gate(
            "--labels",
            type=click.Path(path_type=Path),
            help="JSON or .csv, sample file name -> class: true accuracy of both models.",
        ),
        _gate(
            "--fail-if",
            multiple=True,
            metavar="EXPR",
            help="Exit 1 when EXPR holds, or can't be judged: [OUTPUT:]METRIC<NUMBER, or >. Metrics: sqnr, "
            "sqnr_worst, sqnr_centred, cosine, rel_l2, max_error, mean_error, p99_error, mismatch, kl, top1, "
            "top5, unequal, nonfinite, accuracy, accuracy_drop (with --labels), speedup, size (quantized / "
            "FP32), quantized (nodes). Repeatable.",
        ),
    ):
        command = option(command)
    return command


JUDGING = ("labels", "metrics", "atol", "rtol")


def gates_of(given: Mapping[str, Any]) -> tuple[str, ...]:
    """All gates that were asked for by flags and in a file."""
    if given["gates"] is None:
        return tuple(given["fail_if"])
    from qtool.evaluate.gates import read_gates

    return (*given["fail_if"], *read_gates(given["gates"]))


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from qtool.cli.rate import RateColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(STAGES.get(stage, stage), total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
