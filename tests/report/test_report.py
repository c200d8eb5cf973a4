"""One report, two renderings: JSON that any parser takes, and a terminal that no name can hurt."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from qtool.evaluate.compare import Comparison
from qtool.plan.model import Kind, Skip
from qtool.report.coverage import coverage
from qtool.report.json import to_json
from qtool.report.model import CoverageRow, ModelFile, ReasonCount, Report
from qtool.report.terminal import render
from qtool.tables.forms import Form
from qtool.tables.reasons import Code, Reason
from tests.plan.flow import candidate
from tests.report.made import BARE, FULL, GATED, JUDGED, OUTPUT, ROWS
from tests.rewrite.zoo import CASES
from tests.targets import COMMON


def shown(report: Report, *, verbose: bool = False, width: int = 160, color: bool = False) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=width, force_terminal=color), verbose)
    return stream.getvalue()


def refuse(token: str) -> Any:
    raise AssertionError(f"{token} is no JSON")


@pytest.mark.parametrize("report", [FULL, BARE], ids=["full", "bare"])
def test_json_is_strict_json(report: Report) -> None:
    document = json.loads(to_json(report), parse_constant=refuse)
    assert document["schema"] == "qtool.report/6"
    assert document["command"] == report.command


def test_infinities_are_strings_in_json() -> None:
    output = json.loads(to_json(FULL))["comparison"]["outputs"][0]
    assert (output["sqnr"], output["sqnr_worst"], output["cosine"]) == ("inf", "-inf", "nan")


def test_json_holds_the_verdict() -> None:
    document = json.loads(to_json(FULL))
    assert document["failed"] == ["accuracy<0.9"]
    assert document["speedup"] == 2.0
    assert document["size_ratio"] == 0.3
    assert document["comparison"]["accuracy"] == {
        "fp32": 1.0, "quantized": 0.5, "labels": 4, "drop": 0.5, "samples": 4, "lost": 0, "won": 0, "output": "",
        "classes": 0,
    }  # fmt: skip
    assert document["race"]["speedup"]["prepared"]["median"] == 1.5
    assert document["race"]["preparation"]["median"] == pytest.approx(2 / 1.5)
    assert [row["op"] for row in document["coverage"]] == [row.op for row in ROWS]
    reason = {"code": "no-form", "detail": "no quantized form"}
    assert document["skips"] == [{"node": "sin", "op": "Sin", "reason": reason}]


def test_the_terminal_shows_every_op_row() -> None:
    text = shown(FULL, verbose=True)
    for row in ROWS:
        (line,) = (x for x in text.splitlines() if x.split()[:1] == [row.op])
        counts = [str(n) for n in row.counts.values()]
        assert line.split()[1 : 1 + len(counts)] == counts
        assert all(str(counted.reason) in text for counted in row.reasons)


def test_the_short_table_still_counts_every_node() -> None:
    """Ops without a quantized form are one line; their nodes are not lost."""
    text = shown(FULL)
    (others,) = (x for x in text.splitlines() if x.startswith("others"))
    assert others.split()[1] == "2"


def test_the_table_is_narrow_and_has_the_interval_of_top_1() -> None:
    text = shown(GATED)
    assert max(len(line.rstrip()) for line in text.splitlines()[1:]) <= 110
    (line,) = (x for x in text.splitlines() if x.startswith("scores"))
    assert line.split()[-2:] == ["0.9900", "(0.964-0.997)"]
    assert "p99" not in text


def test_verbose_adds_the_other_measures() -> None:
    lines = shown(GATED, verbose=True).splitlines()
    (heading,) = (x for x in lines if "p99 error" in x)
    row = lines[lines.index(heading) + 1].split()
    assert row == ["scores", "30.5", "30.5", "0.03", "0.2", "0.125", "1.0000", "(0.981-1.000)", "0.01"]


def test_the_summary_does_not_repeat_the_table() -> None:
    lines = [" ".join(x.split()) for x in shown(GATED).splitlines()]
    assert "worst output 28.0 dB" in lines
    assert "f1 0.875 (200 samples)" in lines
    assert "not finite 3 elements of scores, finite in FP32" in lines
    one = replace(GATED, comparison=replace(JUDGED, outputs=JUDGED.outputs[:1]))
    assert "\nworst output" not in shown(one), "there is but one, and the table has it"


@pytest.mark.parametrize("written", [True, False])
def test_new_gates_do_not_change_whether_it_was_written(written: bool) -> None:
    lines = shown(replace(FULL, written=written)).splitlines()
    assert any(line.startswith("written") for line in lines) == written


def test_verbose_names_every_node_left_in_float() -> None:
    assert "sin (Sin): no quantized form" in shown(FULL, verbose=True)


@pytest.mark.parametrize("width", [20, 40, 80, 300])
@pytest.mark.parametrize("report", [FULL, BARE], ids=["full", "bare"])
def test_any_width_renders(report: Report, width: int) -> None:
    shown(report, verbose=True, width=width)


ODD = [
    "[bold]",
    "[/]",
    "[/red]",
    "conv[0]",
    "[",
    "\\",
    "a\\[b]",
    "\x1b[31mred",
    "\x07\x00\r\n",
    "\u202eabc",
    "größe 層",
    ":smile:",
    "x" * 500,
    "",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("verbose", [False, True], ids=["short", "verbose"])
def test_names_are_escaped_in_the_terminal(name: str, verbose: bool) -> None:
    """Names of nodes, values, ops, outputs and samples come from other people's files."""
    reason = Reason(Code.OUTLIERS, f"outliers: '{name}' spans")
    report = replace(
        FULL,
        fp32=ModelFile(name, 10),
        coverage=(
            CoverageRow(name, 1, {"float": 1}, (ReasonCount(reason, 1),)),
            CoverageRow(name, 1, {"int8": 1}),
        ),
        skips=(Skip(name, name, reason),),
        comparison=Comparison(name, 1, (replace(OUTPUT, name=name, worst_sample=name),)),
    )
    text = shown(report, verbose=verbose)
    assert not set(text) & {"\x1b", "\x07", "\x00", "\r", "\u202e"}
    if name in ("[bold]", "conv[0]", "[/red]", ":smile:"):
        assert name in text
    assert json.loads(to_json(report))["fp32"]["path"] == name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", COMMON)
