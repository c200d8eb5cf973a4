"""What `qtool quantize` and `qtool tune` share: options on the job, and files that are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qtool.cli.budget import BUDGET
from qtool.cli.choices import NAMES
from qtool.cli.common import JUDGING, SRC, gates_of
from qtool.cli.sources import reading_of, source_help
from qtool.cli.targets import check_reports, files_read, same_name
from qtool.errors import UsageError
from qtool.tables.judging import USUAL
from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS

if TYPE_CHECKING:
    from qtool.graph.save import Staging
    from qtool.options import Options
    from qtool.plan.model import Plan

F = TypeVar("F", bound=Callable[..., Any])


def _described(table: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {row.summary}" for name, row in table.items())


_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(list(MODES)),
        default="static",
        show_default=True,
        help=_described(MODES) + ".",
    ),
    click.option(
        "--calib",
        type=SRC,
        help=source_help("Samples that set the ranges") + " Or none: rough ranges, from the model alone.",
    ),
    click.option(
        "--ranges",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Ranges from qtool calibrate. --calib then selects, and sets no range; without --calib no step "
        "runs that needs samples. Add --data to have the result judged.",
    ),
    click.option(
        "--data",
        type=SRC,
        help="Samples for the verdict and the gates; nothing else reads them. Default: every fourth sample "
        "of --calib, which then sets no range and makes no choice.",
    ),
    click.option(
        "--target",
        type=click.Choice(list(TARGETS)),
        default="cpu",
        show_default=True,
        help=_described(TARGETS) + ".",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Keep in float: a node name, a glob, or op:Type. Repeatable.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Quantize even where the target would rather not; wins over --exclude. Repeatable.",
    ),
    click.option(
        "--explain",
        multiple=True,
        metavar="PATTERN",
        help="Say of these nodes what was measured of them and what decided it: a node name, a glob, or "
        "op:Type. Repeatable.",
    ),
    click.option("--require-quantized", is_flag=True, help="Exit 1 when nothing ends quantized."),
    click.option(
        "--save-plan",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the plan: every scale and every decision, as JSON.",
    ),
    click.option("--force", is_flag=True, help="Replace an existing output, plan or report."),
)
_NAMES = (
    "mode", "target", "calib", "calib_format", "ranges", "data", "data_format", *JUDGING, "exclude",
    "include", "explain", "require_quantized", "threads", "force", "checkpoint", "resume", *NAMES, *BUDGET,
)  # fmt: skip


def job_options(command: F) -> F:
    """All of the above, in that order in the help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of(given: Mapping[str, Any], plan: Plan | None = None) -> Options:
    """What was asked for.

    Args:
        given: the command's options; those that it does not have are left at their defaults.
        plan: to be replayed.
    """
    from qtool.options import Options

    return Options(
        **{name: given[name] for name in _NAMES if name in given},
        gate=given["gate"] or USUAL,
        fail_if=gates_of(given),
        reading=reading_of(given),
        plan=plan,
    )


def check_targets(model: Path, given: Mapping[str, Any], written: Mapping[str, Path | None]) -> None:
    """Before any work is done: no output is an input, by whatever name, nor another output.

    Args:
        model: the file that is read.
        given: the command's options.
        written: what names the file in an error -> the file; the model that is written comes first.

    Raises:
        UsageError: one is, or exists already, without --force.
    """
    from qtool.graph.load import load
    from qtool.graph.save import check_target

    read = [model, *files_read(given)]
    files = {name: path for name, path in written.items() if path is not None}
    for name, path in files.items():
        for other, before in files.items():
            if other == name:
                break
            if same_name(path, before):
                what = "the output" if other == next(iter(written)) else other
                raise UsageError(f"{name} '{path}' is {what}", "name another file")
        check_target(path, read, given["force"])
        if name != next(iter(written)) and path.exists():  # and --force: it may hold the model's weights
            check_target(path, load(model).files, given["force"])
    check_reports(given, [model], files.values())


def text_file(path: Path | None) -> AbstractContextManager[Staging | None]:
    """Where a text will be written; a folder that is missing is known before the work is done."""
    from qtool.graph.save import staged

    return nullcontext() if path is None else staged(path)
