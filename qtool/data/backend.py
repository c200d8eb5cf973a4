"""The layout of ONNX's own tests: test_data_set_*/input_N.pb, one sample a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qtool.data.files import Unchanged, shown
from qtool.data.found import Found
from qtool.data.protobuf import tensor_in
from qtool.data.samples import Arrays, Sample, Traits
from qtool.errors import DataError, printable

_INPUT = re.compile(r"input_(\d{1,9})\.pb", re.IGNORECASE)


@dataclass(frozen=True)
class _Set:
    """The files of one sample: position of an input -> its file."""

    name: str
    files: Mapping[int, Path]


def open_backend(found: Found) -> TestSets:
    """The samples below a folder, or of a folder that is one.

    Raises:
        DataError: no file is called input_N.pb, or two of a folder have one number.
    """
    folders: dict[str, dict[int, Path]] = {}
    for name in found.names:
        path = PurePosixPath(name)
        if not (match := _INPUT.fullmatch(path.name)):
            continue
        files = folders.setdefault("" if path.parent == PurePosixPath() else str(path.parent), {})
        if files.setdefault(int(match[1]), found.folder / name) != found.folder / name:
            raise DataError(f"{shown(found.folder / name)}: a second input {int(match[1])}")
    if not folders:
        raise DataError(
            f"'{printable(found.text)}' holds no file input_N.pb (it has: {printable(found.names[0])})",
            "as ONNX's tests have them: test_data_set_0/input_0.pb",
        )
    return TestSets(found, [_Set(folder or found.folder.resolve().name, f) for folder, f in folders.items()])


class TestSets:
    """Samples of folders of input_N.pb; output_N.pb, beside them, are not read.

    Args:
        found: what the model wants.
        sets: in order.

    Raises:
        DataError: when read: a file that holds no tensor, or one that is no input of the model.
    """

    __test__ = False  # pytest takes it for a test by its name

    def __init__(self, found: Found, sets: list[_Set]) -> None:
        self.name = found.text
        self.traits = Traits("onnx", ("input_N.pb by the tensor's name, else the model's input N",))
        self._sets = sets
        self._positions = list(found.inputs)
        self._wanted = found.wanted
        self._renamed = {new: old for old, new in found.reading.rename.items()}
        self._unchanged = Unchanged()

    def __len__(self) -> int:
        return len(self._sets)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, test in enumerate(self._sets):
            if positions is None or index in positions:
                yield Sample(test.name, self._inputs(test))

    def _inputs(self, test: _Set) -> Arrays:
        arrays: Arrays = {}
        for number, file in sorted(test.files.items()):
            name, array = tensor_in(file)
            if name not in self._wanted:
                name = self._at(number, name, file)
            if name in arrays:
                raise DataError(f"{shown(file)}: a second value for the input '{printable(name)}'")
            arrays[name] = array
        return arrays

    def _at(self, number: int, name: str, file: Path) -> str:
        """What samples call the input at a position, where the tensor's own name is none."""
        if number >= len(self._positions):
            raise DataError(
                f"{shown(file)}: the tensor '{printable(name)}' is no input of the model, which has "
                f"{len(self._positions)}",
            )
        found = self._positions[number]
        return self._renamed.get(found, found)
