"""Samples from a Python caller: arrays, dicts of arrays, iterables of either, or a function."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.model_inputs import ModelInputs
from qtool.data.samples import Arrays, Sample, Samples, SourceSpec, Traits
from qtool.data.transforms import SplitBatch
from qtool.errors import DataError, UsageError, printable

_DICTS = "each sample is a dict: input name -> array"


def open_iterable(data: Any, source: SourceSpec) -> Samples:
    """Return the samples of a Python object.

    - An array, or a dict of arrays, is a stack of samples, and is cut as --split-batch does.
    - A list, or another object that has a length, is read anew in each pass.
    - A function is called anew for each pass.
    - The samples of a generator, of another iterator, or of an onnxruntime CalibrationDataReader can be read
      once, and are kept in temporary files.

    A sample is a dict: input name -> array. For a model of one input, it may be the array alone.

    Raises:
        DataError: it is none of these, it is empty, or it holds what is no array.
    """
    only_input = next(iter(source.needed)) if len(source.needed) == 1 else ""
    if isinstance(data, Mapping | np.ndarray):
        if isinstance(data, Mapping) and not data:
            raise DataError("the dict of samples is empty")
        return SplitBatch(InMemory([data], only_input), source.wanted)
    if isinstance(data, type) or (callable(data) and not isinstance(data, Iterable)):
        return FunctionSamples(data, source.inputs, only_input)
    if callable(getattr(data, "get_next", None)):
        return Spooled(read_all(data), only_input=only_input)
    if not isinstance(data, Iterable):
        raise DataError(
            f"a {type(data).__name__} holds no samples", "a path, an array, or an iterable of dicts"
        )
    if not isinstance(data, Sized):
        return Spooled(data, only_input=only_input)
    if not len(data):
        raise DataError("the list of samples is empty")
    return InMemory(data, only_input)


class InMemory:
    """Samples of a list, or of another object that can be iterated again and again.

    Args:
        samples: has a length; its items are dicts of arrays, or arrays for the only input.
        only_input: the name of the model's only input; '': it has several.
    """

    def __init__(self, samples: Any, only_input: str = "") -> None:
        self._samples = samples
        self._only_input = only_input
        self.name = "samples"
        self.traits = Traits("python")

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, sample in enumerate(self._samples):
            if positions is None or index in positions:
                yield Sample(str(index), as_arrays(sample, str(index), self._only_input))


class FunctionSamples:
    """Samples that a function yields. It is called anew for each pass, and must yield the same ones.

    Args:
        function: as `call` takes it.
        inputs: of the model.
        only_input: the name of the model's only input; '': it has several.

    Raises:
        DataError: it gives no samples, or, when read, another number than in the first pass.
    """

    def __init__(self, function: Callable[..., Any], inputs: ModelInputs, only_input: str = "") -> None:
        self.name = getattr(function, "__name__", "samples")
        self.traits = Traits("python", ("the function is called anew for each pass",))
        self._function = function
        self._inputs = inputs
        self._only_input = only_input
        self._length = sum(1 for _ in self._pass())
        if not self._length:
            raise DataError(f"{printable(self.name)} gives no samples")

    def __len__(self) -> int:
        return self._length

    def _pass(self) -> Iterable[Any]:
        return samples_in(call(self._function, self._inputs, self.name), self.name)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        count = 0
        for count, sample in enumerate(self._pass(), start=1):
            if positions is None or count - 1 in positions:
                yield Sample(str(count - 1), as_arrays(sample, str(count - 1), self._only_input))
        if count != self._length:
            raise DataError(
                f"{printable(self.name)} gave {count:,} samples, and {self._length:,} in the first pass",
                "it must give the same samples each time it is called",
            )


class Spooled:
    """Samples that can be read only once, kept in a temporary folder and not in memory.

    The folder is removed with this object, or if reading the samples fails.

    Args:
        samples: dicts of arrays, or arrays for the only input.
        name: of the source.
        only_input: the name of the model's only input; '': it has several.
    """

    def __init__(self, samples: Iterable[Any], name: str = "samples", only_input: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qtool-samples-"))
        self._discard = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._names: list[list[str]] = []
        self.name = name
        self.traits = Traits("python")
        try:
            for index, sample in enumerate(samples):
                arrays = as_arrays(sample, str(index), only_input)
                # By position: an input may be called `file`, which is an argument of savez.
                np.savez(self._folder / f"{index}.npz", *arrays.values())
                self._names.append(list(arrays))
        except BaseException:
            self._discard()
            raise
        if not self._names:
            self._discard()
            raise DataError("the iterable of samples is empty")

    def __len__(self) -> int:
        return len(self._names)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, names in enumerate(self._names):
            if positions is None or index in positions:
                with np.load(self._folder / f"{index}.npz", allow_pickle=False) as archive:
                    yield Sample(str(index), {name: archive[f"arr_{i}"] for i, name in enumerate(names)})


def call(function: Any, inputs: ModelInputs, name: str) -> Any:
    """Return what a function returns, or an instance of a class.

    Args:
        function: takes no argument, or the model's inputs: name -> ModelInput. What can't be called is
            returned.
        inputs: of the model.
        name: of the function, for messages.

    Raises:
        UsageError: it takes more arguments.
    """
    if not callable(function):
        return function
    needed = needed_arguments(function)
    if len(needed) > 1:
        raise UsageError(
            f"{printable(name)} takes {len(needed)} arguments ({printable(', '.join(needed))})",
            "none, or one: {input name: what the model wants, with .shape and .dtype}",
        )
    return function(dict(inputs)) if needed else function()


def needed_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments without a default; none if the function has no signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # some functions of C have none
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def samples_in(result: Any, name: str) -> Iterable[Any]:
    """Return the samples in the result of a function: an iterable, or an onnxruntime CalibrationDataReader.

    Raises:
        DataError: it is neither.
    """
    if callable(getattr(result, "get_next", None)):
        return read_all(result)
    if isinstance(result, Mapping | str) or not isinstance(result, Iterable):
        what = "nothing" if result is None else f"a {type(result).__name__}"
        raise DataError(f"{printable(name)} gives {what}, not samples", "yield dicts: input name -> array")
    return result


def read_all(reader: Any) -> Iterator[Any]:
    """Yield the samples of an onnxruntime CalibrationDataReader, whose get_next returns None at the end."""
    while (sample := reader.get_next()) is not None:
        yield sample


def as_arrays(sample: Any, name: str, only_input: str = "") -> Arrays:
    """Return the values of a sample as arrays, strings in numpy's fixed width.

    Args:
        sample: a dict of arrays, or an array for the only input.
        name: of the sample, for messages.
        only_input: the name of the model's only input; '': it has several.

    Raises:
        DataError: it is neither, or a value is no array of numbers or text.
    """
    if only_input and hasattr(sample, "__array__"):
        sample = {only_input: sample}
    if not isinstance(sample, Mapping):
        alone = "; an array alone is for models of one input" if hasattr(sample, "__array__") else ""
        raise DataError(f"sample {name} is a {type(sample).__name__}", f"{_DICTS}{alone}")
    arrays: Arrays = {}
    for key, value in sample.items():
        here = f"sample {name}: '{printable(str(key))}'"
        try:
            array = np.asarray(value)
            if array.dtype == object and all(isinstance(v, str) for v in array.reshape(-1)):
                array = array.astype(str)
        except ValueError as error:
            raise DataError(f"{here} is no array: {printable(str(error))}") from error
        if array.dtype == object:
            raise DataError(f"{here} holds Python objects, not numbers")
        arrays[str(key)] = array
    return arrays
