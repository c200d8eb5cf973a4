"""The samples of each model of a folder; decoders beside an encoder get theirs by running it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.commands.folder_files import FolderFiles, FolderModel
from qtool.commands.prepare import load_model, read_samples
from qtool.data.decoder_inputs import IDS, completed, plain_name, role_of
from qtool.data.model_inputs import ModelInputs, inputs_of
from qtool.data.open import Data, is_text
from qtool.data.reading import Reading
from qtool.data.samples import Sample
from qtool.options import Options
from qtool.runtime.session import Session
from qtool.tables.folders import CACHE, DECODER, ENCODER, FED, MERGED, PAST, PRESENT

_START = "decoder_start_token_id"
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
        mine = _own(files, model, data)
        if not isinstance(mine, str | Path) or not is_text(mine, kind):
            return mine
        return _fed(files, model, mine, reading, kind) or mine

    calib = options.calib if options.estimates else own(options.calib, options.calib_format)
    return replace(options, reading=reading, calib=calib, data=own(options.data, options.data_format))


def _own(files: FolderFiles, model: FolderModel, data: Data | None) -> Data | None:
    """Return the samples of a model; None where there are none, though other models have some."""
    if not isinstance(data, str | Path):
        return data
    folders = {key for other in files.models for key in other.keys if (Path(data) / key).is_dir()}
    if not folders:
        return data
    return next((str(Path(data) / key) for key in model.keys if key in folders), None)


def _fed(
    files: FolderFiles, model: FolderModel, data: str | Path, reading: Reading, kind: str
) -> DecoderSamples | None:
    """Return the samples of a decoder that takes what an encoder beside it gives; None for other models."""
    beside = {
        other.role: files.root / other.name
        for other in files.models
        if Path(other.name).parent == Path(model.name).parent
    }
    first = beside.get(DECODER) or beside.get(MERGED)
    if model.role not in (DECODER, PAST, MERGED) or ENCODER not in beside or first is None:
        return None
    inputs = inputs_of(load_model(files.root / model.name).model)
    try:
        config = json.loads((first.parent / "config.json").read_text(encoding="utf-8"))
        start = int(config.get(_START) or 0)
    except (OSError, ValueError, AttributeError, TypeError):
        start = 0
    return DecoderSamples(beside[ENCODER], first, inputs, (data, reading, kind), start)


@dataclass(frozen=True)
class DecoderSamples:
    """Samples of a decoder: texts pass the encoder, and the decoder is to say them again.

    Args:
        encoder: the model that texts pass.
        first: the decoder that runs without a cache, and fills it for one that needs it.
        inputs: of the model that these are for.
        texts: the source, how it is read, and its kind.
        start: the token that the decoder begins with.
    """

    encoder: Path
    first: Path
    inputs: ModelInputs
    texts: tuple[str | Path, Reading, str]
    start: int

    @cached_property
    def _encoded(self) -> Any:
        data, reading, kind = self.texts
        return read_samples(load_model(self.encoder), data, reading, kind)

    @cached_property
    def _first_inputs(self) -> ModelInputs:
        return inputs_of(load_model(self.first).model)

    def __len__(self) -> int:
        return len(self._encoded)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        encoder, first = Session(self.encoder), None
        cached = any(name.startswith(CACHE) for name in self.inputs)
        for number, sample in enumerate(self._encoded.read()):
            outputs = dict(zip(encoder.outputs, encoder.run(sample.inputs), strict=True))
            ids = np.atleast_2d(next(a for name, a in sample.inputs.items() if role_of(name) == IDS))
            said = np.concatenate([np.full_like(ids[:, :1], self.start), ids[:, :-1]], axis=1)
            arrays = {f"encoder_{plain_name(name)}": array for name, array in sample.inputs.items()}
            arrays |= {FED[name]: array for name, array in outputs.items() if name in FED}
            # A merged decoder has a branch for each: of eight samples four have a cache. The split takes
            # them in fours, so that each of its sets has both kinds.
            if not cached or (self._merged and number // 4 % 2 == 0):
                yield self._arrays(self.inputs, arrays | {"input_ids": said}, str(number))
                continue
            first = first or Session(self.first)
            feeds = self._arrays(self._first_inputs, arrays | {"input_ids": said}, str(number))
            present = dict(zip(first.outputs, first.run(feeds), strict=True))
            past = {name.replace(PRESENT, CACHE, 1): array for name, array in present.items()}
            yield self._arrays(self.inputs, arrays | past | {"input_ids": ids[:, -1:]}, str(number))

    @property
    def _merged(self) -> bool:
        return "use_cache_branch" in self.inputs

    def _arrays(
        self, inputs: ModelInputs, arrays: Mapping[str, NDArray[Any]], name: str
    ) -> dict[str, NDArray[Any]]:
        """Return the inputs among the arrays, in their types, with an empty cache where they lack one."""
        own = {n: array.astype(inputs[n].dtype) for n, array in arrays.items() if n in inputs}
        return dict(completed(inputs, Sample(name, own)))
