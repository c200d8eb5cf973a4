"""The properties that every format has, and the table of formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from qtool.errors import UsageError
from qtool.report.formats import FORMATS, format_of, rendered
from qtool.report.model import Report
from tests.report.made import ANY_REPORT, REPORTS, TEXTS, named
from tests.tiers import examples

# Charts cost time: test_html.py holds pages to the same.
CHEAP = [name for name in FORMATS if name != "html"]


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("report", REPORTS)
def test_every_report_has_every_format(name: str, report: str) -> None:
    text = rendered(REPORTS[report], name)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert text == rendered(REPORTS[report], name), "the same each time"


@pytest.mark.parametrize("name", CHEAP)
@given(report=ANY_REPORT)
@settings(max_examples=examples(30), deadline=None)
def test_any_report_has_every_format(name: str, report: Report) -> None:
    rendered(report, name).encode("utf-8")


@pytest.mark.parametrize("name", [name for name in CHEAP if name != "json"])
@given(text=TEXTS)
@settings(max_examples=examples(50), deadline=None)
def test_no_control_character_gets_into_a_file(name: str, text: str) -> None:
    document = rendered(named(text), name)
    assert all(c == "\n" or c.isprintable() or c in "\ufe0f" for c in document)


@pytest.mark.parametrize("name", FORMATS)
def test_a_suffix_names_a_format_in_any_case(name: str) -> None:
    assert format_of(Path(f"a/run{FORMATS[name].suffix}")) == name
    assert format_of(Path(f"RUN{FORMATS[name].suffix.upper()}")) == name


@pytest.mark.parametrize("file", ["run", "run.txt", "run.", ".json", "run.json.gz", "a.json/run"])
def test_2_a_suffix_that_names_none(file: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(Path(file))
    assert file in caught.value.message
    assert ".xml (junit)" in caught.value.message
    assert caught.value.hint


def test_a_misspelt_suffix() -> None:
    with pytest.raises(UsageError) as caught:
        format_of(Path("run.jsn"))
    assert ".json" in caught.value.hint
