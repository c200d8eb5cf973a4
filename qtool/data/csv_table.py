"""A .csv file. The start of every row is found once; then any row is read without the others."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from qtool.data.columns import Column, is_number
from qtool.data.files import UnchangedFiles, shown
from qtool.errors import DataError, printable
from qtool.runtime.heartbeat import beat

# The longest line that is read at once.
LINE_BYTES = 1 << 26
_BEAT_ROWS = 4096


class CsvTable:
    """The rows of a .csv file in UTF-8 with the names of its columns in the first row.

    Commas separate cells; where the first row has none, semicolons or tabs do. A column is numeric if the
    first of its cells that is not empty is a number.

    Raises:
        DataError: the file can't be read, has no names, rows of other lengths, or broken quotes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._files = UnchangedFiles()
        self._starts = array("q")
        with self._files.opened(file) as stream:
            lines = iter(lambda: stream.readline(LINE_BYTES), b"")
            first = next(filter(bytes.strip, lines), b"").decode("utf-8", "replace")
            self._delimiter = "," if "," in first else max(";\t", key=first.count)
            stream.seek(0)
            try:
                self.columns = self._index(_rows(stream, self._delimiter))
            except csv.Error as error:
                raise DataError(f"{shown(file)}, row {len(self) + 1}: {printable(str(error))}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[list[str]]:
        for position in positions:
            with self._files.opened(self._file) as stream:
                stream.seek(self._starts[position])
                _, cells = next(_rows(stream, self._delimiter))
            yield [cells[i] for i in columns]

    def _index(self, rows: Iterator[tuple[int, list[str]]]) -> list[Column]:
        """Note where rows begin, and return the columns."""
        _, cells = next(rows, (0, []))
        names = [cell.strip() for cell in cells]
        if not names:
            raise DataError(f"{shown(self._file)}: empty")
        if all(is_number(name) for name in names):
            raise DataError(
                f"{shown(self._file)}: its first row has numbers, not the names of columns",
                "add a first row of names: x0,x1,..",
            )
        numeric: dict[int, bool] = {}  # by the first cell of a column that is not empty
        for start, cells in rows:
            if len(cells) != len(names):
                raise DataError(
                    f"{shown(self._file)}, row {len(self) + 1}: {len(cells)} cells; the first row has "
                    f"{len(names)}"
                )
            if len(numeric) < len(names):
                numeric |= {i: is_number(c) for i, c in enumerate(cells) if c.strip() and i not in numeric}
            self._starts.append(start)
            if not len(self) % _BEAT_ROWS:
                beat()
        return [Column(name, numeric.get(i, True)) for i, name in enumerate(names)]


def _rows(stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file that are not empty: the byte at which a row begins, and its cells."""
    lines = iter(lambda: stream.readline(LINE_BYTES).decode("utf-8-sig"), "")
    start = stream.tell()
    for cells in csv.reader(lines, delimiter=delimiter, strict=True):
        if cells:
            yield start, cells
        start = stream.tell()
