"""file.py:function: samples that the user's own code gives. It runs only because the user named it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qtool.data.files import shown
from qtool.data.iterables import Spooled, call, samples_in
from qtool.data.samples import Samples, SourceSpec
from qtool.data.user_code import Run, loaded, named, running_code, split_name
from qtool.errors import DataError
from qtool.runtime.heartbeat import beat

_MOST = 1_000_000  # samples; a function that yields more most likely does not end
_SHARE_OF_DISK = 0.5


def open_function(source: SourceSpec) -> Samples:
    """Return the samples that a function of a file gives. They are kept in temporary files.

    The function is called once. It takes no argument, or {input name: ModelInput}. It yields or returns dicts
    of arrays, or an object with get_next as onnxruntime's CalibrationDataReader has it; so may a class.
    Its output to stdout goes to stderr.

    Raises:
        DataError: there is no such file, its code fails, or it gives no samples.
        UsageError: there is no such function, or it takes other arguments.
    """
    file, name = split_name(source.text)
    where = f"{shown(file)}:{name}"
    only_input = next(iter(source.needed)) if len(source.needed) == 1 else ""
    with running_code(file) as run:
        function = named(run(lambda: loaded(file)), name, file)
        samples = samples_in(run(lambda: call(function, source.inputs, where)), where)
        return Spooled(_read(run, samples, where), source.text, only_input)


def _read(run: Run, samples: Iterable[Any], where: str) -> Iterator[Any]:
    """Yield the samples.

    Raises:
        DataError: there are none, or more than can be kept.
    """
    end = object()
    iterator = run(lambda: iter(samples))
    room = shutil.disk_usage(tempfile.gettempdir()).free * _SHARE_OF_DISK
    for number in range(_MOST + 1):
        beat()
        sample = run(lambda: next(iterator, end))
        if sample is end:
            if not number:
                raise DataError(f"{where} gives no samples")
            return
        arrays = sample.values() if isinstance(sample, Mapping) else (sample,)
        room -= sum(getattr(array, "nbytes", 0) for array in arrays)
        if room < 0:
            break
        yield sample
    raise DataError(f"{where} gives more samples than can be kept: {number:,}", "does it ever end?")
