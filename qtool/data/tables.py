"""Rows of tables as samples: a row a sample, columns to inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from qtool.data.columns import Column, array, assigned, described
from qtool.data.files import MOST_FILES, shown
from qtool.data.found import Found
from qtool.data.samples import Arrays, Sample, Traits, by_file
from qtool.errors import DataError, printable


class Table(Protocol):
    """One file of rows: those that are asked for are read, the others are passed by."""

    @property
    def columns(self) -> Sequence[Column]: ...

    def __len__(self) -> int: ...

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[Sequence[Any]]:
        """The cells of some columns, of some rows, in order; see columns.array for what a cell is."""

    def where(self, position: int) -> str:
        """A row, as a person finds it."""


def open_csv(found: Found) -> Rows:
    """The rows of .csv files."""
    from qtool.data.delimited import CsvTable

    return Rows(found, CsvTable, "csv")


def open_parquet(found: Found) -> Rows:
    """The rows of .parquet files."""
    from qtool.data.parquet import ParquetTable

    return Rows(found, ParquetTable, "parquet")


class Rows:
    """The rows of tables, one file after another; all must have the same columns.

    Args:
        found: the files, and what the model wants.
        reader: of one file.
        kind: of the source.

    Raises:
        DataError: a file that can't be read, without rows, or with other columns; columns that don't make the
            inputs. When read: a cell that is no number.
        UsageError: --columns names what there is not.
    """

    def __init__(self, found: Found, reader: Callable[[Path], Table], kind: str) -> None:
        self.name = found.text
        self._names = found.names
        self._tables: list[Table] = []
        for file in found.files:
            self._tables.append(table := reader(file))
            if [c.name for c in table.columns] != [c.name for c in self._tables[0].columns]:
                raise DataError(f"{shown(file)}: other columns than {shown(found.files[0])}")
        self._starts = [0, *accumulate(len(table) for table in self._tables)]
        if not len(self):
            raise DataError(f"{printable(found.text)}: no rows below the names of the columns")
        if len(self) > MOST_FILES:
            raise DataError(f"{printable(found.text)}: more than {MOST_FILES:,} rows", "take some of them")
        columns = self._tables[0].columns
        self._slots = assigned(columns, found)
        self.traits = Traits(kind, ("a row is a sample", *described(self._slots, columns)))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        places = sorted({i for slot in self._slots for i in slot.columns})
        for index, wanted in by_file(self._starts, positions):
            table = self._tables[index]
            for row, cells in zip(wanted, table.rows(wanted, places), strict=True):
                inputs = self._inputs(table, row, dict(zip(places, cells, strict=True)))
                yield Sample(f"{self._names[index]}:{row + 1}", inputs)

    def _inputs(self, table: Table, row: int, cells: dict[int, Any]) -> Arrays:
        arrays: Arrays = {}
        for slot in self._slots:
            try:
                arrays[slot.name] = array(slot, [cells[i] for i in slot.columns])
            except ValueError as error:
                place, problem = error.args
                column = table.columns[slot.columns[place if slot.shape is not None else 0]].name
                raise DataError(f"{table.where(row)}, column '{printable(column)}': {problem}") from None
        return arrays
