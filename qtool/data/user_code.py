"""The user's own code, which runs only because the user named it: file.py:function."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from qtool.data.files import names_in, opened, shown
from qtool.data.iterables import needed_arguments
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.runtime.heartbeat import step

_MODULE = "qtool_user_code"  # the name of the user's file as a module
_SOURCE_BYTES = 1 << 26


@dataclass(frozen=True)
class UserFunction:
    """A function of a file. Its failures are DataErrors with the line; its output to stdout goes to stderr.

    Args:
        name: of the function.
        where: file:function, for messages.
        arguments: the number of arguments without a default.
    """

    name: str
    where: str
    arguments: int
    _file: Path
    _call: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        with running_code(self._file) as run:
            return run(lambda: self._call(*arguments))


def split_name(text: str) -> tuple[Path, str]:
    """Return the file and the function of 'file.py:function'.

    Raises:
        UsageError: no function is named.
        DataError: there is no such file.
    """
    name, colon, function = text.rpartition(":")
    if not colon:
        raise UsageError(f"'{printable(text)}': which function of it?", f"{text}:FUNCTION")
    file = Path(name)
    _check_exists(file)
    return file, function


def load_function(text: str) -> UserFunction:
    """Return the function that 'file.py:function' names.

    Raises:
        UsageError: there is no such function.
        DataError: there is no such file, or its code fails.
    """
    file, name = split_name(text)
    where = f"{shown(file)}:{name}"
    with running_code(file) as run:
        function = named(run(lambda: loaded(file)), name, file)
    if not callable(function):
        raise UsageError(f"{where} is no function")
    return UserFunction(name, where, len(needed_arguments(function)), file, function)


Run = Callable[[Callable[[], Any]], Any]


@contextlib.contextmanager
def running_code(file: Path) -> Iterator[Run]:
    """Yield a function that runs the user's code, with its folder on sys.path, and raises DataErrors."""
    before, folder = list(sys.path), str(file.parent.resolve())
    sys.path.insert(0, folder)

    def run(work: Callable[[], Any]) -> Any:
        with step(str(file), "its code runs", DataError), _prints_on_stderr():
            try:
                return work()
            except (MemoryError, DataError, UsageError):
                raise
            except (Exception, SystemExit, GeneratorExit) as error:
                raise DataError(_explained(error, file)) from error

    try:
        yield run
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _prints_on_stderr() -> Iterator[None]:
    """Send stdout, also of subprocesses, to stderr: stdout is for the result."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # the stdout of a notebook has no file number
            sys.stdout.flush()
            number, held = 1, os.dup(1)
            stack.callback(os.close, held)
            stack.callback(os.dup2, held, number)
            os.dup2(2, number)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _check_exists(file: Path) -> None:
    """Check that there is such a file.

    Raises:
        DataError: there is none.
    """
    with contextlib.suppress(OSError, ValueError):
        if file.exists():
            with opened(file, _SOURCE_BYTES):
                return
    siblings: list[str] = []
    with contextlib.suppress(DataError):
        siblings = [name for name in names_in(file.parent) if name.endswith(".py")]
    raise DataError(f"'{shown(file)}' does not exist", did_you_mean(file.name, siblings))


def loaded(file: Path) -> ModuleType:
    """Return the file as a module; its code runs."""
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if spec is None or spec.loader is None:
        raise DataError(f"{shown(file)}: no Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # nothing is ever written beside an input
    sys.modules[_MODULE] = module  # dataclasses and the like look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def named(module: ModuleType, name: str, file: Path) -> Any:
    """Return the object of a module that has the name.

    Raises:
        UsageError: there is none.
    """
    own = [n for n, v in vars(module).items() if not n.startswith("_") and _is_own(v)]
    if name and hasattr(module, name):
        return getattr(module, name)
    has = f"it has: {printable(', '.join(own))}" if own else "it defines none"
    if not name:
        raise UsageError(f"'{shown(file)}:': which function of it?", has)
    raise UsageError(f"{shown(file)} has no '{printable(name)}'", did_you_mean(name, own) or has)


def _is_own(value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "") == _MODULE


def _explained(error: BaseException, file: Path) -> str:
    """Return the error of the user's code for a message, with the line of that code."""
    path = str(file.absolute())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = frames[-1].lineno if frames else None
    if isinstance(error, SyntaxError) and error.filename == path:
        line = error.lineno
    where = f"{shown(file)}:{line}" if line else shown(file)
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {type(error).__name__}" + (f": {printable(said, 200)}" if said else "")
