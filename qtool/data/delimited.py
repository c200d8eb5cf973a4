"""A .csv file: which row begins where is found once; then any row is read without the others."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from qtool.data.columns import Column, is_number
from qtool.data.files import Unchanged, mark_of, opened, shown
from qtool.errors import DataError, printable
from qtool.runtime.heartbeat import beat

# A row is in memory at once; one without an end is none.
ROW_BYTES = 1 << 26
# Rows are read a few at a time, so that the file is not open while somebody else works.
_AT_ONCE = 1 << 20
_DELIMITERS = ",;\t"
_BEAT_ROWS = 4096


class CsvTable:
    """The rows of a .csv file in UTF-8 with the names of its columns in the first row.

    Commas separate cells; where the first row has none, semicolons or tabs do. A column is one of numbers
    when the first of its cells that holds anything holds one.

    Raises:
        DataError: no such file, no names, a row that is shorter or longer than they are, or broken quotes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._unchanged = Unchanged()
        self._starts = array("q")
        with opened(file) as stream:
            self._unchanged.check(file, mark_of(stream))
            self._delimiter = _delimiter(stream.readline(ROW_BYTES))
            stream.seek(0)
            self.columns = self._index(stream)

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[list[str]]:
        done = 0
        while done < len(positions):
            few: list[list[str]] = []
            with opened(self._file) as stream:
                self._unchanged.check(self._file, mark_of(stream))
                size = 0
                while done < len(positions) and size < _AT_ONCE:
                    stream.seek(self._starts[positions[done]])
                    lines = _Lines(stream, self._file)
                    cells = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
                    few.append([cells[i] for i in columns])
                    size += lines.taken
                    done += 1
            yield from few

    def where(self, position: int) -> str:
        with opened(self._file) as stream:
            left, line = self._starts[position], 1
            while left > 0 and (piece := stream.read(min(_AT_ONCE, left))):
                left -= len(piece)
                line += piece.count(b"\n")
        return f"{shown(self._file)}, line {line}"

    def _index(self, stream: BinaryIO) -> list[Column]:
        """Find where rows begin; the columns."""
        lines = _Lines(stream, self._file)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        names: list[str] | None = None
        numeric: dict[int, bool] = {}  # by a column's first cell that is not empty
        while True:
            start, line = lines.taken, reader.line_num + 1
            lines.row_began()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise DataError(f"{shown(self._file)}, line {line}: {printable(str(error))}") from error
            if not cells:  # an empty line
                continue
            if names is None:
                names = self._named(cells)
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{shown(self._file)}, line {line}: {len(cells)} cells; the first row has {len(names)}"
                )
            if len(numeric) < len(names):
                numeric |= {i: is_number(c) for i, c in enumerate(cells) if c.strip() and i not in numeric}
            self._starts.append(start)
            if not len(self._starts) % _BEAT_ROWS:
                beat()
        if names is None:
            raise DataError(f"{shown(self._file)}: empty")
        return [Column(name, numeric.get(i, True)) for i, name in enumerate(names)]

    def _named(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        if all(is_number(name) for name in names):
            raise DataError(
                f"{shown(self._file)}: its first row has numbers, not the names of columns",
                "add a first row of names: x0,x1,..",
            )
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DataError(f"{shown(self._file)}: two columns '{printable(twice[0])}'")
        return names


class _Lines:
    """A file's lines as text; how many bytes were taken is known."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream = stream
        self._file = file
        self._began = 0
        self.taken = 0

    def row_began(self) -> None:
        self._began = self.taken

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(ROW_BYTES + 1)
        if not line:
            raise StopIteration
        at_start = self._stream.tell() == len(line)
        self.taken += len(line)
        if self.taken - self._began > ROW_BYTES:
            raise DataError(f"{shown(self._file)}: a row of more than {ROW_BYTES:,} bytes")
        try:
            return line.decode("utf-8-sig" if at_start else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{shown(self._file)}: no UTF-8: {error.reason}", "save it as UTF-8") from None


def _delimiter(first: bytes) -> str:
    """What separates the cells of the first row."""
    text = first.decode("utf-8", "replace")
    return max(_DELIMITERS, key=text.count) if "," not in text else ","
