"""The FP32 model's outputs over a sample set, computed once and returned to any number of comparisons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from qtool.evaluate.float_io import InputInfo
from qtool.evaluate.reference_outputs import digest
from qtool.runtime.session import Model

# Outputs of a classifier over thousands of samples fit; those of a segmentation network go to files.
MEMORY = 64 << 20  # bytes


@dataclass(frozen=True)
class _Signature:
    """The inputs and outputs of a model, without its session."""

    inputs: Mapping[str, InputInfo]
    input_dtypes: dict[str, str | None]
    outputs: list[str]
    output_shapes: dict[str, list[int | str | None]]

    @classmethod
    def of(cls, model: Model) -> _Signature:
        inputs = {name: InputInfo(list(i.shape), str(i.type)) for name, i in model.inputs.items()}
        return cls(inputs, dict(model.input_dtypes), list(model.outputs), dict(model.output_shapes))


@dataclass(frozen=True)
class Recorded:
    """The outputs of a model that ran elsewhere.

    Args:
        signature: of the model.
        outputs: digest of a sample's inputs -> all outputs.
    """

    signature: _Signature
    outputs: Mapping[str, list[Any]]

    @classmethod
    def of(cls, model: Model, outputs: Mapping[str, list[Any]]) -> Recorded:
        """Return the outputs with the signature of their model."""
        return cls(_Signature.of(model), outputs)


class CachedOutputs:
    """A model that remembers its outputs, for use as the FP32 model of `compare`.

    A sample is identified by the digest of its inputs, so any subset of a sample set, in any order and under
    any name, gets the outputs that were computed for its samples. The model is opened when it is needed, and
    run once for each sample. Arrays stay in memory up to a limit; later ones go to .npy files in a
    temporary folder, which `close` removes.

    Args:
        name: the model's name in errors.
        open_model: opens the model; called once, and after `release` once more for new samples.
        memory: the most bytes of arrays to hold in memory.
        recorded: outputs that are known already; None: none.
    """

    def __init__(
        self,
        name: str,
        open_model: Callable[[], Model],
        memory: int = MEMORY,
        recorded: Recorded | None = None,
    ) -> None:
        self.name = name
        self._open_model = open_model
        self._memory = memory
        self._recorded = recorded
        self._outputs: dict[str, list[Any]] = {}  # digest -> an output, or the file of one
        if recorded is not None:
            self._outputs |= recorded.outputs
        self._held = 0
        self._files = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._opened: Model | None = None

    @property
    def _model(self) -> Model:
        if self._opened is None:
            self._opened = self._open_model()
        return self._opened

    @cached_property
    def _signature(self) -> _Signature:
        return self._recorded.signature if self._recorded is not None else _Signature.of(self._model)

    def release(self) -> None:
        """Close the model, whose session takes as much memory as its weights, and more. Outputs are kept."""
        self._opened = None

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The runtime's description of each input."""
        return self._signature.inputs

    @property
    def input_dtypes(self) -> dict[str, str | None]:
        """Input -> numpy's name of its type."""
        return self._signature.input_dtypes

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return self._signature.outputs

    @property
    def output_shapes(self) -> dict[str, list[int | str | None]]:
        """Output -> the shape that the model declares."""
        return self._signature.output_shapes

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Return the named outputs (all of them when None) for one sample. Arrays are read-only.

        Raises:
            RuntimeFailure: the runtime failed on it.
            OSError: the temporary folder can't be written.
        """
        key = digest(sample)
        if key not in self._outputs:
            self._outputs[key] = [self._stored(value) for value in self._model.run(sample)]
        stored = dict(zip(self.outputs, self._outputs[key], strict=True))
        names = self.outputs if outputs is None else outputs
        return [np.load(v, allow_pickle=False) if isinstance(v := stored[n], Path) else v for n in names]

    def close(self) -> None:
        """Forget all outputs and remove the temporary folder. The model may be run again after that."""
        self._outputs.clear()
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

    def _stored(self, value: Any) -> Any:
        """Return an output to keep in memory, or the file that now holds it.

        Sequences, maps and strings stay in memory: they are small, and .npy files do not hold them.
        """
        if not isinstance(value, np.ndarray) or value.dtype == object:
            return value
        value.setflags(write=False)
        if self._held + value.nbytes <= self._memory:
            self._held += value.nbytes
            return value
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="qtool-outputs-")
        path = Path(self._folder.name, f"{self._files}.npy")
        self._files += 1
        np.save(path, value, allow_pickle=False)
        return path
