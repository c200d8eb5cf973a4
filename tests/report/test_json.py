"""The report as JSON and back: exact, and nothing damaged passes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from qtool.errors import DataError
from qtool.report.json import from_json, to_json
from qtool.report.model import Report
from tests.report.made import ANY_REPORT, FULL, GATED, REPORTS


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_comes_back(name: str) -> None:
    text = to_json(REPORTS[name])
    assert to_json(from_json(text)) == text
    assert repr(from_json(text)) == repr(REPORTS[name]), "types too; nan is not equal to itself"


@given(ANY_REPORT)
@settings(max_examples=60, deadline=None)
def test_any_report_comes_back(report: Report) -> None:
    text = to_json(report)
    assert to_json(from_json(text)) == text
    assert repr(from_json(text)) == repr(report)


def test_a_file_name_that_is_no_utf_8_comes_back() -> None:
    report = replace(FULL, warnings=("\udcff.npz",))
    text = to_json(report)
    assert text.isascii()
    assert from_json(text).warnings == ("\udcff.npz",)


def test_numbers_may_be_rewritten_by_other_tools() -> None:
    """jq writes 20.0 as 20."""
    text = to_json(GATED)
    assert to_json(from_json(text.replace('"threshold": 20.0', '"threshold": 20'))) == text


Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def at(document: Any, path: Path) -> tuple[Any, str | int]:
    for key in path[:-1]:
        document = document[key]
    return document, path[-1]


DOCUMENT = json.loads(to_json(FULL))
FREE = {"counts", "user_metrics", "milliseconds"}  # their keys are names


@pytest.mark.parametrize("path", list(places(DOCUMENT)), ids=lambda p: ".".join(map(str, p)))
@pytest.mark.parametrize("damage", [{}, [[]], {"x": 1}], ids=["object", "list", "other object"])
def test_no_value_is_of_another_type(path: Path, damage: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    holder, key = at(document, path)
    if isinstance(holder[key], dict) and key in FREE:
        damage = "x"
    holder[key] = damage
    with pytest.raises(DataError):
        from_json(json.dumps(document))


@pytest.mark.parametrize(
    "path", [p for p in places(DOCUMENT) if isinstance(p[-1], str) and not FREE & set(p)], ids=str
)
def test_nothing_is_missing_and_nothing_too_much(path: Path) -> None:
    for change in (lambda holder, key: holder.pop(key), lambda holder, key: holder.update({f"{key}_": 1})):
        document = copy.deepcopy(DOCUMENT)
        change(*at(document, path))
        with pytest.raises(DataError):
            from_json(json.dumps(document))


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        holder, key = at(document, path)
        holder[key] = value

    return change


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "older": (put("schema", value="qtool.report/1"), "qtool.report/1"),
    "of another kind": (put("schema", value="qtool.bench/1"), "qtool.bench/1"),
    "a verdict that was turned": (put("failed", value=[]), "failed does not follow"),
    "a gate that was turned": (put("gates", 1, "failed", value=False), "failed does not follow"),
    "a smaller size": (put("size_ratio", value=0.1), "size_ratio does not follow"),
    "a better SQNR": (put("comparison", "sqnr", value=99.0), "comparison.sqnr does not follow"),
    "a word for a number": (put("comparison", "outputs", 0, "sqnr", value="high"), "comparison.outputs[0].sqnr"),
    "infinity in words": (put("comparison", "outputs", 0, "sqnr", value="Infinity"), "outputs[0].sqnr"),
    "true for a number": (put("fp32", "bytes", value=True), "fp32.bytes is not a whole number"),
    "a negative size": (put("fp32", "bytes", value=-1), "fp32.bytes is -1"),
    "no size": (put("fp32", "bytes", value=0), "division"),
    "an unknown command": (put("command", value="bench"), "command"),
    "an unknown form": (put("coverage", 0, "counts", value={"int3": 5}), "int3"),
    "a race without FP32": (put("race", "speedup", value={}), "race"),
    "a number beyond all": (put("comparison", "outputs", 0, "cosine", value=10**400), "damaged"),
    "a share beyond one": (put("comparison", "outputs", 0, value={**DOCUMENT["comparison"]["outputs"][0], "rows": 3, "top1": 7.0}), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_was_edited_is_refused_with_its_place(name: str) -> None:
    change, message = DAMAGE[name]
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(DataError) as caught:
        from_json(json.dumps(document), "run.json")
    assert caught.value.message.startswith("run.json: ")
    assert message in caught.value.message
    assert caught.value.hint


TEXTS = {
    "nothing": "",
    "no JSON": "SQNR 37.6 dB",
    "a list": "[]",
    "a number": "1",
    "an object": "{}",
    "Python's NaN": '{"schema": NaN}',
    "a key twice": '{"schema": 1, "schema": 1}',
    "nesting without end": "[" * 200_000,
    "a number without end": "1" * 10_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_report_is_refused(name: str) -> None:
    with pytest.raises(DataError):
        from_json(TEXTS[name])


def test_a_file_that_was_cut_short_is_refused() -> None:
    text = to_json(FULL)
    for length in range(0, len(text) - 1, 41):
        with pytest.raises(DataError):
            from_json(text[:length])
