"""Samples against a model's inputs: names, types and shapes, before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from qtool.data.samples import Arrays, Sample
from qtool.errors import DataError, ModelError, did_you_mean


class Input(Protocol):
    """What the runtime says of one input; axes are ints, names or None."""

    @property
    def shape(self) -> list[int | str | None]: ...

    @property
    def type(self) -> str: ...


def fit(sample: Sample, inputs: Mapping[str, Input], dtypes: dict[str, str | None], source: str) -> Arrays:
    """The sample's arrays for exactly the model's inputs, cast where nothing is lost.

    Args:
        sample: names to arrays; extra names are an error, since they are most often a misspelling.
        inputs: the runtime's description of each input.
        dtypes: numpy's name of each input's type; None where numpy has none.
        source: where the samples come from, for the message.

    Raises:
        DataError: a missing or unknown name, a wrong shape or type, NaN in an input.
    """
    where = f"{source}/{sample.name}"
    for name in inputs:
        if name not in sample.inputs:
            raise DataError(
                f"{where} has no input '{name}' (it has: {', '.join(sorted(sample.inputs)) or 'nothing'})",
                did_you_mean(name, sample.inputs) or f"the model wants: {', '.join(inputs)}",
            )
    if extra := sorted(set(sample.inputs) - set(inputs)):
        raise DataError(f"{where}: the model has no input '{extra[0]}' (it has: {', '.join(inputs)})")
    return {
        name: _fit_one(sample.inputs[name], name, spec, dtypes[name], where) for name, spec in inputs.items()
    }


def _fit_one(array: np.ndarray, name: str, spec: Input, dtype: str | None, where: str) -> np.ndarray:
    if dtype is None:
        raise ModelError(f"input '{name}' has the type {spec.type}, which samples can't hold")
    shape = spec.shape
    # The runtime's own shape of 0 is how some exporters write 'unknown'.
    fits = len(shape) == array.ndim and all(
        not isinstance(want, int) or want in (0, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wants = "(" + ", ".join(str(d) if d not in (None, 0) else "?" for d in shape) + ")"
        raise DataError(
            f"{where}: input '{name}' has shape {array.shape}; the model wants {wants}",
            _shape_hint(array, shape),
        )
    if dtype == "str":
        if array.dtype.kind not in "OU":
            raise DataError(f"{where}: input '{name}' is {array.dtype}; the model wants strings")
        return array.astype(object)
    if array.dtype != dtype:
        array = _cast(array, name, dtype, where)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{where}: input '{name}' holds NaN")
    return array


def _cast(array: np.ndarray, name: str, dtype: str, where: str) -> np.ndarray:
    """The array in the model's type: integers must fit exactly, floats may be rounded but not lost."""
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise DataError(f"{where}: input '{name}' is {array.dtype}; the model wants {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
        if array.dtype.kind in "iu":
            lost = (cast.astype(array.dtype) != array) | ((cast < 0) != (array < 0))
        else:
            lost = np.isinf(cast) & ~np.isinf(array)
    if np.any(lost):
        raise DataError(f"{where}: input '{name}' is {array.dtype} and does not fit the model's {dtype}")
    return cast


def _shape_hint(array: np.ndarray, shape: list[int | str | None]) -> str:
    if len(shape) == 4 and array.ndim == 4 and shape[1] == array.shape[3] and shape[1] in (1, 3, 4):
        return "looks channels-last: transpose it to (N, C, H, W)"
    if array.ndim == len(shape) - 1:
        return "looks like one sample without its batch axis: add it with array[None]"
    if array.ndim == len(shape) and shape and shape[0] == 1 and array.shape[0] > 1:
        return f"looks like a batch of {array.shape[0]}: save one sample a file"
    return ""
