"""Golden runs: FP32's outputs in a file, to judge models by where the FP32 model is not.

The file is an .npz: `meta`, a JSON document, and an array `SAMPLE.OUTPUT` (two numbers) an output and sample.
Samples are known by the digest of what the model was fed, so that no other is mistaken for one of them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qtool.calibrate.serial import digest_of
from qtool.data.archive import Archive
from qtool.data.samples import Sample
from qtool.errors import DataError, ModelError, printable
from qtool.runtime.session import Model

SCHEMA = "qtool.reference/1"
_META = "meta"
# The directory of an archive is read at once, and more would not be.
_MOST_ARRAYS = 15_000
_MOST_BYTES = 1 << 42


@dataclass(frozen=True)
class Original:
    """The model whose outputs they are: path as it was called, bytes and sha256 with external data."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class KnownInput:
    """What the runtime said of an input."""

    shape: list[int | str | None]
    type: str


class Recorder:
    """A model whose outputs are kept while it runs.

    Args:
        model: to be run.
        original: the file it is of.
        path: the archive to write; the caller moves it to where it belongs when all went well.
    """

    def __init__(self, model: Model, original: Original, path: Path) -> None:
        self._model = model
        self._original = original
        self._digests: list[str] = []
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self.name = model.name
        self.inputs = model.inputs
        self.input_dtypes = model.input_dtypes
        self.outputs = model.outputs
        self.output_shapes = model.output_shapes

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """All outputs, whatever is asked for is among them.

        Raises:
            ModelError: an output is no tensor.
        """
        found = self._model.run(sample)
        index = len(self._digests)
        for number, (name, value) in enumerate(zip(self.outputs, found, strict=True)):
            if not isinstance(value, np.ndarray | np.generic):
                raise ModelError(
                    f"output '{printable(name)}' is a {type(value).__name__}, which can't be kept"
                )
            array = np.asarray(value)
            self._write(f"{index}.{number}", array.astype(str) if array.dtype == object else array)
        self._digests.append(digest(sample))
        if len(self._digests) * len(self.outputs) >= _MOST_ARRAYS:
            raise DataError(
                f"more than {_MOST_ARRAYS:,} outputs in one reference file", "--samples N for fewer samples"
            )
        by_name = dict(zip(self.outputs, found, strict=True))
        return [by_name[n] for n in outputs] if outputs is not None else found

    def close(self) -> None:
        """Write what they are of; the file is whole then."""
        meta = {
            "schema": SCHEMA,
            "original": asdict(self._original),
            "inputs": {k: {"shape": list(v.shape), "type": v.type} for k, v in self.inputs.items()},
            "dtypes": self.input_dtypes,
            "outputs": self.outputs,
            "output_shapes": self.output_shapes,
            "samples": self._digests,
        }
        self._write(_META, np.array(json.dumps(meta)))
        self._archive.close()

    def _write(self, key: str, array: np.ndarray) -> None:
        # Without a time: the same outputs give the same file.
        info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_DEFLATED
        with self._archive.open(info, "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, np.asanyarray(array), version=(1, 0), allow_pickle=False)


class Recorded:
    """The outputs of a model that is not here, as if it was run.

    Raises:
        DataError: the file can't be read, or is none of these.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = Archive(path, _MOST_ARRAYS + 1, _MOST_BYTES)
        name = printable(str(path))
        try:
            meta = json.loads(str(self._archive.read(_META)))
            if meta["schema"] != SCHEMA:
                raise DataError(f"{name}: not a reference of this version ({SCHEMA})")
            self.original = Original(
                str(meta["original"]["path"]), int(meta["original"]["bytes"]), str(meta["original"]["sha256"])
            )
            self.inputs = {k: KnownInput(list(v["shape"]), str(v["type"])) for k, v in meta["inputs"].items()}
            self.input_dtypes: dict[str, str | None] = dict(meta["dtypes"])
            self.outputs = [str(n) for n in meta["outputs"]]
            self.output_shapes = {k: list(v) for k, v in meta["output_shapes"].items()}
            self._index = {str(digest): i for i, digest in enumerate(meta["samples"])}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{name}: not a file of FP32 outputs: {printable(str(error), 80)}", "--save-ref makes one"
            ) from error
        self.name = f"{self.original.path} (as {name} has it)"

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """What the model gave for this very sample.

        Raises:
            DataError: it was never run on it.
        """
        index = self._index.get(digest(sample))
        if index is None:
            raise DataError(
                f"{printable(str(self._path))} has no outputs for this sample",
                "the very samples that it was made with, read in the same way",
            )
        names = self.outputs if outputs is None else list(outputs)
        try:
            found = [self._archive.read(f"{index}.{self.outputs.index(name)}") for name in names]
        except KeyError as error:
            raise DataError(f"{printable(str(self._path))}: an output is missing") from error
        return [a.astype(object) if a.dtype.kind == "U" else a for a in found]


def digest(sample: Mapping[str, Any]) -> str:
    """A text that stands for what a model was fed: names, types, shapes and values of all inputs."""
    arrays = {k: a.astype(str) if a.dtype == object else a for k, a in sample.items()}
    return f"{digest_of(Sample('', arrays)):064x}"
