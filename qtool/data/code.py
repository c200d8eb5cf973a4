"""file.py:function: samples that the user's own code gives. It runs only because it was named."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qtool.data.files import shown
from qtool.data.found import Found
from qtool.data.memory import Spooled, drained
from qtool.data.samples import Samples
from qtool.data.usercode import Run, loaded, named, needed_arguments, running_code, split_name
from qtool.errors import DataError, UsageError, printable
from qtool.runtime.heartbeat import beat

_MOST = 1_000_000  # samples; more do not end, or want a folder of files
_SHARE_OF_DISK = 0.5


def open_code(found: Found) -> Samples:
    """The samples that a function of a file gives, once and for all: they are kept in temporary files.

    The function is called without arguments, or with {input name: Port} where it takes one. It yields or
    returns dicts of arrays, or an object with get_next as onnxruntime's CalibrationDataReader has it, or is
    a class of either. What it prints goes to stderr.

    Raises:
        DataError: no such file, its code fails, or it gives no samples.
        UsageError: no such function, or one that takes other arguments.
    """
    file, function = split_name(found.text)
    with running_code(file) as run:
        what = named(run(lambda: loaded(file)), function, file)
        given = run(lambda: _called(what, found, f"{shown(file)}:{function}"))
        samples = _samples(given, f"{shown(file)}:{function}")
        return Spooled(_read(run, samples, file, function), found.text)


def _called(what: Any, found: Found, name: str) -> Any:
    """What a function returns, or an instance of a class; what can't be called is taken as it is."""
    if not callable(what):
        return what
    needed = needed_arguments(what)
    if len(needed) > 1:
        raise UsageError(
            f"{name} takes {len(needed)} arguments ({printable(', '.join(needed))})",
            "none, or one: {input name: what the model wants, with .shape and .dtype}",
        )
    return what(dict(found.inputs)) if needed else what()


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
