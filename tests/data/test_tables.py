"""Rows of .csv and .parquet as samples: which column goes where, and cells that are no numbers."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.data.model_inputs import Axis, ModelInput
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused, source, write
from tests.tiers import examples

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Table = dict[str, list]
Save = Callable[[Path, Table], Path]


def as_csv(path: Path, table: Table) -> Path:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return write(path.with_suffix(".csv"), stream.getvalue())


def as_parquet(path: Path, table: Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path.with_suffix(".parquet"), row_group_size=3)
    return path.with_suffix(".parquet")


BOTH = pytest.mark.parametrize("save", [as_csv, as_parquet], ids=["csv", "parquet"])
TEN: Table = {"a": list(range(10)), "b": [k + 0.5 for k in range(10)]}


@BOTH
def test_each_row_is_a_sample(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", TEN)
    result = source(file, model_inputs(x=("N", 2)))
    assert names(result) == [f"{file.name}:{k}" for k in range(1, 11)]
    assert [s["x"].tolist() for s in arrays(result)] == [[[k, k + 0.5]] for k in range(10)]
    assert_positions(result)


@BOTH
def test_files_come_one_after_another(tmp_path: Path, save: Save) -> None:
    files = [save(tmp_path / f"t{k}", {"x": [k, k + 0.5]}) for k in (1, 2, 10)]
    result = source(tmp_path, model_inputs(x=("N", 1)))
    assert [s["x"].item() for s in arrays(result)] == [1, 1.5, 2, 2.5, 10, 10.5]
    assert names(result, {5, 2}) == [f"{files[1].name}:1", f"{files[2].name}:2"]
    assert_positions(result)


@BOTH
def test_files_of_other_columns_are_refused(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "t1", {"x": [1]})
    save(tmp_path / "t2", {"y": [1]})
    error = refused(lambda: source(tmp_path, model_inputs(x=("N", 1))))
    assert "t2" in error.message
    assert "other columns" in error.message


# Which columns make which input


def single_sample(
    path: Path, table: Table, inputs: dict[str, ModelInput], **reading: Any
) -> dict[str, np.ndarray]:
    """The only sample of a table of one row."""
    (got,) = arrays(source(as_csv(path / "t", table), inputs, **reading))
    return got


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((), ()), ((1,), (1,)), (("N",), (1,)), ((1, 1), (1, 1)), (("N", None), (1, 1)), (None, (1, 1))],
    ids=str,
)
def test_a_column_named_like_an_input_has_its_shape(
    tmp_path: Path, shape: Sequence[Axis] | None, wanted: tuple[int, ...]
) -> None:
    got = single_sample(tmp_path, {"age": [7], "other": ["text"], "x": [3]}, model_inputs(x=shape, age=shape))
    assert {n: (a.shape, a.item()) for n, a in got.items()} == {"x": (wanted, 3), "age": (wanted, 7)}


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((3,), (3,)), (("N", "F"), (1, 3)), ((1, 1, 3), (1, 1, 3)), (("N", 3, None), (1, 3, 1)), (None, (1, 3))],
    ids=str,
)
@BOTH
def test_all_numbers_make_the_only_input(
    tmp_path: Path, save: Save, shape: Sequence[Axis] | None, wanted: tuple[int, ...]
) -> None:
    file = save(tmp_path / "t", {"b": [1], "text": ["t"], "a": [2.5], "c": [3]})
    made = source(file, model_inputs(x=shape))
    (got,) = arrays(made)
    assert got["x"].shape == wanted
    assert got["x"].reshape(-1).tolist() == [1, 2.5, 3]
    assert "not used: text" in made.traits.notes


@pytest.mark.parametrize("form", ["x_{}", "x[{}]"])
def test_numbered_columns_make_an_input_in_numeric_order(tmp_path: Path, form: str) -> None:
    table: Table = {"y": [99], **{form.format(k): [k] for k in [10, 2, 0, 1, *range(3, 10)]}}
    got = single_sample(tmp_path, table, model_inputs(x=(1, 11), y=(1,)))
    assert got["x"].tolist() == [list(range(11))]
    assert got["y"].tolist() == [99]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (("!label", "!v*"), ["p10", "p2", "q"]),
        (("p*",), ["p10", "p2"]),
        (("q", "p10"), ["p10", "q"]),
        (("p*", "!p2"), ["p10"]),
        (("v[1]",), ["v[1]"]),
    ],
    ids=",".join,
)
def test_columns_are_chosen_by_names_and_globs(
    tmp_path: Path, columns: tuple[str, ...], wanted: list[str]
) -> None:
    table: Table = {"p10": [1], "p2": [2], "q": [3], "label": [4], "v[0]": [5], "v[1]": [6]}
    got = single_sample(tmp_path, table, model_inputs(x=("N", "F")), columns=columns)
    assert got["x"].reshape(-1).tolist() == [table[name][0] for name in wanted]


def test_missing_columns_are_refused(tmp_path: Path) -> None:
    file = as_csv(tmp_path / "t", {"a": [1], "label": [2]})
    for pattern, message, hint in (
        ("lable", "no column 'lable'", "did you mean 'label'?"),
        ("!zzz", "no column 'zzz'", "columns: a, label"),
        ("!*", "leaves none", ""),
    ):
        error = misused(lambda p=pattern: source(file, model_inputs(x=("N", "F")), columns=(p,)))
        assert message in error.message
        assert hint in error.hint


def test_a_wrong_number_of_columns_is_refused_with_a_hint(tmp_path: Path) -> None:
    two, open_twice = model_inputs(x=("N", 2)), model_inputs(x=("N", "H", "W"))
    error = refused(lambda: single_sample(tmp_path, {"a": [1], "b": [1], "target": [1]}, two))
    assert "3 columns for the input 'x', which takes 2" in error.message
    assert "--columns '!target'" in error.hint
    error = refused(lambda: single_sample(tmp_path, {"a": [1], "b": ["t"]}, two))
    assert "1 column for the input 'x', which takes 2" in error.message
    assert "columns: a" in error.hint
    six: Table = {k: [1] for k in "abcdef"}
    assert "--shape x=1" in refused(lambda: single_sample(tmp_path, six, open_twice)).hint
    assert single_sample(tmp_path, six, open_twice, shape={"x": (1, 2, 3)})["x"].shape == (1, 2, 3)


def test_an_input_without_a_column_is_named_and_may_be_mapped_or_filled(tmp_path: Path) -> None:
    table: Table = {"agee": [1], "x": [2]}
    inputs = model_inputs(x=(1,), age=(1,))
    error = refused(lambda: single_sample(tmp_path, table, inputs))
    assert "no column for the input 'age'" in error.message
    assert error.hint == "--map 'agee=age'"
    mapped = single_sample(tmp_path, table, inputs, rename={"agee": "age"})
    assert {n: a.item() for n, a in mapped.items()} == {"x": 2, "age": 1}
    filled = single_sample(tmp_path, {"a": [1], "b": [2]}, model_inputs(x=("N", 2), s=(1,)), fill={"s": 5})
    assert (filled["x"].tolist(), filled["s"].tolist()) == ([[1, 2]], [5])


# Cells


@BOTH
@pytest.mark.parametrize(
    ("dtype", "cells", "wanted"),
    [
        ("float32", [1, -2.5, 1e-3], [1, -2.5, np.float32(1e-3)]),
        ("float64", [0.1, 2, 3], [0.1, 2, 3]),
        ("int64", [1.0, -2.0, float(2**52)], [1, -2, 2**52]),
        ("int64", [2**53 + 1, -(2**63), 2**63 - 1], [2**53 + 1, -(2**63), 2**63 - 1]),
        ("uint8", [0, 255, 7], [0, 255, 7]),
        ("bool", [True, False, True], [True, False, True]),
        ("bool", [1, 0, 1], [True, False, True]),
        ("str", ["a", "b,\nc", 'é"'], ["a", "b,\nc", 'é"']),
    ],
    ids=str,
)
def test_cells_become_the_type_of_the_input_exactly(
    tmp_path: Path, save: Save, dtype: str, cells: list, wanted: list
) -> None:
    got = [s["x"] for s in arrays(source(save(tmp_path / "t", {"x": cells}), model_inputs(dtype, x=(1,))))]
    assert [a.item() for a in got] == wanted
    assert all(a.dtype == dtype or dtype == "str" for a in got)


NOT_NUMBERS: list[tuple[str, str, str]] = [
    ("float32", "abc", "'abc' is no number"),
    ("float32", "1_000", "'1_000' is no number"),
    ("float32", "1,5", "'1,5' is no number"),
    ("float32", "0x10", "'0x10' is no number"),
    ("float32", "inf", "'inf' is no number"),
    ("float32", "٣", "is no number"),
    ("float32", "", "an empty cell"),
    ("float32", "nan", "NaN"),
    ("float32", "1e39", "does not fit the model's float32"),
    ("int64", "1.5", "is no whole number"),
    ("int64", "1e400", "infinity"),
    ("int8", "300", "300 does not fit the model's int8"),
    ("int64", str(2**63), "does not fit"),
    ("uint8", "-1", "does not fit"),
    ("bool", "2", "neither true nor false"),
    ("bool", "yes", "neither true nor false"),
    ("float32", "9" * 5000, "Exceeds"),
    ("float32", "\x1b[31m1", "is no number"),
]


@pytest.mark.parametrize(("dtype", "cell", "message"), NOT_NUMBERS, ids=lambda v: str(v)[:20])
def test_a_cell_that_is_not_a_number_is_named_by_row_and_column(
    tmp_path: Path, dtype: str, cell: str, message: str
) -> None:
    file = as_csv(tmp_path / "t", {"id": ["a\nb", "c"], "x": [1, cell]})
    error = refused(lambda: arrays(source(file, model_inputs(dtype, x=(1,)))))
    assert error.message.startswith(f"{file}, row 2, column 'x': ")
    assert message in error.message


@pytest.mark.parametrize(
    ("cells", "message"), [([1.0, None], "an empty cell"), ([1.0, float("nan")], "NaN"), ([1.0, 1e39], "fit")]
)
def test_a_parquet_cell_that_is_not_a_number_is_named_by_row_and_column(
    tmp_path: Path, cells: list, message: str
) -> None:
    file = as_parquet(tmp_path / "t", {"x": cells})
    error = refused(lambda: arrays(source(file, model_inputs(x=(1,)))))
    assert error.message.startswith(f"{file}, row 2, column 'x': ")
    assert message in error.message


# csv alone

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=examples(30),
    derandomize=True,
    database=None,
)
@given(
    rows=st.lists(st.tuples(CELLS, st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1)
)
def test_the_output_of_csv_writers_is_read(tmp_path: Path, rows: list[tuple[str, float]]) -> None:
    file = as_csv(tmp_path / "t", {"s": [r[0] for r in rows], "x": [r[1] for r in rows]})
    wanted = {"s": ModelInput("s", (1,), "str"), "x": ModelInput("x", (1,), "float32")}
    result = source(file, wanted)
    assert [(s["s"].item(), s["x"].item()) for s in arrays(result)] == rows
    last = len(rows) - 1
    (got,) = arrays(result, {last})
    assert (got["s"].item(), got["x"].item()) == rows[last]


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n", "a,b\r\n1,2\r\n", "\ufeffa,b\n1,2", "a;b\n1;2\n", "a\tb\n1\t2\n", '"a","b"\n"1","2"\n', "\na,b\n\n1,2\n\n", " a , b \n 1 , 2 \n"],
    ids=repr,
)  # fmt: skip
def test_the_usual_dialects_are_read(tmp_path: Path, text: str) -> None:
    (got,) = arrays(source(write(tmp_path / "t.csv", text), model_inputs(b=(1,), a=(1,))))
    assert {n: a.item() for n, a in got.items()} == {"a": 1, "b": 2}


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "names only": (b"a,b\n", "no rows"),
    "no names": (b"1,2\n3,4\n", "its first row has numbers"),
    "a short row": (b"a,b\n1,2\n3\n", "row 2: 1 cells; the first row has 2"),
    "a long row": (b"a,b\n1,2,3\n", "row 1: 3 cells"),
    "two of a name": (b"a,a\n1,2\n", "two columns 'a'"),
    "an open quote": (b'a,b\n1,"2\n', "row 1: "),
    "a broken quote": (b'a,b\n1,"2"x\n', "row 1: "),
    "no UTF-8": (b"a,b\n1,\xff\n", "utf-8"),
    "zeros": (bytes(99), "t.csv"),
    "a cell without end": (b"a,b\n1," + b"9" * 200_000 + b"\n", "row 1: field larger"),
    "an open quote over many lines": (b'a,b\n1,"' + b"2\n" * 200_000, "row 1: field larger"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    error = refused(lambda: arrays(source(write(tmp_path / "t.csv", content), model_inputs(a=(1,), b=(1,)))))
    assert "t.csv" in error.message
    assert message in error.message


def test_many_rows_take_little_memory(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "a,b\n" + "1.25,2.5\n" * 20_000)
    tracemalloc.start()
    try:
        result = source(file, model_inputs(x=("N", 2)))
        assert len(result) == 20_000
        assert arrays(result, {19_999})[0]["x"].tolist() == [[1.25, 2.5]]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@BOTH
def test_a_file_that_changes_or_goes_is_refused(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", TEN)
    result = source(file, model_inputs(x=("N", 2)))
    write(file, file.read_bytes() + b"1,2\n")
    assert "changed" in refused(lambda: arrays(result)).message
    file.unlink()
    assert "can't be read" in refused(lambda: arrays(result)).message


# parquet alone


def test_a_column_of_lists_is_an_input(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0, 2.0], [3.0, 4.0]], "n": [5, 6]})
    result = source(file, model_inputs(x=("N", 2), n=("N", 1)))
    assert [s["x"].tolist() for s in arrays(result)] == [[[1, 2]], [[3, 4]]]
    assert_positions(result)


def test_lists_may_differ_in_length_where_the_model_lets_them(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0], [3.0, 4.0]]})
    assert [s["x"].shape for s in arrays(source(file, model_inputs(x=("N", "T"))))] == [(1, 1), (1, 2)]
    error = refused(lambda: arrays(source(file, model_inputs(x=("N", 2)))))
    assert "row 1, column 'x': a list of 1; the input takes 2" in error.message


@pytest.mark.parametrize("cell", [None, [1.0, None]], ids=["no list", "no number in it"])
def test_an_empty_list_is_refused(tmp_path: Path, cell: list | None) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0, 2.0], cell]})
    error = refused(lambda: arrays(source(file, model_inputs(x=("N", 2)))))
    assert "row 2, column 'x': an empty cell" in error.message


def test_only_wanted_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = source(as_parquet(tmp_path / "t", TEN), model_inputs(x=("N", 2)))
    read: list[list[int]] = []
    complete = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, row_groups, **k: (
            read.append(row_groups) or complete(self, *a, row_groups=row_groups, **k)
        ),
    )
    assert arrays(result, {4, 9})[1]["x"].tolist() == [[9, 9.5]]
    assert read == [[1], [3]]


@pytest.mark.parametrize("cut", [0, 4, 50, -4, -60], ids=str)
def test_a_truncated_file_is_refused_by_its_name(tmp_path: Path, cut: int) -> None:
    file = as_parquet(tmp_path / "t", TEN)
    file.write_bytes(file.read_bytes()[:cut])
    assert "t.parquet" in refused(lambda: arrays(source(file, model_inputs(x=("N", 2))))).message


def test_flipped_bits_end_in_a_data_error(tmp_path: Path) -> None:
    from qtool.errors import QtoolError

    file = as_parquet(tmp_path / "t", TEN)
    complete = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(complete)
        broken[random.integers(len(complete))] ^= 1 << int(random.integers(8))
        file.write_bytes(broken)
        try:
            arrays(source(file, model_inputs(x=("N", 2))))
        except QtoolError as error:
            assert error.message.isprintable()
