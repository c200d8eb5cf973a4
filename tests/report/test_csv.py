"""The report as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import fields

import pytest
from hypothesis import given, settings

from qtool.errors import printable
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.csv import COLUMNS, to_csv
from qtool.report.model import Report
from tests.report.made import BARE, FULL, GATED, JUDGED, TEXTS, named
from tests.tiers import examples


def rows(report: Report) -> list[dict[str, str]]:
    lines = list(csv.reader(io.StringIO(to_csv(report)), strict=True))
    assert lines[0] == COLUMNS
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]


def test_a_row_an_output_with_all_measures() -> None:
    assert {f.name for f in fields(OutputMetrics)} - {"name"} <= set(COLUMNS)
    records = rows(GATED)
    assert [row["output"] for row in records] == ["scores", "more"]
    for row, output in zip(records, JUDGED.outputs, strict=True):
        assert (row["model"], row["data"], row["samples"]) == ("q.onnx", "eval", "200")
        for field in fields(OutputMetrics):
            value = getattr(output, field.name)
            if isinstance(value, float):
                assert float(row[field.name]) == value, field.name


def test_numbers_that_are_not_finite_are_words() -> None:
    first, second = rows(FULL)
    assert (first["sqnr"], first["sqnr_worst"], first["cosine"]) == ("inf", "-inf", "nan")
    assert (first["exact"], second["exact"]) == ("false", "true")


def test_without_a_comparison_there_is_a_heading() -> None:
    assert rows(BARE) == []


@given(TEXTS)
@settings(max_examples=examples(200), deadline=None)
def test_a_name_stays_in_its_cell(text: str) -> None:
    records = rows(named(text))
    assert len(records) == 2
    for row in records:
        for column in ("model", "data", "output", "worst_sample"):
            assert row[column].removeprefix("'") == printable(text, 1000).removeprefix("'")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"])
def test_no_name_is_a_formula(text: str) -> None:
    assert rows(named(text))[0]["output"].startswith("'")
