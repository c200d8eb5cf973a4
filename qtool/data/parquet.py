"""A .parquet file: row groups without a wanted row are not read, others a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qtool.data.columns import Column
from qtool.data.files import Unchanged, blamed, mark_of, opened, shown
from qtool.data.samples import by_file
from qtool.errors import DataError, printable

_ROWS = 64  # at once
_BUFFER = 1 << 18  # bytes of a column chunk at once


class ParquetTable:
    """The rows of a .parquet file.

    Raises:
        DataError: no such file, or two columns of one name.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._unchanged = Unchanged()
        with opened(file) as stream:
            self._unchanged.check(file, mark_of(stream))
            parquet = _parquet(stream)
            metadata = parquet.metadata
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
                raise DataError(f"{shown(file)}: its groups do not have as many rows as it says")
            self.columns = [_column(field) for field in parquet.schema_arrow]
        self._starts: list[int] = [0, *accumulate(groups)]
        names = [column.name for column in self.columns]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DataError(f"{shown(file)}: two columns '{printable(twice[0])}'")

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[list[Any]]:
        names = [self.columns[i].name for i in columns]
        with opened(self._file) as stream:  # looked at; then kept open from batch to batch
            self._unchanged.check(self._file, mark_of(stream))
        with self._file.open("rb") as stream:
            with blamed(self._file):
                parquet = _parquet(stream)
            for group, wanted in by_file(self._starts, set(positions)):
                yield from self._group(parquet, group, set(wanted), names)

    def where(self, position: int) -> str:
        return f"{shown(self._file)}, row {position + 1}"

    def _group(
        self, parquet: pq.ParquetFile, group: int, wanted: set[int], names: list[str]
    ) -> Iterator[list[Any]]:
        """The wanted rows of one group."""
        last, done, batches = max(wanted), 0, None
        while done <= last:
            with blamed(self._file):
                if batches is None:
                    batches = parquet.iter_batches(_ROWS, row_groups=[group], columns=names)
                batch = next(batches, None)
                if batch is None:
                    raise DataError(f"{shown(self._file)}: a group of rows ends early")
                here = [row for row in range(batch.num_rows) if done + row in wanted]
                few = [[_cell(batch.column(name)[row]) for name in names] for row in here]
            done += batch.num_rows
            yield from few


def _parquet(stream: Any) -> pq.ParquetFile:
    return pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)


def _column(field: pa.Field) -> Column:
    kind = field.type
    listed = any(f(kind) for f in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    return Column(field.name, _numeric(kind.value_type if listed else kind), listed)


def _numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _cell(scalar: pa.Scalar) -> Any:
    """A cell as columns.array wants it."""
    if scalar.is_valid and isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return scalar.values.to_pylist()
    return scalar.as_py()