def test_coverage_counts_every_node_of_the_plan_once(case: str, target: str) -> None:
    row = CASES[case]
    done = candidate(row.build(), row.samples(), target)
    rows = coverage(done.model.view, done.plan)
    kinds = (Kind.STORED, Kind.LOOKUP)
    stored = {u[0] for s in done.plan.sites if s.kind in kinds for u in s.uses or ()}
    named = done.plan.forms.keys() | {s.node for s in done.plan.skips} | stored
    assert sum(r.total for r in rows) == len(named)
    assert all(r.total == sum(r.counts.values()) for r in rows)
    assert sum(r.counts.get("int8", 0) for r in rows) == sum(f is Form.INT8 for f in done.plan.forms.values())
    assert all(sum(c.count for c in r.reasons) >= r.floats for r in rows)


def test_plans_that_were_raced_are_in_the_table_and_the_chosen_one_is_marked() -> None:
    lines = [line.split() for line in shown(FULL).splitlines()]
    for trial in FULL.trials:
        row = next(words for words in lines if " ".join(words[: len(trial.name.split())]) == trial.name)
        assert f"{trial.speedup:.2f}x" in row
        assert ("chosen" in row) == (trial.name == FULL.chosen)
        assert ("dominated" in row) == (trial.name not in FULL.front)
    assert "chosen" not in shown(replace(FULL, trials=FULL.trials[:1], explained=()))


def test_regions_are_in_the_verbose_report() -> None:
    why = FULL.regions[1].why.partition(": ")[2]
    assert why not in shown(FULL)
    text = shown(FULL, verbose=True)
    assert why in " ".join(text.split())
    assert "Conv Relu" in text


def test_a_requested_node_is_explained() -> None:
    text = shown(FULL)
    for node in FULL.explained:
        assert f"{node.node} ({node.op})" in text
        assert node.why in text
    assert "12.5 us in float, 4.2 us in int8" in text
    assert "41.5 dB" in text
