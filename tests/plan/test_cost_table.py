"""The cost table as a file: what is written is read back, and what is damaged is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qtool.errors import UsageError
from qtool.plan.cost_table import CostTable, Machine, Timed, Untimed, from_json, to_json
from qtool.plan.kernel_costs import load_kernel_costs
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
        "row['points'][0][1] = 'soon'",
        "d['machine'] = None",
    ],
)
def test_a_damaged_or_foreign_table_is_refused_in_one_line(change: str) -> None:
    with pytest.raises(UsageError, match=r"\At\.json: .*cost table") as caught:
        from_json(_spoilt(change), "t.json")
    assert "\n" not in caught.value.message


def test_a_table_from_a_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(to_json(TABLE), encoding="utf-8")
    assert load_kernel_costs(path, "generic").table == TABLE
