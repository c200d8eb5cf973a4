"""The report as JSON and back: exact, and no edited report passes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from qtool.errors import UsageError
from qtool.report.json import from_json, to_json
from qtool.report.model import Report
from tests.report.made import ANY_REPORT, FULL, REPORTS
from tests.tiers import examples


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_comes_back(name: str) -> None:
    text = to_json(REPORTS[name])
    assert to_json(from_json(text, "f")) == text
    assert repr(vars(from_json(text, "f"))) == repr(vars(REPORTS[name])), (
        "types too; nan is not equal to itself"
    )


@given(ANY_REPORT)
@settings(max_examples=examples(40), deadline=None)
def test_any_report_comes_back(report: Report) -> None:
    text = to_json(report)
    assert to_json(from_json(text, "f")) == text
    assert repr(vars(from_json(text, "f"))) == repr(vars(report))


def test_a_file_name_that_is_not_utf_8_comes_back() -> None:
    text = to_json(replace(FULL, warnings=("\udcff.npz",)))
    assert from_json(text, "f").warnings == ("\udcff.npz",)


DOCUMENT = json.loads(to_json(FULL))
Place = tuple[str | int, ...]
DAMAGE: dict[str, tuple[Place, Any, str]] = {
    "another version": (("schema",), "qtool.report/1", "qtool.report/1"),
    "another kind": (("schema",), "qtool.bench/1", "qtool.bench/1"),
    "an edited verdict": (("failed",), [], "failed is []"),
    "an edited gate": (("gates", 1, "failed"), False, "failed"),
    "a smaller size": (("size_ratio",), 0.1, "size_ratio is 0.1, expected 0.3"),
    "a better SQNR": (("comparison", "sqnr"), 99.0, "comparison.sqnr is 99.0"),
    "a word for a number": (("comparison", "outputs", 0, "sqnr"), "high", "comparison.outputs[0].sqnr"),
    "no size": (("fp32", "bytes"), 0, "division"),
    "an unknown command": (("command",), "bench", "command"),
    "an unknown form": (("coverage", 0, "counts"), {"int3": 5}, "int3"),
    "a race without FP32": (("race", "speedup"), {}, "race"),
    "a share beyond one": (("comparison", "outputs", 0), {**DOCUMENT["comparison"]["outputs"][0], "rows": 3, "top1": 7.0}, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_an_edited_report_is_a_usage_error_that_names_the_field(name: str) -> None:
    place, value, message = DAMAGE[name]
    document = copy.deepcopy(DOCUMENT)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps(document), "run.json")
    assert caught.value.message.startswith("run.json: ")
    assert message in caught.value.message
    assert caught.value.hint
