"""Samples as ONNX's own tests have them: test_data_set_N/input_M.pb, a tensor a file, a folder a sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from qtool.data.files import WHOLE_BYTES, UnchangedFiles, shown
from qtool.data.samples import Arrays, LoadedSamples, SourceSpec, Traits
from qtool.errors import DataError, printable

_INPUT = re.compile(r"input_(\d{1,9})\.pb", re.IGNORECASE)

# The files of one sample: number of an input -> its file.
_TestSet = Mapping[int, Path]


def open_backend(source: SourceSpec) -> LoadedSamples[_TestSet]:
    """Return the samples below a folder, or of a folder that is one; output_N.pb are not read.

    A tensor goes to the input of its name, else to the model's input of its file's number.

    Raises:
        DataError: no file is called input_N.pb, or two files of a folder have the same number.
    """
    folders: dict[str, dict[int, Path]] = {}
    for name in source.names:
        path = PurePosixPath(name)
        if not (match := _INPUT.fullmatch(path.name)):
            continue
        folder = str(path.parent) if len(path.parts) > 1 else source.folder.resolve().name
        files = folders.setdefault(folder, {})
        if int(match[1]) in files:
            raise DataError(f"{shown(source.folder / name)}: a second input {int(match[1])}")
        files[int(match[1])] = source.folder / name
    if not folders:
        raise DataError(
            f"'{printable(source.text)}' holds no file input_N.pb (it has: {printable(source.names[0])})",
            "as ONNX's tests have them: test_data_set_0/input_0.pb",
        )
    numbered = list(source.inputs)
    renamed = {new: old for old, new in source.reading.rename.items()}
    unchanged = UnchangedFiles()

    def load(files: _TestSet) -> Arrays:
        arrays: Arrays = {}
        for number, file in sorted(files.items()):
            name, array = _tensor(file, unchanged)
            if name not in source.wanted:
                if number >= len(numbered):
                    raise DataError(
                        f"{shown(file)}: the tensor '{printable(name)}' is no input of the model, which has "
                        f"{len(numbered)}"
                    )
                name = renamed.get(numbered[number], numbered[number])
            if name in arrays:
                raise DataError(f"{shown(file)}: a second value for the input '{printable(name)}'")
            arrays[name] = array
        return arrays

    notes = ("input_N.pb by the tensor's name, else the model's input N",)
    return LoadedSamples(source.text, Traits("onnx", notes), folders, load)


def _tensor(file: Path, files: UnchangedFiles) -> tuple[str, NDArray[np.generic]]:
    """Return the name and the value of the tensor in a file.

    Raises:
        DataError: it is no tensor, has its data in another file, has a type that numpy lacks, or other data
            than its shape says.
    """
    with files.opened(file, WHOLE_BYTES) as stream:
        try:
            tensor = TensorProto.FromString(stream.read())
            if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                raise DataError(f"{shown(file)}: its data is in another file, which samples may not have")
            array = numpy_helper.to_array(tensor)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # protobuf, onnx and numpy raise their own
            raise DataError(
                f"{shown(file)}: not a readable tensor: {printable(str(error), 120)}",
                "sequences and optional values can't be samples",
            ) from error
    if array.dtype == object:
        array = array.astype(str)
    elif array.dtype.kind not in "biufc":
        raise DataError(f"{shown(file)}: its type is {array.dtype}, which numpy lacks")
    return tensor.name, array
