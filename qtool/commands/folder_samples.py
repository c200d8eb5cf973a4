"""The samples of each model of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qtool.commands.folder_files import FolderFiles, FolderModel
from qtool.data.open import Data
from qtool.options import Options

TOKENIZER = "tokenizer.json"


def options_for(files: FolderFiles, model: FolderModel, options: Options) -> Options:
    """Return the options of one model: with its own samples, and the tokenizer of the folder.

    Raises:
        QtoolError: as reading the samples does.
    """
    reading, beside = options.reading, (files.root / model.name).parent
    if reading.tokenizer is None and not (beside / TOKENIZER).exists() and (files.root / TOKENIZER).exists():
        reading = replace(reading, tokenizer=files.root / TOKENIZER)
    calib = options.calib if options.estimates else _own(files, model, options.calib)
    return replace(options, reading=reading, calib=calib, data=_own(files, model, options.data))


def _own(files: FolderFiles, model: FolderModel, data: Data | None) -> Data | None:
    """Return the samples of a model; None where there are none, though other models have some."""
    if not isinstance(data, str | Path):
        return data
    folders = {key for other in files.models for key in other.keys if (Path(data) / key).is_dir()}
    if not folders:
        return data
    return next((str(Path(data) / key) for key in model.keys if key in folders), None)
