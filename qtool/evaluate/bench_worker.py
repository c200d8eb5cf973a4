"""The process that times one model of a bench; bench_models.py calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Sample
from qtool.errors import DataError
from qtool.evaluate.latency import single_times
from qtool.evaluate.memory import held
from qtool.evaluate.ports import feed, in_floats
from qtool.evaluate.profile import read_profile
from qtool.runtime.session import Array, Session

_WARM_SECONDS = 0.005
# A turn of inferences shorter than this begins with one that does not count: the caches are another's.
_BRIEF_SECONDS = 0.05
_PROFILED_SECONDS = 1.0
_MOST_EVENTS = 50_000  # of a profile: some 600 bytes each


class BenchWorker:
    """The one model of this process.

    Args:
        model: its path.
        name: what to call it in errors.
        threads: of the runtime.
        samples: a file that `keep_samples` wrote.
        names: of the samples, and the inputs of each.
        source: where they come from, for errors.
        idle: a model that does nothing: what the runtime takes for itself is not the model's.
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
    ) -> None:
        self._model, self._name, self._threads = Path(model), name, threads
        self._samples = _kept_samples(Path(samples), names)
        self._source = source
        self._fed: list[Arrays] = []
        self._brief = False
        self._memory: dict[str, int] | None = None
        self._session: Session | None = Session(Path(idle), threads=threads)
        self._session = None

    def open(self, samples: int) -> float:
        """Open the model anew, and warm it up on the first samples: seconds that opening took.

        The first time, what it takes of memory is noted.

        Raises:
            ModelError: the runtime refuses it.
            DataError: a sample does not fit it.
        """
        before = held()
        self._session = None  # the old one goes before the new one comes
        start = time.perf_counter()
        session = self._session = Session(self._model, threads=self._threads, name=self._name)
        seconds = time.perf_counter() - start
        loaded = held()
        self._fed = self._fed or self._fitting(session)
        self._warm_up(session, self._fed[:samples])
        if not self._memory and before and loaded and (warm := held()):
            self._memory = {"idle": before.now, "loaded": loaded.now, "peak": warm.peak}
        return seconds

    def memory(self) -> dict[str, int] | None:
        """Bytes: of this process without the model, with it, and at most until it was warm."""
        return self._memory

    def turn(self, first: int, samples: int, repeats: int) -> list[float]:
        """Seconds of single inferences: of `samples` samples from `first` on, `repeats` times."""
        session, fed = self._open, self._fed
        chosen = [fed[(first + i) % len(fed)] for i in range(samples)]
        if self._brief:
            single_times(session, chosen[:1], 1)
        return single_times(session, chosen, repeats)

    def profile(self, folder: str, nodes: int) -> dict[str, Any]:
        """Where the time goes: a evaluate/profile.py's Profile, as a dict.

        Args:
            folder: for the trace, which is removed.
            nodes: about how many the model has.
        """
        self._session = None
        session = Session(self._model, threads=self._threads, name=self._name, trace=Path(folder, "trace"))
        single_times(session, self._fed, 1)
        spent, runs = 0.0, 0
        while not runs or (spent < _PROFILED_SECONDS and runs * max(nodes, 1) < _MOST_EVENTS):
            spent += sum(single_times(session, self._fed, 1))
            runs += len(self._fed)
        trace = session.end_trace()
        try:
            return asdict(read_profile(trace, len(self._fed)))
        finally:
            trace.unlink()

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError("a turn before the model was opened")
        return self._session

    def _fitting(self, session: Session) -> list[Arrays]:
        """What the model is fed; integers, if it takes them."""
        model = in_floats(session)
        try:
            return [
                feed(model, fit(s, model.inputs, model.input_dtypes, self._source)) for s in self._samples
            ]
        except DataError as error:
            raise DataError(f"{self._name}: {error.message}", error.hint) from error

    def _warm_up(self, session: Session, samples: list[Arrays]) -> None:
        """Memory arenas grow, weights are packed, caches fill."""
        spent = 0.0
        while spent < _WARM_SECONDS:
            times = single_times(session, samples, 1)
            spent += max(sum(times), 1e-6)
            self._brief = min(times) < _BRIEF_SECONDS


def keep_samples(path: Path, samples: Sequence[Sample]) -> list[tuple[str, list[str]]]:
    """Write samples to an .npz file, for processes to come; their names, which it does not hold."""
    arrays = [_storable(np.asarray(array)) for sample in samples for array in sample.inputs.values()]
    np.savez(path, *arrays)  # by position: an input may be called `file`
    return [(sample.name, list(sample.inputs)) for sample in samples]


def _storable(array: Array) -> Array:
    return array.astype(str) if array.dtype.kind == "O" else array


def _kept_samples(path: Path, names: Sequence[tuple[str, Sequence[str]]]) -> list[Sample]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = (archive[f"arr_{number}"] for number in count())
        return [Sample(sample, {name: next(arrays) for name in inputs}) for sample, inputs in names]
