"""A tokenizer, and how its tokens become a model's inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from qtool.data.decoder_inputs import IDS, MASK, POSITIONS, ROLES, TYPES, plain_name
from qtool.data.files import opened, shown
from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.errors import DataError, UsageError, printable

# What tokenizers call padding, where their file does not say.
PADDING = ("[PAD]", "<pad>", "<PAD>", "[pad]")

NAME = "tokenizer.json"
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Padding:
    """The tokens that fill a text up to a fixed length."""

    id: int
    type_id: int
    left: bool


@dataclass(frozen=True)
class Tokens:
    """A tokenizer that is set up for a model.

    Args:
        tokenizer: truncates texts, and does not pad them.
        roles: input -> its role, a row of ROLES.
        model_inputs: those inputs.
        length: of every text, where the model fixes it.
        padding: for a fixed length.
        notes: all of it in words.
    """

    tokenizer: Tokenizer
    roles: dict[str, str]
    model_inputs: ModelInputs
    length: int | None
    padding: Padding | None
    notes: tuple[str, ...]

    def inputs(self, text: str) -> dict[str, NDArray[Any]]:
        """Return the arrays for one text: [1, tokens], or [tokens] where the model has no batch axis.

        Raises:
            DataError: it has no token, the type of the input can't hold a token, or the tokenizer fails.
        """
        with no_panic("the tokenizer"):
            encoding = self.tokenizer.encode(text)
            columns = self._columns(encoding)
        return {name: _cast(columns[role], self.model_inputs[name]) for name, role in self.roles.items()}

    def _columns(self, encoding: Encoding) -> dict[str, NDArray[Any]]:
        ids = np.asarray(encoding.ids, np.int64)
        if not ids.size:
            raise DataError("it has no token")
        columns = {IDS: ids, MASK: np.ones_like(ids), TYPES: np.asarray(encoding.type_ids, np.int64)}
        columns[POSITIONS] = np.arange(ids.size)
        missing = (self.length or ids.size) - ids.size
        if missing <= 0 or self.padding is None:
            return columns
        around = (missing, 0) if self.padding.left else (0, missing)
        filler = {IDS: self.padding.id, MASK: 0, TYPES: self.padding.type_id, POSITIONS: 0}
        return {role: np.pad(c, around, constant_values=filler[role]) for role, c in columns.items()}


def tokens_for(inputs: ModelInputs, reading: Reading, beside: Path | None) -> Tokens:
    """Return the tokenizer of --tokenizer, or the one beside the model, set up for the model's inputs.

    Raises:
        UsageError: there is none, no input takes tokens, or it has no token to pad with.
        DataError: the file is no tokenizer.
    """
    roles = roles_of(inputs, reading.fill)
    taken = {name: inputs[name] for name in roles}
    length = _length(taken)
    file = _file(reading, beside)
    tokenizer = _loaded(file)
    config = tokenizer.truncation or {}
    own = int(config.get("max_length", 0))
    limit = reading.max_tokens or own or length or 0
    limit = min(limit, length) if length else limit
    with no_panic(f"{shown(file)}: the tokenizer"):
        if limit:
            strategy = config.get("strategy", "longest_first")
            side = str(config.get("direction", "right")).lower()
            tokenizer.enable_truncation(limit, stride=0, strategy=strategy, direction=side)
        padding = _padding(tokenizer, file) if length else None
        tokenizer.no_padding()
    if limit and limit <= (special := tokenizer.num_special_tokens_to_add(False)):
        raise UsageError(f"{limit} tokens a text: {special} of them are special ones", "more --max-tokens")
    origin = (
        "the model's" if limit == length else "--max-tokens" if reading.max_tokens else "the tokenizer's own"
    )
    notes = (
        f"tokenizer: {shown(file)}, {tokenizer.get_vocab_size():,} tokens",
        *(f"input '{printable(name)}': {role}" for name, role in roles.items()),
        f"at most {limit} tokens a text ({origin})"
        if limit
        else "texts are not cut: the tokenizer has no limit",
        *((f"padded to {length} with token {padding.id}",) if padding else ()),
    )
    return Tokens(tokenizer, roles, taken, length, padding, notes)


def roles_of(inputs: ModelInputs, filled: Container[str]) -> dict[str, str]:
    """Return input -> role for the inputs that tokens can fill.

    Raises:
        UsageError: none of them takes token ids, or one takes several texts at once.
    """
    wanted = {name: spec for name, spec in inputs.items() if name not in filled}
    roles: dict[str, str] = {}
    for role, names in ROLES.items():
        for common in names:  # the most common name first: a model with input_ids may have another `input`
            own = [n for n, p in wanted.items() if plain_name(n) == common and _takes(p, role)]
            if own:
                roles[own[0]] = role
                break
    if IDS not in roles.values():
        integers = [n for n, p in wanted.items() if n not in roles and _takes(p, IDS) and p.shape is not None]
        if len(integers) != 1:
            has = ", ".join(f"'{printable(n, 60)}' {p}" for n, p in list(wanted.items())[:6])
            raise UsageError(
                f"no input of the model is known to take token ids: {has or 'it has none'}",
                f"known names: {', '.join(ROLES[IDS])}; save samples of other inputs as .npz",
            )
        roles[integers[0]] = IDS
    for name, role in roles.items():
        shape = inputs[name].shape
        if shape and len(shape) == 2 and isinstance(shape[0], int) and shape[0] != 1:
            raise UsageError(
                f"input '{printable(name)}' ({role}) takes {shape[0]} texts at once; a sample has one",
                "export the model with an open batch, or save batches as .npz",
            )
    return roles


def _takes(spec: ModelInput, role: str) -> bool:
    rank = spec.shape is None or len(spec.shape) in (1, 2)
    return rank and (
        spec.dtype.startswith(("int", "uint")) or (role == MASK and spec.dtype not in ("", "str"))
    )


def _length(inputs: ModelInputs) -> int | None:
    """Return the length that the model fixes; None if it is open. `fit` refuses inputs that disagree."""
    for spec in inputs.values():
        if spec.shape and isinstance(spec.shape[-1], int):
            return spec.shape[-1]
    return None


def _file(reading: Reading, beside: Path | None) -> Path:
    if reading.tokenizer:
        return Path(reading.tokenizer)
    if beside is None or not (beside / NAME).exists():
        raise UsageError(
            "texts need the model's tokenizer", f"--tokenizer FILE ({NAME}), or put {NAME} beside the model"
        )
    return beside / NAME


def _loaded(file: Path) -> Tokenizer:
    with opened(file, _MOST_BYTES) as stream, no_panic(f"{shown(file)}: the tokenizer"):
        content = stream.read()
        try:
            return Tokenizer.from_str(content.decode("utf-8"))
        except MemoryError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"{shown(file)}: not a tokenizer: {printable(str(error), 120)}",
                f"{NAME} of Hugging Face's tokenizers; not vocab.txt, tokenizer_config.json or a .model",
            ) from error


def _padding(tokenizer: Tokenizer, file: Path) -> Padding:
    config: dict[str, Any] | None = tokenizer.padding
    if config:
        left = str(config.get("direction", "right")).lower() == "left"
        return Padding(int(config["pad_id"]), int(config.get("pad_type_id", 0)), left)
    for word in PADDING:
        if (number := tokenizer.token_to_id(word)) is not None:
            return Padding(number, 0, False)
    raise UsageError(
        f"{shown(file)} has no token to pad with ({', '.join(PADDING)}); the model wants a fixed length",
        "export the model with an open length, or add a [PAD] token to the tokenizer",
    )


def _cast(column: NDArray[Any], spec: ModelInput) -> NDArray[Any]:
    cast = column.astype(spec.dtype)
    if spec.dtype != "bool" and np.any(cast != column):
        raise DataError(
            f"token {column.max()} does not fit input '{printable(spec.name)}', which is {spec.dtype}"
        )
    return cast if spec.shape is not None and len(spec.shape) == 1 else cast[None]


@contextlib.contextmanager
def no_panic(what: str) -> Iterator[None]:
    """Turn a panic of the library, which is written in Rust and raises no Exception, into a DataError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{what} fails: {printable(str(error), 120)}") from None
