"""Check a sample against the model's inputs (names, types, shapes, values), and cast it to their types."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Protocol

import numpy as np

from qtool.data.samples import Arrays, Sample
from qtool.data.samples import where as place_of
from qtool.errors import DataError, ModelError, printable
from qtool.runtime.session import Feeds


class Input(Protocol):
    """The runtime's description of an input; axes are ints, names or None."""

    @property
    def shape(self) -> list[int | str | None]: ...

    @property
    def type(self) -> str: ...


def fit(sample: Sample, inputs: Mapping[str, Input], dtypes: dict[str, str | None], source: str) -> Arrays:
    """Return the arrays of a sample in the types of the model's inputs, cast where nothing is lost.

    Args:
        sample: names to arrays. Extra names are an error: most often they are misspelt.
        inputs: the runtime's description of each input.
        dtypes: numpy's name of the type of each input; None where numpy has none.
        source: name of the source, for messages.

    Raises:
        DataError: a name is missing or unknown, a shape or type is wrong, a batch is empty, or a value is NaN
            or infinite.
    """
    where = place_of(source, sample.name)
    for name in inputs:
        if name not in sample.inputs:
            has = ", ".join(sorted(sample.inputs)) or "nothing"
            raise DataError(
                f"{where} has no input '{printable(name)}' (it has: {printable(has)})",
                _name_hint(name, set(sample.inputs) - set(inputs), inputs),
            )
    if extra := sorted(set(sample.inputs) - set(inputs)):
        wants = printable(", ".join(inputs))
        raise DataError(f"{where}: the model has no input '{printable(extra[0])}' (it has: {wants})")
    arrays: Arrays = {}
    for name, spec in inputs.items():
        here = f"{where}: input '{printable(name)}'"
        _check(sample.inputs[name], spec, dtypes[name], here)
        arrays[name] = _values(sample.inputs[name], dtypes[name], here)
    return Feeds(arrays, where)


def _name_hint(missing: str, spare: set[str], inputs: Mapping[str, Input]) -> str:
    """Return a hint at the array that may be meant: the only one left over, or one of a similar name."""
    close = get_close_matches(missing, spare, n=1, cutoff=0.6) or (list(spare) if len(spare) == 1 else [])
    if close:
        return f"--map '{close[0]}={missing}'"
    return f"the model wants: {', '.join(inputs)}; --fill '{missing}=0' makes up an input"


def _check(array: np.ndarray, spec: Input, dtype: str | None, where: str) -> None:
    """Check the shape and the kind of an array."""
    if dtype is None:
        raise ModelError(f"{where} has the type {spec.type}, which samples can't hold")
    shape = spec.shape
    # Some exporters write 0 for an unknown axis.
    fits = len(shape) == array.ndim and all(
        not isinstance(want, int) or want in (0, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if shape and not fits:  # the runtime reports [] for a scalar, and for an input of any shape
        wants = "(" + ", ".join(str(d) if d not in (None, 0) else "?" for d in shape) + ")"
        raise DataError(
            f"{where} has shape {printable(str(array.shape), 80)}; the model wants {printable(wants)}",
            _shape_hint(array.shape, shape),
        )
    if array.shape[:1] == (0,) and shape[:1] != [0]:
        raise DataError(f"{where} is an empty batch: its shape is {array.shape}", "leave the sample out")
    if dtype == "str":
        if array.dtype.kind not in "OU":
            raise DataError(f"{where} is {array.dtype}; the model wants strings")
    elif not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise DataError(f"{where} is {printable(str(array.dtype), 80)}; the model wants {dtype}")


def _values(array: np.ndarray, dtype: str | None, where: str) -> np.ndarray:
    """Return the array in the type of the model's input, if its values are fit for it."""
    if dtype == "str":
        return array.astype(object)
    if array.dtype != dtype:
        array = _cast(array, str(dtype), where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if np.isnan(array).any():
            raise DataError(f"{where} holds NaN")
        if not _is_mask(array):
            raise DataError(
                f"{where} holds infinity", "only a mask may, of -inf and 0; is it a division by zero?"
            )
    return array


def _is_mask(array: np.ndarray) -> bool:
    """Return whether an array holds only 0 and -inf: a mask that is added to attention scores."""
    return not np.any(array[array != -np.inf])


def _cast(array: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """Return the array in another type: integers must fit exactly, floats may be rounded, not overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
        if array.dtype.kind in "iu":
            lost = (cast.astype(array.dtype) != array) | ((cast < 0) != (array < 0))
        else:
            lost = np.isinf(cast) & ~np.isinf(array)
    if np.any(lost):
        raise DataError(f"{where} is {array.dtype} and does not fit the model's {dtype}")
    return cast


def _shape_hint(have: tuple[int, ...], want: list[int | str | None]) -> str:
    if len(want) == 4 and len(have) == 4 and want[1] == have[3] and want[1] in (1, 3, 4):
        return "looks channels-last: add --layout nhwc, then check with: qtool data"
    if len(have) == len(want) - 1:
        return "looks like one sample without its batch axis: add it with array[None]"
    if len(have) == len(want) and want and want[0] == 1 and have[0] > 1:
        return f"looks like a batch of {have[0]}: add --split-batch"
    return ""
