"""file.py:function: samples that the user's own code gives. It runs only because it was named."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from qtool.data.files import names_in, opened, shown
from qtool.data.found import Found
from qtool.data.memory import Spooled, drained
from qtool.data.samples import Source
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.steps import beat, step

_MODULE = "qtool_samples"  # what the file is called as a module
_SOURCE_BYTES = 1 << 26
_MOST = 1_000_000  # samples; more do not end, or want a folder of files
_SHARE_OF_DISK = 0.5


def open_code(found: Found) -> Source:
    """The samples that a function of a file gives, once and for all: they are kept in temporary files.

    The function is called without arguments, or with {input name: Port} where it takes one. It yields or
    returns dicts of arrays, or an object with get_next as onnxruntime's CalibrationDataReader has it, or is
    a class of either. What it prints goes to stderr.

    Raises:
        DataError: no such file, its code fails, or it gives no samples.
        UsageError: no such function, or one that takes other arguments.
    """
    text, colon, function = found.text.rpartition(":")
    if not colon:
        raise UsageError(f"'{printable(found.text)}': which function of it?", f"{found.text}:FUNCTION")
    file = Path(text)
    _there(file)
    with _run_of(file) as run:
        module = run(lambda: _loaded(file))
        named = _named(module, function, file)
        given = run(lambda: _called(named, found, f"{shown(file)}:{function}"))
        samples = _samples(given, f"{shown(file)}:{function}")
        return Spooled(_read(run, samples, file, function), found.text)


Run = Callable[[Callable[[], Any]], Any]


@contextlib.contextmanager
def _run_of(file: Path) -> Iterator[Run]:
    """Run the user's code with its folder on sys.path, its prints on stderr and its failures explained."""
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
    """What goes to stdout, that of subprocesses too, goes to stderr: stdout is for the result."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # a notebook's has no number
            sys.stdout.flush()
            number, held = 1, os.dup(1)
            stack.callback(os.close, held)
            stack.callback(os.dup2, held, number)
            os.dup2(2, number)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _there(file: Path) -> None:
    """Whether there is such a file."""
    with contextlib.suppress(OSError, ValueError):
        if file.exists():
            with opened(file, _SOURCE_BYTES):
                return
    siblings: list[str] = []
    with contextlib.suppress(DataError):
        siblings = [name for name in names_in(file.parent) if name.endswith(".py")]
    raise DataError(f"'{shown(file)}' does not exist", did_you_mean(file.name, siblings))


def _loaded(file: Path) -> ModuleType:
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


def _named(module: ModuleType, name: str, file: Path) -> Any:
    own = [n for n, v in vars(module).items() if not n.startswith("_") and _is_own(v)]
    if name and hasattr(module, name):
        return getattr(module, name)
    has = f"it has: {printable(', '.join(own))}" if own else "it defines none"
    if not name:
        raise UsageError(f"'{shown(file)}:': which function of it?", has)
    raise UsageError(f"{shown(file)} has no '{printable(name)}'", did_you_mean(name, own) or has)


def _is_own(value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "") == _MODULE


def _called(named: Any, found: Found, name: str) -> Any:
    """What a function returns, or an instance of a class; what can't be called is taken as it is."""
    if not callable(named):
        return named
    try:
        parameters = inspect.signature(named).parameters.values()
    except (ValueError, TypeError):  # some of C have none
        return named()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind in kinds]
    if len(needed) > 1:
        raise UsageError(
            f"{name} takes {len(needed)} arguments ({printable(', '.join(p.name for p in needed))})",
            "none, or one: {input name: what the model wants, with .shape and .dtype}",
        )
    return named(dict(found.ports)) if needed else named()


def _samples(given: Any, name: str) -> Iterable[Mapping[str, Any]]:
    if callable(getattr(given, "get_next", None)):
        return drained(given)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        what = "nothing" if given is None else f"a {type(given).__name__}"
        raise DataError(f"{name} gives {what}, not samples", "yield dicts: input name -> array")
    return given


def _read(
    run: Run, samples: Iterable[Mapping[str, Any]], file: Path, function: str
) -> Iterator[Mapping[str, Any]]:
    """The samples, one after another, each as a step of its own."""
    end = object()
    iterator = run(lambda: iter(samples))
    room = shutil.disk_usage(tempfile.gettempdir()).free * _SHARE_OF_DISK
    for number in range(_MOST + 1):
        beat()
        sample = run(lambda: next(iterator, end))
        if sample is end:
            if not number:
                raise DataError(f"{shown(file)}:{function} gives no samples")
            return
        if isinstance(sample, Mapping):
            room -= sum(getattr(value, "nbytes", 0) for value in sample.values())
        if room < 0:
            break
        yield sample
    raise DataError(
        f"{shown(file)}:{function} gives more samples than can be kept: {number:,}", "does it ever end?"
    )


def _explained(error: BaseException, file: Path) -> str:
    """What went wrong in the user's code, and at which line of it."""
    path = str(file.absolute())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = frames[-1].lineno if frames else None
    if isinstance(error, SyntaxError) and error.filename == path:
        line = error.lineno
    where = f"{shown(file)}:{line}" if line else shown(file)
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {type(error).__name__}" + (f": {printable(said, 200)}" if said else "")
