"""Samples against a model's inputs: names, types and shapes, before the runtime sees them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Protocol

import numpy as np

from qtool.data.samples import Arrays, Sample
from qtool.data.samples import where as place_of
from qtool.errors import DataError, ModelError, printable


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
        DataError: a missing or unknown name, a wrong shape or type, an empty batch, NaN or infinity.
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
    # All that can be known without reading an array first: it may be large for no good reason.
    for name, spec in inputs.items():
        _check(sample.inputs[name], spec, dtypes[name], f"{where}: input '{printable(name)}'")
    return {
        name: _values(np.asarray(sample.inputs[name]), dtypes[name], f"{where}: input '{printable(name)}'")
        for name in inputs
    }


def _name_hint(missing: str, spare: set[str], inputs: Mapping[str, Input]) -> str:
    """What may be meant by an input: the one array that is left over, or one of a like name."""
    close = get_close_matches(missing, spare, n=1, cutoff=0.6) or (list(spare) if len(spare) == 1 else [])
    if close:
        return f"--map '{close[0]}={missing}'"
    return f"the model wants: {', '.join(inputs)}; --fill '{missing}=0' makes up an input"


def _check(held: np.ndarray, spec: Input, dtype: str | None, where: str) -> None:
    """Whether an array is of the shape and the kind that the model wants."""
    if dtype is None:
        raise ModelError(f"{where} has the type {spec.type}, which samples can't hold")
    shape = spec.shape
    # The runtime's own shape of 0 is how some exporters write 'unknown'.
    fits = len(shape) == held.ndim and all(
        not isinstance(want, int) or want in (0, have) for want, have in zip(shape, held.shape, strict=True)
    )
    if shape and not fits:  # [] is what the runtime says of a scalar, and of an input without a shape
        wants = "(" + ", ".join(str(d) if d not in (None, 0) else "?" for d in shape) + ")"
        raise DataError(
            f"{where} has shape {printable(str(held.shape), 80)}; the model wants {printable(wants)}",
            _shape_hint(held.shape, shape),
        )
    if held.shape[:1] == (0,) and shape[:1] != [0]:
        raise DataError(f"{where} is an empty batch: its shape is {held.shape}", "leave the sample out")
    if dtype == "str":
        if held.dtype.kind not in "OU":
            raise DataError(f"{where} is {held.dtype}; the model wants strings")
    elif not np.can_cast(held.dtype, dtype, casting="same_kind"):
        raise DataError(f"{where} is {printable(str(held.dtype), 80)}; the model wants {dtype}")


def _values(array: np.ndarray, dtype: str | None, where: str) -> np.ndarray:
    """The array as the model takes it."""
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
    """Whether an array with infinities is one to be added to scores: 0 where they count, -inf where not."""
    return not np.any(array[array != -np.inf])


def _cast(array: np.ndarray, dtype: str, where: str) -> np.ndarray:
    """The array in the model's type: integers must fit exactly, floats may be rounded but not lost."""
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
