"""Rows of .csv and .parquet as samples: which column goes where, and cells that are no numbers."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.data.model_inputs import Axis, ModelInput
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused, source, write

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
    found = source(file, model_inputs(x=("N", 2)))
    assert names(found) == [f"{file.name}:{k}" for k in range(1, 11)]
    assert [s["x"].tolist() for s in arrays(found)] == [[[k, k + 0.5]] for k in range(10)]
    assert_positions(found)


@BOTH
def test_files_come_one_after_another(tmp_path: Path, save: Save) -> None:
    files = [save(tmp_path / f"t{k}", {"x": [k, k + 0.5]}) for k in (1, 2, 10)]
    found = source(tmp_path, model_inputs(x=("N", 1)))
    assert [s["x"].item() for s in arrays(found)] == [1, 1.5, 2, 2.5, 10, 10.5]
    assert names(found, {5, 2}) == [f"{files[1].name}:1", f"{files[2].name}:2"]
    assert_positions(found)


@BOTH
def test_files_of_other_columns_are_refused(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "t1", {"x": [1]})
    save(tmp_path / "t2", {"y": [1]})
    error = refused(lambda: source(tmp_path, model_inputs(x=("N", 1))))
    assert "t2" in error.message
    assert "other columns" in error.message


@BOTH
@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((), ()), ((1,), (1,)), (("N",), (1,)), ((1, 1), (1, 1)), (("N", 1), (1, 1)), (("N", None), (1, 1)), (None, (1, 1))],
    ids=str,
)  # fmt: skip
def test_a_column_named_like_an_input_has_its_shape(
    tmp_path: Path, save: Save, shape: Sequence[Axis] | None, wanted: tuple[int, ...]
) -> None:
    file = save(tmp_path / "t", {"age": [7], "other": ["text"], "x": [3]})
    (got,) = arrays(source(file, model_inputs(x=shape, age=shape)))
    assert {n: (a.shape, a.item()) for n, a in got.items()} == {"x": (wanted, 3), "age": (wanted, 7)}


@BOTH
@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((3,), (3,)), (("N", 3), (1, 3)), (("N", "F"), (1, 3)), ((1, 1, 3), (1, 1, 3)), (("N", 3, None), (1, 3, 1)), (None, (1, 3))],
    ids=str,
)  # fmt: skip
def test_all_numbers_make_the_only_input(
    tmp_path: Path, save: Save, shape: Sequence[Axis] | None, wanted: tuple[int, ...]
) -> None:
    file = save(tmp_path / "t", {"b": [1], "text": ["t"], "a": [2.5], "c": [3]})
    found = source(file, model_inputs(x=shape))
    (got,) = arrays(found)
    assert got["x"].shape == wanted
    assert got["x"].reshape(-1).tolist() == [1, 2.5, 3]
    assert "not used: text" in found.traits.notes


@BOTH
@pytest.mark.parametrize("form", ["x_{}", "x[{}]"])
def test_numbered_columns_make_an_input_in_numeric_order(tmp_path: Path, save: Save, form: str) -> None:
    order = [10, 2, 0, 1, *range(3, 10)]
    file = save(tmp_path / "t", {"y": [99], **{form.format(k): [k] for k in order}})
    (got,) = arrays(source(file, model_inputs(x=(1, 11), y=(1,))))
    assert got["x"].tolist() == [list(range(11))]
    assert got["y"].tolist() == [99]


@BOTH
@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (("!label",), ["p10", "p2", "q"]),
        (("p*",), ["p10", "p2"]),
        (("q", "p10"), ["p10", "q"]),
        (("p*", "!p2"), ["p10"]),
        (("!p*", "!label"), ["q"]),
    ],
    ids=",".join,
)
def test_columns_are_chosen_by_names_and_globs(
    tmp_path: Path, save: Save, columns: tuple[str, ...], wanted: list[str]
) -> None:
    table: Table = {"p10": [1], "p2": [2], "q": [3], "label": [4]}
    (got,) = arrays(source(save(tmp_path / "t", table), model_inputs(x=("N", "F")), columns=columns))
    assert got["x"].reshape(-1).tolist() == [table[name][0] for name in wanted]


@BOTH
def test_brackets_in_a_name_are_no_glob(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", {"v[0]": [1], "v[1]": [2]})
    (got,) = arrays(source(file, model_inputs(x=("N", "F")), columns=("v[1]",)))
    assert got["x"].tolist() == [[2]]


@BOTH
@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (("lable",), "no column 'lable'", "did you mean 'label'?"),
        (("!zzz",), "no column 'zzz'", "columns: a, label"),
        (("!*",), "leaves none", ""),
    ],
    ids=str,
)
def test_columns_that_are_not_there(
    tmp_path: Path, save: Save, columns: tuple[str, ...], message: str, hint: str
) -> None:
    file = save(tmp_path / "t", {"a": [1], "label": [2]})
    error = misused(lambda: source(file, model_inputs(x=("N", "F")), columns=columns))
    assert message in error.message
    assert hint in error.hint


@BOTH
def test_a_wrong_number_of_columns_says_both_and_how_to_leave_one_out(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", {"a": [1], "b": [1], "target": [1]})
    error = refused(lambda: source(file, model_inputs(x=("N", 2))))
    assert "3 columns for the input 'x', which takes 2" in error.message
    assert "--columns '!target'" in error.hint


@BOTH
def test_too_few_columns_are_listed(tmp_path: Path, save: Save) -> None:
    error = refused(lambda: source(save(tmp_path / "t", {"a": [1], "b": ["t"]}), model_inputs(x=("N", 2))))
    assert "1 column for the input 'x', which takes 2" in error.message
    assert "columns: a" in error.hint


@BOTH
def test_a_shape_that_is_open_twice_is_asked_for(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", {k: [1] for k in "abcdef"})
    error = refused(lambda: source(file, model_inputs(x=("N", "H", "W"))))
    assert "--shape x=1" in error.hint
    (got,) = arrays(source(file, model_inputs(x=("N", "H", "W")), shape={"x": (1, 2, 3)}))
    assert got["x"].shape == (1, 2, 3)


@BOTH
def test_an_input_without_a_column_is_named(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", {"agee": [1], "x": [2]})
    error = refused(lambda: source(file, model_inputs(x=(1,), age=(1,))))
    assert "no column for the input 'age'" in error.message
    assert error.hint == "--map 'agee=age'"
    (got,) = arrays(source(file, model_inputs(x=(1,), age=(1,)), rename={"agee": "age"}))
    assert {n: a.item() for n, a in got.items()} == {"x": 2, "age": 1}


@BOTH
def test_an_input_that_is_filled_takes_no_column(tmp_path: Path, save: Save) -> None:
    file = save(tmp_path / "t", {"a": [1], "b": [2]})
    (got,) = arrays(source(file, model_inputs(x=("N", 2), s=(1,)), fill={"s": 5}))
    assert (got["x"].tolist(), got["s"].tolist()) == ([[1, 2]], [5])


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
def test_a_cell_that_is_no_number_is_named_by_row_and_column(
    tmp_path: Path, dtype: str, cell: str, message: str
) -> None:
    file = as_csv(tmp_path / "t", {"id": ["a\nb", "c"], "x": [1, cell]})
    error = refused(lambda: arrays(source(file, model_inputs(dtype, x=(1,)))))
    assert error.message.startswith(f"{file}, row 2, column 'x': ")
    assert message in error.message


@pytest.mark.parametrize(
    ("cells", "message"), [([1.0, None], "an empty cell"), ([1.0, float("nan")], "NaN"), ([1.0, 1e39], "fit")]
)
def test_a_cell_of_parquet_that_is_no_number_is_named_by_row_and_column(
    tmp_path: Path, cells: list, message: str
) -> None:
    file = as_parquet(tmp_path / "t", {"x": cells})
    error = refused(lambda: arrays(source(file, model_inputs(x=(1,)))))
    assert error.message.startswith(f"{file}, row 2, column 'x': ")
    assert message in error.message


# csv alone

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
)
@given(
    rows=st.lists(st.tuples(CELLS, st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1)
)
def test_what_csv_writes_is_read(tmp_path: Path, rows: list[tuple[str, float]]) -> None:
    file = as_csv(tmp_path / "t", {"s": [r[0] for r in rows], "x": [r[1] for r in rows]})
    wanted = {"s": ModelInput("s", (1,), "str"), "x": ModelInput("x", (1,), "float32")}
    found = source(file, wanted)
    assert [(s["s"].item(), s["x"].item()) for s in arrays(found)] == rows
    last = len(rows) - 1
    (got,) = arrays(found, {last})
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
    file = write(tmp_path / "t.csv", "a,b\n" + "1.25,2.5\n" * 200_000)
    tracemalloc.start()
    try:
        found = source(file, model_inputs(x=("N", 2)))
        assert len(found) == 200_000
        assert arrays(found, {199_999})[0]["x"].tolist() == [[1.25, 2.5]]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    file = as_csv(tmp_path / "t", TEN)
    found = source(file, model_inputs(x=("N", 2)))
    write(file, file.read_text() + "1,2\n")
    assert "changed" in refused(lambda: arrays(found)).message


# parquet alone


def test_a_column_of_lists_is_an_input(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0, 2.0], [3.0, 4.0]], "n": [5, 6]})
    found = source(file, model_inputs(x=("N", 2), n=("N", 1)))
    assert [s["x"].tolist() for s in arrays(found)] == [[[1, 2]], [[3, 4]]]
    assert_positions(found)


def test_lists_may_differ_in_length_where_the_model_lets_them(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0], [3.0, 4.0]]})
    assert [s["x"].shape for s in arrays(source(file, model_inputs(x=("N", "T"))))] == [(1, 1), (1, 2)]
    error = refused(lambda: arrays(source(file, model_inputs(x=("N", 2)))))
    assert "row 1, column 'x': a list of 1; the input takes 2" in error.message


@pytest.mark.parametrize("cell", [None, [1.0, None]], ids=["no list", "no number in it"])
def test_a_list_with_nothing_in_it_is_refused(tmp_path: Path, cell: list | None) -> None:
    file = as_parquet(tmp_path / "t", {"x": [[1.0, 2.0], cell]})
    error = refused(lambda: arrays(source(file, model_inputs(x=("N", 2)))))
    assert "row 2, column 'x': an empty cell" in error.message


def test_only_the_groups_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(as_parquet(tmp_path / "t", TEN), model_inputs(x=("N", 2)))
    read: list[list[int]] = []
    whole = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *a, row_groups, **k: (
            read.append(row_groups) or whole(self, *a, row_groups=row_groups, **k)
        ),
    )
    assert arrays(found, {4, 9})[1]["x"].tolist() == [[9, 9.5]]
    assert read == [[1], [3]]


@pytest.mark.parametrize("cut", [0, 4, 50, -4, -60], ids=str)
def test_a_truncated_file_is_refused_by_its_name(tmp_path: Path, cut: int) -> None:
    file = as_parquet(tmp_path / "t", TEN)
    file.write_bytes(file.read_bytes()[:cut])
    assert "t.parquet" in refused(lambda: arrays(source(file, model_inputs(x=("N", 2))))).message


def test_flipped_bits_never_end_in_anything_else(tmp_path: Path) -> None:
    from qtool.errors import QtoolError

    file = as_parquet(tmp_path / "t", TEN)
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        file.write_bytes(broken)
        try:
            arrays(source(file, model_inputs(x=("N", 2))))
        except QtoolError as error:
            assert error.message.isprintable()
