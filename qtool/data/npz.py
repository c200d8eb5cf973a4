"""A directory of .npz files: one sample a file, keys are input names."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from qtool.data.archive import Archive
from qtool.data.files import Unchanged
from qtool.data.found import Found
from qtool.data.samples import Sample, Traits


def open_npz(found: Found) -> NpzFiles:
    """The samples of a directory of .npz, or of one such file."""
    return NpzFiles(found.folder, found.names, found.text)


class NpzFiles:
    """Samples of .npz files, in the order given.

    Args:
        folder: where the files are.
        names: relative to it; at least one.
        name: of the source, for messages.

    Raises:
        DataError: when read: a file that is no archive of plain arrays, or another one than the last time.
    """

    def __init__(self, folder: Path, names: list[str], name: str) -> None:
        self.files = [folder / n for n in names]
        self.name = name
        self.traits = Traits("npz")
        self._unchanged = Unchanged()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, file in enumerate(self.files):
            if positions is None or index in positions:
                archive = Archive(file)
                self._unchanged.check(file, archive.mark)
                yield Sample(file.name, archive.arrays)
