"""A .parquet file. Row groups without a wanted row are not read, the others a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qtool.data.columns import Column
from qtool.data.files import UnchangedFiles, opened, shown
from qtool.data.samples import by_file
from qtool.errors import DataError

_ROWS = 64  # that are read at once
_BUFFER = 1 << 18  # bytes of a column that are read at once


class ParquetTable:
    """The rows of a .parquet file.

    Raises:
        DataError: the file can't be read, or has other numbers of rows than it says.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._files = UnchangedFiles()
        with self._files.opened(file) as stream:
            parquet = _parquet(stream)
            metadata = parquet.metadata
            groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
                raise DataError(f"{shown(file)}: its groups do not have as many rows as it says")
            self.columns = [_column(field) for field in parquet.schema_arrow]
        self._starts: list[int] = [0, *accumulate(groups)]

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[list[Any]]:
        names = [self.columns[i].name for i in columns]
        # Kept open from batch to batch, outside of `opened`, whose step would last while callers work.
        with self._files.opened(self._file):
            stream = self._file.open("rb")
        with stream:
            with opened(self._file):
                parquet = _parquet(stream)
            for group, wanted in by_file(self._starts, set(positions)):
                yield from self._group(parquet, group, wanted, names)

    def _group(
        self, parquet: pq.ParquetFile, group: int, wanted: Sequence[int], names: list[str]
    ) -> Iterator[list[Any]]:
        """Yield the wanted rows of one group."""
        batches, start = None, 0
        while start <= wanted[-1]:
            with opened(self._file):
                batches = batches or parquet.iter_batches(_ROWS, row_groups=[group], columns=names)
                batch = next(batches, None)
                if batch is None:
                    raise DataError(f"{shown(self._file)}: a group of rows ends early")
                rows = [row - start for row in wanted if start <= row < start + batch.num_rows]
                cells = [[_cell(batch.column(name)[row]) for name in names] for row in rows]
            start += batch.num_rows
            yield from cells


def _parquet(stream: Any) -> pq.ParquetFile:
    return pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)


def _column(field: pa.Field) -> Column:
    kind = field.type
    is_list = any(f(kind) for f in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    values = kind.value_type if is_list else kind
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return Column(field.name, any(test(values) for test in tests), is_list)


def _cell(scalar: pa.Scalar) -> Any:
    """Return a cell as columns.array takes it."""
    if scalar.is_valid and isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return scalar.values.to_pylist()
    return scalar.as_py()
