"""The samples of each model of a folder; decoders beside an encoder get theirs by running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.commands.folder_files import FolderFiles, FolderModel
from qtool.commands.prepare import load_model, read_samples
from qtool.data.decoder_inputs import IDS, completed, plain_name, role_of
from qtool.data.model_inputs import ModelInputs, inputs_of
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.data.samples import Sample
from qtool.options import Options
from qtool.runtime.session import Session
from qtool.tables.folders import CACHE, DECODER, ENCODER, FED, MERGED, PAST, PRESENT

_START, _END = "decoder_start_token_id", "eos_token_id"
_MOST_TOKENS = 16  # that a decoder says of a sample that is no text
TOKENIZER = "tokenizer.json"


def options_for(files: FolderFiles, model: FolderModel, options: Options) -> Options:
    """Return the options of one model: with its own samples, and the tokenizer of the folder.

    Raises:
        QtoolError: as reading the samples does.
    """
    reading, beside = options.reading, (files.root / model.name).parent
    if reading.tokenizer is None and not (beside / TOKENIZER).exists() and (files.root / TOKENIZER).exists():
        reading = replace(reading, tokenizer=files.root / TOKENIZER)

    def own(data: Data | None, kind: str) -> Data | None:
        return _fed(files, model, data, reading, kind) or _own(files, model, data)

    calib = options.calib if options.estimates else own(options.calib, options.calib_format)
    return replace(options, reading=reading, calib=calib, data=own(options.data, options.data_format))


def _own(files: FolderFiles, model: FolderModel, data: Data | None) -> Data | None:
    """Return the samples of a model; None where there are none, though other models have some."""
    folders = _folders(files, data)
    if not folders:
        return data
    return next((folders[key] for key in model.keys if key in folders), None)


def _folders(files: FolderFiles, data: Data | None) -> dict[str, str]:
    """Return the folders of a source that are of one model each: its name or role -> the folder."""
    if not isinstance(data, str | Path):
        return {}
    keys = (key for model in files.models for key in model.keys)
    return {key: str(Path(data) / key) for key in keys if (Path(data) / key).is_dir()}


def _fed(
    files: FolderFiles, model: FolderModel, data: Data | None, reading: Reading, kind: str
) -> DecoderSamples | None:
    """Return the samples of a decoder that takes what an encoder beside it gives; None for other models.

    They are made of the samples of the encoder, unless the decoder has a folder of its own.
    """
    beside = {
        other.role: other
        for other in files.models
        if PurePosixPath(other.name).parent == PurePosixPath(model.name).parent
    }
    first = beside.get(DECODER) or beside.get(MERGED)
    if model.role not in (DECODER, PAST, MERGED) or ENCODER not in beside or first is None:
        return None
    data = None if _folders(files, data).keys() & {*model.keys} else _own(files, beside[ENCODER], data)
    if not isinstance(data, str | Path) or not Path(data).exists():
        return None
    inputs = inputs_of(load_model(files.root / model.name).model)
    if not any(name in FED.values() or name.startswith(CACHE) for name in inputs):
        return None
    encoder, decoder = files.root / beside[ENCODER].name, files.root / first.name
    start, end = _start_and_end(decoder.with_name("config.json"))
    return DecoderSamples(encoder, decoder, inputs, (data, reading, kind), start, end)


def _start_and_end(config: Path) -> tuple[int, int]:
    """Return the tokens that a decoder begins and ends with; by default 0 and -1."""
    try:
        table = json.loads(config.read_text(encoding="utf-8"))
        start, end = table.get(_START) or 0, table.get(_END)
        return int(start), int(end[0] if isinstance(end, list) else -1 if end is None else end)
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return 0, -1


@dataclass(frozen=True)
class DecoderSamples:
    """Samples of a decoder beside an encoder, whose samples they are made of.

    The decoder is to repeat a text; of another sample it says what it finds most likely.

    Args:
        encoder: the model that the samples are of.
        first: the decoder that runs without a cache, and fills it for one that needs it.
        inputs: of the model that these are for.
        source: of the encoder's samples, how it is read, and its kind.
        start, end: the tokens that the decoder begins with and ends with.
    """

    encoder: Path
    first: Path
    inputs: ModelInputs
    source: tuple[str | Path, Reading, str]
    start: int
    end: int

    @cached_property
    def _encoded(self) -> Any:
        data, reading, kind = self.source
        return read_samples(load_model(self.encoder), data, reading, kind)

    @cached_property
    def _first_inputs(self) -> ModelInputs:
        return inputs_of(load_model(self.first).model)

    def __len__(self) -> int:
        return len(self._encoded)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        encoder, opened = Session(self.encoder), cache(lambda: Session(self.first))
        cached = any(name.startswith(CACHE) for name in self.inputs)
        for number, sample in enumerate(self._encoded.read()):
            outputs = dict(zip(encoder.outputs, encoder.run(sample.inputs), strict=True))
            arrays = {f"encoder_{plain_name(name)}": array for name, array in sample.inputs.items()}
            arrays |= {FED[name]: array for name, array in outputs.items() if name in FED}

            def decoded(said: NDArray[Any], arrays: Any = arrays, name: str = str(number)) -> dict[str, Any]:
                first, feeds = opened(), self._arrays(self._first_inputs, arrays | {"input_ids": said}, name)
                return dict(zip(first.outputs, first.run(feeds), strict=True))

            texts = [np.atleast_2d(a) for name, a in sample.inputs.items() if role_of(name) == IDS]
            if not texts and number not in self._answers:
                self._answers[number] = self._answer(decoded, len(outputs[encoder.outputs[0]]))
            ids = texts[0] if texts else self._answers[number]
            said = np.concatenate([np.full_like(ids[:, :1], self.start), ids[:, :-1]], axis=1)
            # A merged decoder has a branch for each: of eight samples four have a cache. The split takes
            # them in fours, so that each of its sets has both kinds.
            if not cached or (self._merged and number // 4 % 2 == 0):
                yield self._arrays(self.inputs, arrays | {"input_ids": said}, str(number))
                continue
            past = {name.replace(PRESENT, CACHE, 1): array for name, array in decoded(said).items()}
            yield self._arrays(self.inputs, arrays | past | {"input_ids": ids[:, -1:]}, str(number))

    @cached_property
    def _answers(self) -> dict[int, NDArray[Any]]:
        """The tokens that the decoder says of each sample, found in the first pass."""
        return {}

    def _answer(self, decoded: Callable[[NDArray[Any]], dict[str, Any]], batch: int) -> NDArray[Any]:
        """Return the tokens, most likely first, that the decoder says of a sample."""
        said = np.full((batch, 1), self.start, np.int64)
        while said.shape[1] <= _MOST_TOKENS and not (said[:, 1:] == self.end).any():
            best = decoded(said)["logits"][:, -1:].argmax(-1)
            said = np.concatenate([said, best], axis=1)
        return said[:, 1:]

    @property
    def _merged(self) -> bool:
        return "use_cache_branch" in self.inputs

    def _arrays(
        self, inputs: ModelInputs, arrays: Mapping[str, NDArray[Any]], name: str
    ) -> dict[str, NDArray[Any]]:
        """Return the inputs among the arrays, in their types, with an empty cache where they lack one."""
        own = {n: array.astype(inputs[n].dtype) for n, array in arrays.items() if n in inputs}
        return dict(completed(inputs, Sample(name, own)))
