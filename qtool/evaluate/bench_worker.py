"""The process that times one model of a bench; bench_models.py calls it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.samples import Arrays, Sample
from qtool.errors import DataError
from qtool.evaluate.float_io import session_inputs
from qtool.evaluate.latency import single_times
from qtool.runtime.noise import Noise
from qtool.runtime.session import Array, Session
from qtool.runtime.trace import read_trace

_STATUS = Path("/proc/self/status")
_WARM_SECONDS = 0.005
# Before shorter inferences one is run that does not count: the caches hold another model's data.
_BRIEF_SECONDS = 0.05
_TRACED_SECONDS = 1.0
_MOST_EVENTS = 50_000  # of a trace, some 600 bytes each


class BenchWorker:
    """The model of this process.

    Args:
        model: its path.
        name: its name in errors.
        threads: of the runtime.
        samples: a file that `write_samples` wrote.
        names: what it returned.
        source: the name of the samples' source, for errors.
        idle: a model of one node, opened first: the runtime's own memory is not the model's.
        runtime: 'NAME:PRECISION'.
    """

    def __init__(
        self,
        model: str,
        name: str,
        threads: int,
        samples: str,
        names: Sequence[tuple[str, Sequence[str]]],
        source: str,
        idle: str,
        runtime: str,
    ) -> None:
        self._model, self._name, self._threads = Path(model), name, threads
        self._runtime = runtime
        self._samples = _read_samples(Path(samples), names)
        self._source = source
        self._inputs: list[Arrays] = []
        self._brief = False
        self._session: Session | None = Session(Path(idle), threads=threads, runtime=runtime)
        self._session = None

    def open(self, samples: int) -> tuple[float, tuple[int, int, int] | None]:
        """Open the model anew, and warm it up on the first samples.

        Returns:
            The seconds of opening it; bytes of this process before, after, and at most until it was warm.

        Raises:
            ModelError: the runtime refuses the model.
            DataError: a sample does not fit it.
        """
        before = _resident_bytes()
        self._session = None  # before the next one is opened: two at once would count double
        start = time.perf_counter()
        session = self._session = Session(
            self._model,
            threads=self._threads,
            name=self._name,
            runtime=self._runtime,
            noise=Noise.RUNTIME,
        )
        seconds = time.perf_counter() - start
        loaded = _resident_bytes()
        try:
            self._inputs = self._inputs or session_inputs(session, self._samples, self._source)
        except DataError as error:
            raise DataError(f"{self._name}: {error.message}", error.hint) from error
        self._warm_up(session, self._inputs[:samples])
        warm = _resident_bytes()
        return seconds, (before[0], loaded[0], warm[1]) if before and loaded and warm else None

    def time(self, first: int, samples: int, repeats: int) -> list[float]:
        """Return the seconds of each inference, of some samples from `first` on, `repeats` times."""
        if self._session is None:
            raise RuntimeError("the model was not opened")
        chosen = [self._inputs[(first + i) % len(self._inputs)] for i in range(samples)]
        if self._brief:
            single_times(self._session, chosen[:1], 1)
        return single_times(self._session, chosen, repeats)

    def op_times(self, folder: str, nodes: int) -> dict[str, Any]:
        """Return the fields of OpTimes (runtime/trace.py).

        Args:
            folder: for the trace, which is removed.
            nodes: about how many the model has.
        """
        self._session = None
        session = Session(self._model, threads=self._threads, name=self._name, trace=Path(folder, "trace"))
        single_times(session, self._inputs, 1)
        spent, runs = 0.0, 0
        while not runs or (spent < _TRACED_SECONDS and runs * max(nodes, 1) < _MOST_EVENTS):
            spent += sum(single_times(session, self._inputs, 1))
            runs += len(self._inputs)
        trace = session.end_trace()
        try:
            return asdict(read_trace(trace, len(self._inputs)).op_times())
        finally:
            trace.unlink()

    def _warm_up(self, session: Session, inputs: list[Arrays]) -> None:
        """Run until memory arenas have grown, weights are packed and caches are full."""
        spent = 0.0
        while spent < _WARM_SECONDS:
            times = single_times(session, inputs, 1)
            spent += max(sum(times), 1e-6)
            self._brief = min(times) < _BRIEF_SECONDS


def write_samples(path: Path, samples: Sequence[Sample]) -> list[tuple[str, list[str]]]:
    """Write the arrays of samples to an .npz file; return each sample's name and its inputs' names."""
    arrays = [_storable(np.asarray(array)) for sample in samples for array in sample.inputs.values()]
    np.savez(path, *arrays)  # by position: an input may be called `file`
    return [(sample.name, list(sample.inputs)) for sample in samples]


def _storable(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array


def _read_samples(path: Path, names: Sequence[tuple[str, Sequence[str]]]) -> list[Sample]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = (archive[f"arr_{number}"] for number in count())
        return [Sample(sample, {name: next(arrays) for name in inputs}) for sample, inputs in names]


def _resident_bytes() -> tuple[int, int] | None:
    """Resident memory of this process, now and at most; None where Linux does not report it."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    kilobytes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    if len(kilobytes) < 2:
        return None
    return int(kilobytes["VmRSS"]) * 1024, int(kilobytes["VmHWM"]) * 1024
