"""docs/report.schema.json is what the dataclasses say, and every report is as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

from qtool.report.json import to_json
from qtool.report.model import Report
from qtool.report.schema import report_schema
from tests.graphs import ROOT
from tests.report.made import ANY_REPORT, FULL, REPORTS
from tests.tiers import examples

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_file_matches_the_dataclasses() -> None:
    """Make it anew: python -m qtool.report.schema > docs/report.schema.json"""
    assert report_schema() == SCHEMA


def test_it_is_a_schema_of_that_draft() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_valid(name: str) -> None:
    VALIDATOR.validate(json.loads(to_json(REPORTS[name])))


@given(ANY_REPORT)
@settings(max_examples=examples(40), deadline=None)
def test_any_report_is_valid(report: Report) -> None:
    VALIDATOR.validate(json.loads(to_json(report)))


def test_it_refuses_what_reading_refuses() -> None:
    """Wrong types, and keys that are missing, anywhere."""
    document = json.loads(to_json(FULL))
    for holder in _containers(document):
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            value, holder[key] = holder[key], [[]]
            assert not VALIDATOR.is_valid(document), key
            holder[key] = value


def _containers(value: Any) -> Iterator[Any]:
    """Every dict and list in a document."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def test_fields_have_descriptions() -> None:
    described = SCHEMA["$defs"]["Comparison"]["properties"]["user_metrics"]
    assert described["description"].startswith("name -> value of task metrics")
