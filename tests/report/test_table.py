"""The table of all modes: what it shows, in every format, and the description of its JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields

import pytest
from rich.console import Console

from qtool.commands.table import ModeRow, ModeTable
from qtool.evaluate.latency import Ratio
from qtool.report.formats import TABLE_FORMATS, rendered
from qtool.report.model import ModelFile
from qtool.report.table import TABLE, render_table
from tests.test_docs import section

TABLE_MADE = ModeTable(
    "0.1", ModelFile("m.onnx", 4_000_000, "ab"), "cpu", "eval", 60, 1,
    (
        ModeRow("FP32", 4_000_000, Ratio(1, 1, 1), math.inf, (math.inf, math.inf), {"map": 0.75}, 0, 10),
        ModeRow("int8 static", 1_000_000, Ratio(2.5, 2.25, 2.75), 31.25, (30.0, 32.5), {"map": 0.7}, 8, 10),
        ModeRow("FP16", failed="no <form> of it"),
    ),
    ("FP16: beware",), ("qtool", "tune"),
)  # fmt: skip


def test_a_terminal_has_the_figures() -> None:
    out = io.StringIO()
    render_table(TABLE_MADE, Console(file=out, width=160))
    head, fp32, int8, fp16 = (line.split() for line in out.getvalue().splitlines()[:4])
    assert head == "model MB smaller speed (95%) SQNR dB map quantized no such model".split()
    assert fp32 == ["FP32", "4", "1.00x", "1.00x", "0.75"]
    assert int8 == "int8 static 1 4.00x 2.50x (2.25-2.75) 31.2 0.7 8 of 10".split()
    assert fp16 == "FP16 no <form> of it".split()
    assert "60 samples of eval" in out.getvalue()


@pytest.mark.parametrize("name", TABLE_FORMATS)
def test_every_format_has_every_row(name: str) -> None:
    text = rendered(TABLE_MADE, name, TABLE_FORMATS)
    assert all(shown in text for shown in ("FP32", "int8 static", "FP16", "0.75"))
    assert "<form>" not in text or name in ("json", "csv")


def test_csv_and_json_have_numbers_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(rendered(TABLE_MADE, "csv", TABLE_FORMATS))))
    assert (rows[1]["speed_low"], rows[1]["sqnr"], rows[1]["map"], rows[0]["sqnr"]) == (
        "2.25",
        "31.25",
        "0.7",
        "inf",
    )
    document = json.loads(rendered(TABLE_MADE, "json", TABLE_FORMATS), parse_constant=pytest.fail)
    described = section("report.md", "`tune --table --json`")
    assert document["schema"] == TABLE.schema and TABLE.schema in described
    names = {f.name for part in (ModeTable, ModeRow) for f in fields(part)}
    assert [n for n in names if f"`{n}`" not in described.replace("[]`", "`")] == []
