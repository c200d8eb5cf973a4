"""The one place that opens models in a runtime."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qtool.errors import (
    EnvironmentFailure,
    ModelError,
    RuntimeFailure,
    is_out_of_memory,
    out_of_memory,
    printable,
)
from qtool.runtime.heartbeat import step
from qtool.runtime.library import ort
from qtool.runtime.noise import PERIOD, PLACE, Noise, may_be_random, with_fixed_noise
from qtool.runtime.providers import open_in, runtime_of
from qtool.runtime.threads import default_threads
from qtool.tables.runtimes import DEFAULT

Array = NDArray[np.generic]
Sample = Mapping[str, Any]

# A prime: VARIED noise passes all places of a table before one comes again.
_STEP = 7919
# Where the tensors of the optimized graph go; the folder of those of a model from bytes.
_OPTIMIZED_TENSORS = "session.optimized_model_external_initializers_file_name"
_TENSORS_IN = "session.model_external_initializers_file_folder_path"

_NUMPY_OF = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


class Feeds(dict[str, Any]):
    """The inputs of one run, with the sample that they are from, for an error of the run.

    Args:
        arrays: input -> its array.
        where: the name of the sample, with its file.
    """

    def __init__(self, arrays: Sample, where: str) -> None:
        super().__init__(arrays)
        self.where = where

    def __or__(self, other: Any) -> Feeds:  # type: ignore[override]
        return Feeds({**self, **other}, self.where)


class Model(Protocol):
    """A model that runs on samples: a session, or one with a step before it."""

    @property
    def name(self) -> str: ...

    @property
    def outputs(self) -> list[str]: ...

    @property
    def output_shapes(self) -> dict[str, list[int | str | None]]: ...

    @property
    def inputs(self) -> Mapping[str, Any]: ...

    @property
    def input_dtypes(self) -> dict[str, str | None]: ...

    def run(self, sample: Sample, outputs: Sequence[str] | None = None) -> list[Any]: ...


def running(model: Model) -> AbstractContextManager[None]:
    """The step of running a model, for loops around it: noting it every time would show in short runs."""
    return step(model.name, "onnxruntime runs it", RuntimeFailure)


class Session:
    """A model that can be run.

    Args:
        model: a path, or the bytes of a model without external data.
        threads: intra-op threads; 0: the runtime's choice, within what this process may use.
        name: what to call it in errors.
        runtime: a row of tables/runtimes.py, and one of its precisions: 'openvino' or 'openvino:bf16'. The
            four options below are onnxruntime's own.
        optimize: the runtime's graph optimizations, as a user would have them.
        integers: of these, those that make int8 kernels of float nodes between Q and DQ: 1.31 does, and
            rounds constant float weights there (WeightBiasQuantization).
        trace: note every run of every node, for `end_trace` to write to a file whose name starts so.
        optimized: a file to write the graph to that the runtime makes of the model; its tensors are written
            beside it.
        noise: the numbers that random ops draw; with `trace` or `optimized` those of the runtime.

    Raises:
        ModelError: the runtime refuses the model.
        EnvironmentFailure: it runs out of memory, or is not installed.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 0,
        name: str = "",
        runtime: str = DEFAULT,
        optimize: bool = True,
        integers: bool = True,
        trace: Path | None = None,
        optimized: Path | None = None,
        noise: Noise = Noise.SAME,
    ) -> None:
        self.name = name or (str(model) if isinstance(model, Path) else "model")
        self._title = runtime_of(runtime)[0].title
        threads = threads or default_threads()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not integers:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            options.add_session_config_entry(_OPTIMIZED_TENSORS, f"{optimized.name}.data")
        try:
            with step(self.name, f"{self._title} opens it", ModelError):
                source: str | bytes = str(model) if isinstance(model, Path) else model
                if trace is None and optimized is None and noise is not Noise.RUNTIME:
                    source = _fixed_noise(model, options) or source
                self._session = open_in(runtime, source, options, threads)
        except EnvironmentFailure:
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            if is_out_of_memory(error):
                raise out_of_memory(self.name, f"{self._title} opens it") from error
            raise ModelError(f"{self.name}: {self._title} refuses it: {printable(str(error))}") from error
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._place = -1 if inputs.pop(PLACE, None) is None else 0  # -1: it has no random op
        self._step = _STEP if noise is Noise.VARIED else 0
        self.inputs = inputs
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = [o.name for o in self._session.get_outputs()]
        self.output_shapes = {o.name: list(o.shape) for o in self._session.get_outputs()}
        self.output_types = {o.name: str(o.type) for o in self._session.get_outputs()}
        # The runtime says `tensor(float)` for what numpy calls float32, and None for what numpy lacks.
        self.input_dtypes = {k: _NUMPY_OF.get(i.type) for k, i in self.inputs.items()}

    def run(self, sample: Sample, outputs: Sequence[str] | None = None) -> list[Any]:
        """The named outputs (all of them when None) for one sample.

        Raises:
            RuntimeFailure: the runtime failed on it.
            EnvironmentFailure: it ran out of memory.
        """
        try:
            return list(
                self._session.run(None if outputs is None else list(outputs), self.with_noise(sample))
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory(self.name, f"{self._title} runs it") from error
            if not isinstance(sample, Feeds):
                raise RuntimeFailure(f"{self.name}: {self._title} failed: {printable(str(error))}") from error
            raise RuntimeFailure(
                f"{sample.where}: {self.name}: {self._title} failed: {printable(str(error))}",
                "leave the sample out, or mend its values",
            ) from error

    def with_noise(self, sample: Sample) -> dict[str, Any]:
        """Return the inputs of a run: the sample, and where random ops begin to read."""
        if self._place < 0:
            return dict(sample)
        place = np.asarray(self._place, np.int64)
        self._place = (self._place + self._step) % PERIOD
        return {**sample, PLACE: place}

    def end_trace(self) -> Path:
        """The file of a session that was opened with `trace`: Chrome's trace format, in microseconds."""
        return Path(self._session.end_profiling())

    def fetcher(self, outputs: Sequence[str]) -> Fetcher:
        """A way to run it again and again for the same outputs."""
        return Fetcher(self, self._session, outputs)


class Fetcher:
    """Runs a model whose outputs go to the same memory every time, as long as their shapes allow.

    Large outputs in memory that is new each time cost as much as a small model's inference.
    """

    def __init__(self, session: Session, inner: Any, outputs: Sequence[str]) -> None:
        self._session = session
        self._inner = inner
        self._outputs = list(outputs)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._arrays: list[Array] = []
        self._binding: Any = None

    def run(self, sample: Mapping[str, Array]) -> list[Array]:
        """The outputs for one sample; their memory is used again by the next call.

        Raises:
            RuntimeFailure: the runtime failed on it.
        """
        if not self._outputs:
            return []
        shapes = {name: array.shape for name, array in sample.items()}
        if shapes == self._shapes and self._bound(sample):
            return self._arrays
        arrays = [np.asarray(a) for a in self._session.run(sample, self._outputs)]
        self._shapes, self._arrays, self._binding = shapes, arrays, None
        return arrays

    def _bound(self, sample: Mapping[str, Array]) -> bool:
        """Run into the memory at hand; False where that can't be, as when a shape depends on values."""
        if not all(_bindable(a) for a in (*sample.values(), *self._arrays)):
            return False
        try:
            if self._binding is None:
                self._binding = self._inner.io_binding()
                self._arrays = [np.empty_like(array) for array in self._arrays]
                for name, array in zip(self._outputs, self._arrays, strict=True):
                    self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
            for name, array in self._session.with_noise(sample).items():
                self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
            self._inner.run_with_iobinding(self._binding)
        except Exception:  # run without a binding says what is wrong, if anything is
            self._binding = None
            return False
        return True


def _fixed_noise(model: Path | bytes, options: Any) -> bytes | None:
    """Return the model with fixed noise; None where it has no random op, or is no model at all."""
    if isinstance(model, bytes):
        return with_fixed_noise(model) if may_be_random(model) else None
    try:
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not may_be_random(data):
                return None
            fixed = with_fixed_noise(data[:])
    except (OSError, ValueError):  # the runtime says what is wrong with the file
        return None
    options.add_session_config_entry(_TENSORS_IN, str(model.parent))
    return fixed


def _bindable(array: Array) -> bool:
    return array.dtype.kind in "fiub" and array.flags.c_contiguous and array.size > 0
