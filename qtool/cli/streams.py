"""'-' is a model's bytes on stdin or stdout. To all that stands behind the shell it is a file.

A parameter takes it when its type is `click.Path(allow_dash=True)`: an argument then reads stdin, an option
writes stdout. The file lies in a folder of its own, which is gone when the command ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from qtool.cli.standard_streams import was_closed
from qtool.cli.urls import local_files
from qtool.errors import EnvironmentFailure, ModelError, QtoolError, UsageError
from qtool.runtime.heartbeat import beat, step

if TYPE_CHECKING:
    from qtool.report.model import Report

DASH = "-"
LARGEST_BYTES = (1 << 31) - 1
_BLOCK = 1 << 20
# In click's ctx.meta: the temporary files, and what to call them.
_NAMES = "qtool.cli.streams"


@contextlib.contextmanager
def streams(ctx: click.Context) -> Iterator[Callable[[], None]]:
    """Replace '-' in the parameters by temporary files; yield a function that sends the model to stdout.

    With a model on stdout, everything else that is printed goes to stderr.

    Raises:
        UsageError: two models on stdin; stdin or stdout is a terminal or closed.
        ModelError: stdin is empty or larger than a model can be.
        EnvironmentFailure: no room for the temporary file.
    """
    inputs, outputs = (_dashes(ctx, kind) for kind in (click.Argument, click.Option))
    if len(inputs) > 1:
        raise UsageError("only one model can come from stdin", "name a file for the other")
    names: dict[Path, str] = {}
    ctx.meta[_NAMES] = names
    with contextlib.ExitStack() as stack:
        written: list[tuple[Path, int]] = []
        for param in outputs:
            number, output = _stdout(), _folder(stack) / "stdout.onnx"
            _put(ctx, param, output, names, "stdout")
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            written.append((output, number))
        for param in inputs:
            source, model = _stdin(), _folder(stack) / "stdin.onnx"
            with step("stdin", "waiting for the model", ModelError):
                _spool(source, model)
            _put(ctx, param, model, names, "stdin")
        try:
            with local_files(ctx, names, _folder):
                yield partial(_send, written)
        except QtoolError as error:
            error.message, error.hint = _renamed(error.message, names), _renamed(error.hint, names)
            if isinstance(error, ModelError) and "stdin: external data" in error.message:
                error.hint = "a model on stdin can't bring other files along: name its file"
            raise


def called(path: str) -> str:
    """Return a path for a result: stdin, stdout or a URL in place of a temporary file."""
    ctx = click.get_current_context(silent=True)
    return _renamed(path, ctx.meta.get(_NAMES, {})) if ctx else path


def named(report: Report) -> Report:
    """Return a report with stdin, stdout and URLs as the paths of its models and samples."""
    quantized = report.quantized and replace(report.quantized, path=called(report.quantized.path))
    compared = report.comparison and replace(report.comparison, data=called(report.comparison.data))
    fp32 = replace(report.fp32, path=called(report.fp32.path))
    return replace(report, fp32=fp32, quantized=quantized, comparison=compared)


def refuse_dash_files(ctx: click.Context) -> None:
    """Refuse '-' for files that are not models.

    Raises:
        UsageError: a path that is neither a model to read nor one to write is '-'.
    """
    for param in ctx.command.params:
        if isinstance(param.type, click.Path) and not param.type.allow_dash and _has_dash(ctx, param):
            raise UsageError(f"{param.opts[0]}: '-' (stdin, stdout) is for models only", "name a file")


def _dashes(ctx: click.Context, kind: type[click.Parameter]) -> list[click.Parameter]:
    """Return the parameters of a kind whose value is '-', once per value."""
    return [
        param
        for param in ctx.command.params
        if isinstance(param, kind) and isinstance(param.type, click.Path) and param.type.allow_dash
        for value in _values(ctx, param)
        if str(value) == DASH
    ]


def _values(ctx: click.Context, param: click.Parameter) -> tuple[object, ...]:
    value = ctx.params.get(param.name or "")
    return value if isinstance(value, tuple) else (value,)


def _has_dash(ctx: click.Context, param: click.Parameter) -> bool:
    return any(str(value) == DASH for value in _values(ctx, param))


def _put(ctx: click.Context, param: click.Parameter, path: Path, names: dict[Path, str], name: str) -> None:
    put = tuple(path if str(value) == DASH else value for value in _values(ctx, param))
    many = isinstance(ctx.params[str(param.name)], tuple)
    ctx.params[str(param.name)] = put if many else put[0]
    names[path] = name


def _renamed(text: str, names: Mapping[Path, str]) -> str:
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text


def _folder(stack: contextlib.ExitStack) -> Path:
    try:
        # Resolved, as paths in messages may be.
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qtool-"))).resolve()
    except OSError as error:
        message = f"no temporary folder for a model on stdin or stdout: {error.strerror or error}"
        raise EnvironmentFailure(message, "set TMPDIR to a folder with room") from error


def _stdin() -> BinaryIO:
    if was_closed(sys.stdin) or sys.stdin.isatty():
        raise UsageError("'-' reads a model from stdin, and none is piped in", "qtool ... - < model.onnx")
    return sys.stdin.buffer


def _stdout() -> int:
    if was_closed(sys.stdout) or sys.stdout.isatty():
        raise UsageError("'-o -' writes a model's bytes to stdout, not to a terminal", "-o - > int8.onnx")
    sys.stdout.flush()
    return sys.stdout.fileno()


def _spool(source: BinaryIO, path: Path) -> None:
    """Copy stdin to a file of at most LARGEST_BYTES."""
    size = 0
    try:
        with path.open("wb") as stream:
            while block := _read(source):
                beat()
                size += len(block)
                if size > LARGEST_BYTES:
                    raise ModelError(
                        f"stdin: more than {LARGEST_BYTES:,} bytes, the most a model can have",
                        "name the file: its weights can lie beside it",
                    )
                stream.write(block)
    except OSError as error:
        message = f"no room for the model from stdin in '{path.parent.parent}': {error.strerror or error}"
        raise EnvironmentFailure(message, "set TMPDIR to a folder with room") from error
    if not size:
        raise ModelError("stdin is empty", "did the command before the pipe fail?")


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(_BLOCK)
    except OSError as error:
        raise ModelError(f"stdin can't be read: {error.strerror or error}") from error


def _send(written: list[tuple[Path, int]]) -> None:
    for path, number in written:
        if path.exists():  # a dry run writes nothing
            _copy(path, number)


def _copy(path: Path, number: int) -> None:
    """Copy a model to a file descriptor: past Python's buffer, so that nothing stays in it."""
    if any(file != path for file in path.parent.iterdir()):
        raise UsageError("the model is too large for stdout: its weights take a file beside it", "-o FILE")
    try:
        with path.open("rb") as stream:
            while block := memoryview(stream.read(_BLOCK)):
                while block:
                    block = block[os.write(number, block) :]
    except OSError as error:
        raise EnvironmentFailure(f"can't write the model to stdout: {error.strerror or error}") from error
