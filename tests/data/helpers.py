"""Helpers of the tests of sources: inputs of a model, samples of a source, the error of a bad source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtool.data.model_inputs import Axis, ModelInput
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.data.samples import Samples
from qtool.errors import DataError, QtoolError, UsageError


def model_inputs(dtype: str = "float32", **shapes: Sequence[Axis] | None) -> dict[str, ModelInput]:
    """Inputs of one type: name -> shape."""
    return {n: ModelInput(n, None if s is None else tuple(s), dtype) for n, s in shapes.items()}


def source(
    data: Any, wanted: Mapping[str, ModelInput] | None = None, kind: str = "", **reading: Any
) -> Samples:
    return open_source(data, wanted, Reading(**reading), kind=kind)


def arrays(source: Samples, positions: set[int] | None = None) -> list[dict[str, np.ndarray]]:
    """The samples' inputs, read."""
    return [{n: np.asarray(a) for n, a in s.inputs.items()} for s in source.read(positions)]


def names(source: Samples, positions: set[int] | None = None) -> list[str]:
    return [sample.name for sample in source.read(positions)]


def refused(make: Callable[[], object], kind: type[QtoolError] = DataError) -> QtoolError:
    """The error that a source is met with: one line, printable, with the right exit code."""
    with pytest.raises(QtoolError) as caught:
        make()
    error = caught.value
    assert type(error) is kind, error.message
    assert error.message.isprintable()
    return error


def misused(make: Callable[[], object]) -> QtoolError:
    return refused(make, UsageError)


def assert_positions(made: Samples) -> None:
    """The law of every source: any positions give what reading all gives there, again and again."""
    complete = [(s.name, {n: np.asarray(a) for n, a in s.inputs.items()}) for s in made.read()]
    assert len(made) == len(complete) == len({name for name, _ in complete})
    last = len(complete) - 1
    for positions in (set(), {0}, {last}, {0, last}, set(range(0, len(complete), 2)), {last + 7}, None):
        wanted = [w for i, w in enumerate(complete) if positions is None or i in positions]
        got = list(made.read(positions))
        assert [s.name for s in got] == [name for name, _ in wanted]
        for sample, (_, inputs) in zip(got, wanted, strict=True):
            assert sample.inputs.keys() == inputs.keys()
            for name, array in inputs.items():
                held = sample.inputs[name]
                assert (held.shape, held.dtype, held.ndim) == (array.shape, array.dtype, array.ndim)
                np.testing.assert_array_equal(np.asarray(held), array)


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
