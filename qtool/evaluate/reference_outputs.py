"""FP32 outputs in a file, to judge models where the FP32 model itself is not at hand.

The file is an .npz archive: `meta`, a JSON document, and an array `SAMPLE.OUTPUT` (two numbers) for each
output and sample. A sample is identified by the digest of its arrays, so no other sample can be taken for it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qtool.data.files import UnchangedFiles
from qtool.data.npz import read_npz
from qtool.data.samples import Sample, digest_of
from qtool.errors import DataError, ModelError, printable
from qtool.evaluate.float_io import InputInfo
from qtool.runtime.session import Model

SCHEMA = "qtool.reference/1"
_META = "meta"
# The directory of an archive is read anew for each sample, which is slow with more arrays.
_MOST_ARRAYS = 15_000
_MOST_BYTES = 1 << 42


@dataclass(frozen=True)
class Original:
    """The model that produced the outputs: its path as given, bytes and sha256 with external data."""

    path: str
    bytes: int
    sha256: str


class ReferenceWriter:
    """A model whose outputs are written to a file while it runs.

    Args:
        model: the model to run.
        original: its file.
        path: the archive to write; the caller renames it when everything has succeeded.
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
        """Run the model, write all of its outputs, and return the named ones.

        Raises:
            DataError: the file would hold too many arrays.
            ModelError: an output is not a tensor.
        """
        values = self._model.run(sample)
        index = len(self._digests)
        for number, (name, value) in enumerate(zip(self.outputs, values, strict=True)):
            if not isinstance(value, np.ndarray | np.generic):
                raise ModelError(
                    f"output '{printable(name)}' is a {type(value).__name__}: only tensors can be saved"
                )
            array = np.asarray(value)
            self._write(f"{index}.{number}", array.astype(str) if array.dtype == object else array)
        self._digests.append(digest(sample))
        if len(self._digests) * len(self.outputs) >= _MOST_ARRAYS:
            raise DataError(
                f"more than {_MOST_ARRAYS:,} outputs in one reference file", "--samples N for fewer samples"
            )
        by_name = dict(zip(self.outputs, values, strict=True))
        return [by_name[n] for n in outputs] if outputs is not None else values

    def close(self) -> None:
        """Write the metadata, which completes the file."""
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
        # Opened by name, an entry has a fixed date: the same outputs give the same file.
        with self._archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, np.asanyarray(array), version=(1, 0), allow_pickle=False)


class ReferenceOutputs:
    """The outputs in a file, as the FP32 model of `compare`.

    Raises:
        DataError: the file can't be read, or is not a file of reference outputs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = UnchangedFiles()
        name = printable(str(path))
        try:
            meta = json.loads(str(self._read(_META)))
            if meta["schema"] != SCHEMA:
                raise DataError(f"{name}: not a reference of this version ({SCHEMA})")
            self.original = Original(
                str(meta["original"]["path"]), int(meta["original"]["bytes"]), str(meta["original"]["sha256"])
            )
            self.inputs = {k: InputInfo(list(v["shape"]), str(v["type"])) for k, v in meta["inputs"].items()}
            self.input_dtypes: dict[str, str | None] = dict(meta["dtypes"])
            self.outputs = [str(n) for n in meta["outputs"]]
            self.output_shapes = {k: list(v) for k, v in meta["output_shapes"].items()}
            self._index = {str(digest): i for i, digest in enumerate(meta["samples"])}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{name}: not a file of FP32 outputs: {printable(str(error), 80)}", "--save-ref makes one"
            ) from error
        self.name = f"{self.original.path} (outputs from {name})"

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """Return the named outputs (all of them when None) that the model gave for this sample.

        Raises:
            DataError: the file has no outputs for it, or is damaged.
        """
        index = self._index.get(digest(sample))
        if index is None:
            raise DataError(
                f"{printable(str(self._path))} has no outputs for this sample",
                "use the samples that the file was made with, read with the same options",
            )
        names = self.outputs if outputs is None else list(outputs)
        try:
            arrays = [self._read(f"{index}.{self.outputs.index(name)}") for name in names]
        except KeyError as error:
            raise DataError(f"{printable(str(self._path))}: an output is missing") from error
        return [a.astype(object) if a.dtype.kind == "U" else a for a in arrays]

    def _read(self, key: str) -> np.ndarray:
        return read_npz(self._path, self._files, {key}, _MOST_ARRAYS + 1, _MOST_BYTES)[key]


def digest(sample: Mapping[str, Any]) -> str:
    """Return a digest of a model's inputs: names, types, shapes and values."""
    return f"{digest_of(Sample('', sample)):064x}"
