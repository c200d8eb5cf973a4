"""The inputs of language models: the role of each, and those that a decoder's samples need not have.

A decoder with a key-value cache takes the keys and values of earlier tokens. A sample of token ids alone
stands for a text from its start: the cache is empty, and mask and positions follow from their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.samples import Arrays, Sample

# What the inputs of text models are called, by what they hold; the commonest name first.
IDS = "token ids"
MASK = "1 for tokens, 0 for padding"
TYPES = "segment of each token"
POSITIONS = "position of each token"

# Compared in lower case, and without what exporters add: input_ids:0.
ROLES: dict[str, tuple[str, ...]] = {
    IDS: ("input_ids", "input", "inputs", "tokens", "ids", "token_ids", "input_tokens"),
    MASK: ("attention_mask", "input_mask", "mask", "padding_mask"),
    TYPES: ("token_type_ids", "segment_ids", "token_types"),
    POSITIONS: ("position_ids", "positions"),
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names} | {"cache_position": POSITIONS}

# Inputs of decoders that hold one number: from the tokens in the cache, and those that come now.
NUMBERS: dict[str, Callable[[int, int], int]] = {
    "seqlens_k": lambda past, new: past + new - 1,
    "total_sequence_length": lambda past, new: past + new,
    "past_sequence_length": lambda past, new: past,
    "use_cache_branch": lambda past, new: int(past > 0),
}

# past_key_values.0.key, past_key_0, past_0, past.0.value, past_conv.0: at least two axes beside the batch.
_PAST = re.compile(r"(?:^|[._/])past(?=$|[._/])")
_LEAST_AXES = 3
# States of a fixed size, which begin as zeros.
_STATES = re.compile(r"conv|state|ssm|recurrent")


class Shaped(Protocol):
    """The runtime's description of an input, or a ModelInput."""

    @property
    def shape(self) -> Sequence[int | str | None] | None: ...


def plain_name(name: str) -> str:
    """Return a name in lower case, without what exporters add."""
    return name.split(":")[0].lower()


def role_of(name: str) -> str:
    """Return the role that the name of an input tells, of ROLES; '' for none."""
    return _ROLE_OF.get(plain_name(name), "")


def token_ids(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Return the token ids of a sample, [tokens] or [batch, tokens]: by name, else its only integers."""
    integers = {n: np.asarray(a) for n, a in arrays.items()}
    integers = {n: a for n, a in integers.items() if a.dtype.kind in "iu" and a.ndim in (1, 2)}
    by_name = [a for name, a in integers.items() if role_of(name) == IDS]
    others = [a for name, a in integers.items() if not role_of(name) and plain_name(name) not in NUMBERS]
    return by_name[0] if by_name else others[0] if len(others) == 1 else None


def cache_axes(inputs: Mapping[str, Shaped]) -> dict[str, int | None]:
    """Return the inputs that are caches or states: each with the axis that grows; None where none does.

    The axis that grows is open, and is not that of the batch.
    """
    ids = next((spec.shape for name, spec in inputs.items() if role_of(name) == IDS), None)
    batch = ids[0] if ids and isinstance(ids[0], str) else "batch"
    axes: dict[str, int | None] = {}
    for name, spec in inputs.items():
        if not _PAST.search(plain_name(name)) or spec.shape is None or len(spec.shape) < _LEAST_AXES:
            continue
        open_axes = [i for i, axis in enumerate(spec.shape) if not (isinstance(axis, int) and axis > 0)]
        batches = [i for i in open_axes if spec.shape[i] == batch or "batch" in str(spec.shape[i]).lower()]
        if not batches and len(open_axes) > 1:
            batches = open_axes[:1]
        axes[name] = max(set(open_axes) - set(batches), default=None)
    return axes


def unneeded_inputs(inputs: ModelInputs) -> set[str]:
    """Return the inputs that samples of a decoder may lack; none for other models."""
    caches = cache_axes(inputs)
    if not caches:
        return set()
    empty = {name for name, axis in caches.items() if axis is not None or _STATES.search(name.lower())}
    others = {n for n in inputs if plain_name(n) in NUMBERS or role_of(n) not in ("", IDS)}
    return {name for name in empty | others if inputs[name].dtype not in ("", "str")}


def completed(inputs: ModelInputs, sample: Sample) -> Arrays:
    """Return the arrays of a decoder's sample with those that it lacks: an empty cache, a mask, positions.

    A sample without token ids stays as it is.
    """
    ids = token_ids(sample.inputs)
    lacking = unneeded_inputs(inputs) - sample.inputs.keys()
    if ids is None or not lacking:
        return dict(sample.inputs)
    caches = cache_axes(inputs)
    batch, count = (ids.shape[0] if ids.ndim > 1 else 1), ids.shape[-1]
    past = past_length(caches, sample.inputs)

    rows = {MASK: np.ones(past + count), POSITIONS: np.arange(past, past + count), TYPES: np.zeros(count)}

    def made(spec: ModelInput) -> NDArray[Any]:
        lengths = [axis if isinstance(axis, int) else batch for axis in spec.shape or ()]
        if spec.name in caches:
            growing = caches[spec.name]
            return np.zeros([0 if i == growing else n for i, n in enumerate(lengths)], spec.dtype)
        if (number := NUMBERS.get(plain_name(spec.name))) is not None:
            return np.full(lengths, number(past, count), spec.dtype)
        row = rows[role_of(spec.name)].astype(spec.dtype)
        return np.broadcast_to(row, (batch, row.size) if len(lengths) > 1 else row.shape)

    return {**sample.inputs, **{name: made(inputs[name]) for name in sorted(lacking)}}


def past_length(caches: Mapping[str, int | None], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return the number of tokens in the caches of a sample."""
    grown = ((arrays[name], axis) for name, axis in caches.items() if axis is not None and name in arrays)
    return next((array.shape[axis] for array, axis in grown), 0)
