"""A decoder run as it is used: token by token, its key-value cache going from each step to the next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.data.decoder_inputs import (
    MASK,
    NUMBERS,
    cache_axes,
    past_length,
    plain_name,
    role_of,
    token_ids,
)
from qtool.errors import DataError, ModelError, printable
from qtool.evaluate.reference_outputs import ReferenceOutputs
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Feeds, Model, Sample

_SUFFIX = " (token by token)"
# What exporters call an entry of the cache as an input and as an output, before its number.
_SIDES = re.compile(r"past_key_values?|present_key_values?|past|present")


def is_stepped(output: str) -> bool:
    """Whether an output holds the scores of all steps of a decoder."""
    return output.endswith(_SUFFIX)


def stepped(model: Model, output: str = "") -> Model:
    """Return the model with one more output, the scores of all steps; a model without a cache as it is.

    Args:
        model: any.
        output: the scores; '': 'logits', or the first output that is no cache.

    Raises:
        DataError: the model is a file of outputs, and was made without such steps.
        ModelError: there is no such output, or a cache has no output that continues it.
    """
    caches = cache_axes(model.inputs)
    if not caches or any(map(is_stepped, model.outputs)):
        return model
    if isinstance(model, ReferenceOutputs):
        raise DataError(
            f"{printable(model.name)}: it has no outputs of single tokens",
            "make it anew with the same --metric, or judge whole texts: --metric perplexity:cache=0",
        )
    return TokenByToken(model, Cache.of(model, caches), output)


@dataclass(frozen=True)
class Cache:
    """The key-value cache of a decoder.

    Args:
        axes: input -> the axis that grows; None: a state of a fixed size.
        outputs: input -> the output that continues it.
    """

    axes: Mapping[str, int | None]
    outputs: Mapping[str, str]

    @classmethod
    def of(cls, model: Model, axes: Mapping[str, int | None]) -> Cache:
        """Match inputs and outputs by name: past_key_values.0.key with present.0.key, past_1 with present_1.

        Raises:
            ModelError: an input has no such output.
        """
        by_name = {_key(name): name for name in model.outputs if "present" in name.lower()}
        outputs = {name: by_name[_key(name)] for name in axes if _key(name) in by_name}
        if missing := [name for name in axes if name not in outputs]:
            raise ModelError(
                f"{model.name}: no output continues the cache '{printable(missing[0])}'",
                "judge whole texts: --metric perplexity:cache=0",
            )
        return cls(axes, outputs)


class TokenByToken:
    """A decoder with one more output, `NAME (token by token)`: the scores of all tokens, a run for each.

    Args:
        model: with a cache.
        cache: its inputs and outputs.
        output: the scores; '': found out.
    """

    def __init__(self, model: Model, cache: Cache, output: str = "") -> None:
        self._model, self._cache = model, cache
        self.name, self.inputs, self.input_dtypes = model.name, model.inputs, model.input_dtypes
        others = [name for name in model.outputs if name not in cache.outputs.values()]
        if (output and output not in others) or not others:
            raise ModelError(
                f"{model.name}: no output '{printable(output or 'logits')}' beside the cache"
                f" (it has: {printable(', '.join(others), 120) or 'none'})"
            )
        self._scores = output or ("logits" if "logits" in others else others[0])
        self.outputs = [*model.outputs, self._scores + _SUFFIX]
        shapes = model.output_shapes
        self.output_shapes = {**shapes, self._scores + _SUFFIX: shapes[self._scores]}

    def run(self, sample: Sample, outputs: Sequence[str] | None = None) -> list[Any]:
        """Return the named outputs (all of them when None) for one sample.

        Raises:
            RuntimeFailure: the runtime failed on it.
        """
        names = self.outputs if outputs is None else list(outputs)
        plain = [name for name in names if not is_stepped(name)]
        values = dict(zip(plain, self._model.run(sample, plain), strict=True)) if plain else {}
        if len(plain) < len(names):
            values[self.outputs[-1]] = self._steps(sample)
        return [values[name] for name in names]

    def _steps(self, sample: Sample) -> np.ndarray:
        """The scores [batch, tokens, classes] of all tokens of a sample, after the cache that it brings."""
        arrays = {name: np.asarray(array) for name, array in sample.items()}
        ids = token_ids(arrays)
        if ids is None:
            where = sample.where if isinstance(sample, Feeds) else self.name
            raise DataError(f"{where}: no input is known to hold token ids, which are fed one at a time")
        count, past = ids.shape[-1], past_length(self._cache.axes, arrays)
        cache = {name: arrays[name] for name in self._cache.axes}
        fetched = [self._scores, *self._cache.outputs.values()]
        rows = []
        for step in range(count):
            inputs = {n: _at(n, a, step, count, past) for n, a in arrays.items() if n not in cache} | cache
            feeds = Feeds(inputs, sample.where) if isinstance(sample, Feeds) else inputs
            scores, *presents = self._model.run(feeds, fetched)
            cache = dict(zip(self._cache.outputs, presents, strict=True))
            rows.append(np.asarray(scores).reshape(-1, 1, np.shape(scores)[-1]))
            beat()
        if any(len(row) != len(rows[0]) for row in rows):
            raise ModelError(f"{self.name}: '{printable(self._scores)}' has no row a token")
        return np.concatenate(rows, axis=1)


def _at(name: str, array: np.ndarray, step: int, count: int, past: int) -> np.ndarray:
    """The part of an input for one token of `count`: its own, the mask up to it, or a number of tokens."""
    if (number := NUMBERS.get(plain_name(name))) is not None:
        return np.full_like(array, number(past + step, 1))
    if role_of(name) == MASK and array.ndim in (1, 2):
        return array[..., : array.shape[-1] - count + step + 1]
    if array.dtype.kind in "iu" and array.ndim in (1, 2) and array.shape[-1] == count:
        return array[..., step : step + 1]
    return array


def _key(name: str) -> tuple[str, ...]:
    """The parts of a cache's name, without those that tell an input from an output."""
    return tuple(re.findall(r"[a-z]+|\d+", _SIDES.sub("", plain_name(name))))
