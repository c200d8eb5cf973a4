"""Samples that are rows of tables: a row a sample, and columns make the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from qtool.data.columns import Column, array, assigned, described
from qtool.data.files import MOST_FILES, shown
from qtool.data.samples import Arrays, Sample, SourceSpec, Traits, by_file
from qtool.errors import DataError, printable


class Table(Protocol):
    """One file of rows."""

    @property
    def columns(self) -> Sequence[Column]: ...

    def __len__(self) -> int: ...

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[Sequence[Any]]:
        """Yield the cells of the given columns in the given rows, in order; other rows are not read.

        A cell is what columns.array takes.
        """


def open_csv(source: SourceSpec) -> Rows:
    """Return the rows of .csv files as samples."""
    from qtool.data.csv_table import CsvTable

    return Rows(source, CsvTable, "csv")


def open_parquet(source: SourceSpec) -> Rows:
    """Return the rows of .parquet files as samples."""
    from qtool.data.parquet_table import ParquetTable

    return Rows(source, ParquetTable, "parquet")


class Rows:
    """The rows of tables, one file after another. All files must have the same columns.

    Args:
        source: the files, and what the model needs.
        reader: of one file.
        kind: of the source.

    Raises:
        DataError: a file can't be read, has no rows, or other columns than the first; the columns don't make
            the inputs; or, when read, a cell is no number.
        UsageError: --columns names a column that is not there.
    """

    def __init__(self, source: SourceSpec, reader: Callable[[Path], Table], kind: str) -> None:
        self.name = source.text
        self._tables = {name: reader(file) for name, file in source.files.items()}
        self._folder = source.folder
        self._starts = [0, *accumulate(len(table) for table in self._tables.values())]
        first, columns = next((name, table.columns) for name, table in self._tables.items())
        for name, table in self._tables.items():
            if [c.name for c in table.columns] != [c.name for c in columns]:
                raise DataError(f"{shown(self._folder / name)}: other columns than {printable(first)}")
        names = [column.name for column in columns]
        if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DataError(f"{shown(self._folder / first)}: two columns '{printable(repeated[0])}'")
        if not len(self):
            raise DataError(f"{printable(source.text)}: no rows below the names of the columns")
        if len(self) > MOST_FILES:
            raise DataError(f"{printable(source.text)}: more than {MOST_FILES:,} rows", "take some of them")
        self._slots = assigned(columns, source)
        self.traits = Traits(kind, ("a row is a sample", *described(self._slots, columns)))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        places = sorted({i for slot in self._slots for i in slot.columns})
        tables = list(self._tables.items())
        for index, wanted in by_file(self._starts, positions):
            name, table = tables[index]
            for row, cells in zip(wanted, table.rows(wanted, places), strict=True):
                inputs = self._inputs(name, table, row, dict(zip(places, cells, strict=True)))
                yield Sample(f"{name}:{row + 1}", inputs)

    def _inputs(self, name: str, table: Table, row: int, cells: dict[int, Any]) -> Arrays:
        arrays: Arrays = {}
        for slot in self._slots:
            try:
                arrays[slot.name] = array(slot, [cells[i] for i in slot.columns])
            except ValueError as error:
                place, problem = error.args
                column = table.columns[slot.columns[place if slot.shape is not None else 0]].name
                here = f"{shown(self._folder / name)}, row {row + 1}, column '{printable(column)}'"
                raise DataError(f"{here}: {problem}") from None
        return arrays
