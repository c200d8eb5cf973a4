"""Checks of the files that a command writes: none is an input, none is written twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.config import Settings
from qtool.errors import DataError, UsageError
from qtool.report.formats import FORMATS, Format, check_libraries, format_of

if TYPE_CHECKING:
    from qtool.graph.save import Staging

_FILES = ("plan", "labels", "ranges", "gates", "load_ref", "tokenizer", "costs")
_SOURCES = ("calib", "data")


def files_read(values: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that a command reads: those that its options name, and the configuration file."""
    yield from (Path(values[name]) for name in _FILES if values.get(name) is not None)
    for text in (values[name] for name in _SOURCES if values.get(name) is not None):
        yield from _files_of(text)
    for text in values.get("metrics", ()):
        yield _code_of(text)
    for settings in click.get_current_context().meta.values():
        if isinstance(settings, Settings) and settings.file:
            yield Path(settings.file.removesuffix(" [tool.qtool]"))


def _files_of(source: str) -> Iterator[Path]:
    """Yield the files of a source of samples, where they can be listed; reading it reports why not."""
    from qtool.data.files import names_in

    folder = Path(source)
    yield from (folder, _code_of(source))
    with contextlib.suppress(DataError):
        yield from (folder / name for name in names_in(folder, nested=True))


def _code_of(text: str) -> Path:
    """Return the file of 'file.py:function'."""
    return Path(text.rpartition(":")[0])


def check_reports(
    values: Mapping[str, Any],
    models: Iterable[Path],
    written: Iterable[Path | None],
    formats: Mapping[str, Format] = FORMATS,
) -> None:
    """Check, before any work is done, the format and the place of each --report.

    Args:
        values: the command's options.
        models: the models that it reads.
        written: the other files that it writes.
        formats: of the command.

    Raises:
        UsageError: no format for the suffix; an input, an output, or a file that exists, without --force.
        EnvironmentFailure: its folder is missing or can't be written, or the format needs a library.
    """
    if not values["report"]:
        return
    from qtool.graph.save import check_target

    models = list(models)
    read = [*models, *files_read(values)]
    taken = {_folded(path) for path in written if path is not None}
    for path, name in reports_of(values, formats):
        check_libraries(formats[name])
        if _folded(path) in taken:
            raise UsageError(f"--report '{path}' is another output of this command", "name another file")
        taken.add(_folded(path))
        check_target(path, read, values["force"])
        if path.exists():  # and --force: it may be what holds a model's weights
            check_target(path, _side_files(models), values["force"])


def reports_of(values: Mapping[str, Any], formats: Mapping[str, Format] = FORMATS) -> list[tuple[Path, str]]:
    """Return the files of --report, each with the name of its format.

    Raises:
        UsageError: a suffix that names no format, or a format of other reports.
    """
    named = values["report_format"]
    if named and named not in formats:
        raise UsageError(
            f"--report-format {named}: this report has no such form", f"one of {', '.join(formats)}"
        )
    return [(path, named or format_of(path, formats)) for path in values["report"]]


def same_name(a: Path, b: Path) -> bool:
    """Return whether two outputs are one file, on a file system that ignores case too."""
    return _folded(a) == _folded(b)


def check_targets(model: Path, values: Mapping[str, Any], written: Mapping[str, Path | None]) -> None:
    """Check, before any work is done, that no output is an input or another output.

    Args:
        model: the model that is read.
        values: the command's options.
        written: option -> the file that it writes; the model comes first.

    Raises:
        UsageError: one is, or exists already, without --force.
    """
    from qtool.graph.load import load
    from qtool.graph.save import check_target

    read = [model, *files_read(values)]
    files = {name: path for name, path in written.items() if path is not None}
    for name, path in files.items():
        for other, before in files.items():
            if other == name:
                break
            if same_name(path, before):
                what = "the output" if other == next(iter(written)) else other
                raise UsageError(f"{name} '{path}' is {what}", "name another file")
        check_target(path, read, values["force"])
        if name != next(iter(written)) and path.exists():  # and --force: it may hold the model's weights
            check_target(path, load(model).files, values["force"])
    check_reports(values, [model], files.values())


def text_file(path: Path | None) -> AbstractContextManager[Staging | None]:
    """Return a file to be staged, so that a missing folder is reported before the work is done."""
    from qtool.graph.save import staged

    return nullcontext() if path is None else staged(path)


def _folded(path: Path) -> str:
    return str(path.resolve()).casefold()


def _side_files(models: Iterable[Path]) -> Iterator[Path]:
    from qtool.graph.load import load

    for model in models:
        if model.suffix != ".json":  # a saved report has no weights
            yield from load(model).files
