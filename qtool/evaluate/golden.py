"""The FP32 model's outputs over a sample set, computed once and served to any number of comparisons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from qtool.evaluate.reference import digest
from qtool.runtime.session import Array, Model

# Outputs of a classifier over thousands of samples fit; those of a segmentation network go to files.
MEMORY = 64 << 20  # bytes


@dataclass(frozen=True)
class _Stored:
    """An array that lies in a .npy file.

    Args:
        path: the file.
        strings: the array held Python strings, which numpy's format can't.
    """

    path: Path
    strings: bool


class FloatOutputs:
    """A model that remembers its outputs: a drop-in for the FP32 model of `compare`.

    A sample is known by the digest of its inputs, so any subset of a sample set, in any order and under any
    name, finds what was computed for its samples. The model is opened when it is first needed and run once
    for each sample. Outputs stay in memory up to a limit; later ones go to .npy files in a temporary folder,
    which `close` removes.

    Args:
        name: what to call the model in errors.
        open_model: opens the model; called at most once.
        memory: the most bytes of outputs to hold in memory.
    """

    def __init__(self, name: str, open_model: Callable[[], Model], memory: int = MEMORY) -> None:
        self.name = name
        self._open_model = open_model
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._held = 0
        self._files = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def _model(self) -> Model:
        return self._open_model()

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The runtime's description of each input."""
        return self._model.inputs

    @property
    def input_dtypes(self) -> dict[str, str | None]:
        """Input -> numpy's name of its type."""
        return self._model.input_dtypes

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return self._model.outputs

    @property
    def output_shapes(self) -> dict[str, list[int | str | None]]:
        """Output -> the shape that the model declares."""
        return self._model.output_shapes

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """The named outputs (all of them when None) for one sample. Arrays are read-only.

        Raises:
            RuntimeFailure: the runtime failed on it.
            OSError: the temporary folder can't be written.
        """
        key = digest(sample)
        if key not in self._known:
            self._known[key] = [self._kept(value) for value in self._model.run(sample)]
        kept = dict(zip(self.outputs, self._known[key], strict=True))
        return [_loaded(kept[n]) for n in (self.outputs if outputs is None else outputs)]

    def close(self) -> None:
        """Forget all outputs and remove the temporary folder. The model may be run again after that."""
        self._known.clear()
        self._held = 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kept(self, value: Any) -> Any:
        """What to remember of an output: the value itself, or where its arrays lie."""
        if isinstance(value, list):
            return [self._kept(v) for v in value]
        if not isinstance(value, np.ndarray):
            return value  # a map or an absent optional: small
        value.setflags(write=False)
        if self._held + value.nbytes <= self._memory:
            self._held += value.nbytes
            return value
        return self._stored(value)

    def _stored(self, array: Array) -> _Stored:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="qtool-outputs-")
        path = Path(self._folder.name, f"{self._files}.npy")
        self._files += 1
        strings = array.dtype == object
        np.save(path, array.astype(str) if strings else array, allow_pickle=False)
        return _Stored(path, strings)


def _loaded(kept: Any) -> Any:
    if isinstance(kept, list):
        return [_loaded(k) for k in kept]
    if not isinstance(kept, _Stored):
        return kept
    array = np.load(kept.path, allow_pickle=False)
    return array.astype(object) if kept.strings else array
