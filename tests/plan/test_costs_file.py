"""The cost table as a file: what is written is read back, and what is damaged is said to be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qtool.errors import DataError
from qtool.plan.costs import load_costs
from qtool.plan.costs_file import CostTable, Machine, Timed, Untimed, from_json, read_table, to_json
from qtool.tables.kernels import EDGES, KERNELS, Kind

TABLE = CostTable(
    version="0.1",
    onnxruntime="1.31",
    machine=Machine("Some CPU", ("amx_int8", "avx2")),
    threads=2,
    dispatch=2.5e-7,
    rows=tuple(
        Timed(row, kind, "Op", ((10, 1e-6), (1000, 2.5e-5)))
        for row in (*EDGES, "Relu")
        for kind in KERNELS[row].runs
    ),
    untimed=(Untimed("Softmax", Kind.INT8, "1x2", "DequantizeLinear Softmax"),),
)


def test_what_is_written_is_read_back() -> None:
    assert from_json(to_json(TABLE), "t") == TABLE


def _spoilt(change: str) -> str:
    document: dict[str, Any] = json.loads(to_json(TABLE))
    exec(change, {"d": document, "row": document["rows"][0]})
    return json.dumps(document)


@pytest.mark.parametrize(
    "change",
    [
        "d['schema'] = 'qtool.ranges/1'",
        "del d['dispatch']",
        "d['dispatch'] = -1",
        "d['rows'] = 3",
        "d['rows'].pop(0)",
        "d['rows'].append(row)",
        "row['row'] = 'Conv/4x4'",
        "row['kind'] = 'int3'",
        "row['points'] = []",
        "row['points'] = [[10]]",
        "row['points'].reverse()",
        "row['points'][0][0] = 0",
        "row['points'][0][1] = float('nan')",
        "row['points'][0][1] = 'soon'",
        "d['machine'] = None",
    ],
)
def test_a_damaged_or_foreign_table_is_refused_in_one_line(change: str) -> None:
    with pytest.raises(DataError, match=r"\At\.json: .*cost table") as caught:
        from_json(_spoilt(change), "t.json")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000])
def test_what_is_no_table_at_all_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="cost table"):
        from_json(text, "t")


def test_a_file_that_can_not_be_read_is_said_so(tmp_path: Path) -> None:
    for name, data in (("latin", b"\xff\xfe"), ("large", b" " * (1 << 23))):
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "latin", "large", "pipe", "."):
        with pytest.raises(DataError, match="cost table"):
            read_table(tmp_path / name)


def test_a_table_of_ones_own_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(to_json(TABLE), encoding="utf-8")
    assert load_costs(path, "generic").table == TABLE
