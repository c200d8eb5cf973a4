"""What a command reads, and where it may write: never over what is read, and no file twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from qtool.cli.config import Settings
from qtool.errors import DataError, UsageError

_FILES = ("plan", "labels", "ranges", "gates", "load_ref", "tokenizer", "costs")
_SOURCES = ("calib", "data")


def files_read(given: Mapping[str, Any]) -> Iterator[Path]:
    """The files that are read: those that options name, and the one that options are from."""
    yield from (Path(given[name]) for name in _FILES if given.get(name) is not None)
    for text in (given[name] for name in _SOURCES if given.get(name) is not None):
        yield from _files_of(text)
    for text in given.get("metrics", ()):
        yield _code_of(text)
    for settings in click.get_current_context().meta.values():
        if isinstance(settings, Settings) and settings.file:
            yield Path(settings.file.removesuffix(" [tool.qtool]"))


def _files_of(source: str) -> Iterator[Path]:
    """The files of a source of samples, as far as they can be listed: the one who reads it says why not."""
    from qtool.data.files import names_in

    folder = Path(source)
    yield from (folder, _code_of(source))
    with contextlib.suppress(DataError):
        yield from (folder / name for name in names_in(folder, nested=True))


def _code_of(text: str) -> Path:
    """The file of 'file.py:function'."""
    return Path(text.rpartition(":")[0])


def check_reports(given: Mapping[str, Any], models: Iterable[Path], written: Iterable[Path | None]) -> None:
    """Before any work is done: each --report has a format and a place, and takes no other file's.

    Args:
        given: the command's options.
        models: the files that its arguments name.
        written: the other files that it writes.

    Raises:
        UsageError: no format for the suffix; an input, an output, or a file that exists, without --force.
        EnvironmentFailure: its folder is missing or can't be written.
    """
    if not given["report"]:
        return
    from qtool.graph.save import check_target

    models = list(models)
    read = [*models, *files_read(given)]
    taken = {_folded(path) for path in written if path is not None}
    for path, _ in reports_of(given):
        if _folded(path) in taken:
            raise UsageError(f"--report '{path}' is another output of this command", "name another file")
        taken.add(_folded(path))
        check_target(path, read, given["force"])
        if path.exists():  # and --force: it may be what holds a model's weights
            check_target(path, _side_files(models), given["force"])


def reports_of(given: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """The files of --report, each with the name of its format.

    Raises:
        UsageError: a suffix that names no format.
    """
    from qtool.report.formats import format_of

    return [(path, given["report_format"] or format_of(path)) for path in given["report"]]


def same_name(a: Path, b: Path) -> bool:
    """Whether two outputs are one. Where file names differ in more than case, nobody misses the other."""
    return _folded(a) == _folded(b)


def _folded(path: Path) -> str:
    return str(path.resolve()).casefold()


def _side_files(models: Iterable[Path]) -> Iterator[Path]:
    from qtool.graph.load import load

    for model in models:
        if model.suffix != ".json":  # a saved report has no weights
            yield from load(model).files
