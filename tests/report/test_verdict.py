"""The verdict in one line, its tone, its gates in words, and the next step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtool.evaluate.gates import Verdict, judge, parse
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.latency import Ratio
from qtool.report.figures import merged
from qtool.report.markdown import to_markdown
from qtool.report.model import CoverageRow, ModelFile, ReasonCount, Report
from qtool.report.verdict import gate_row, gate_text, tone, verdict_line
from qtool.tables.reasons import Code, Reason
from tests.report.made import FULL, JUDGED, SCORES, SYNTHETIC

GOOD = replace(
    FULL, comparison=replace(JUDGED, outputs=(replace(SCORES, task="classify", sequences=0),)), written=True,
    gates=tuple(judge([parse("sqnr<20"), parse("size>0.5")], Verdict(JUDGED, 2.0, 0.3))),
)  # fmt: skip
NOTHING = replace(GOOD, coverage=(CoverageRow("Conv", 3, {"float": 3}),))


def with_speed(report: Report, low: float, high: float) -> Report:
    assert report.race is not None
    return replace(
        report, race=replace(report.race, speedup={"original": Ratio((low + high) / 2, low, high)})
    )


def test_the_verdict_is_one_line() -> None:
    text = verdict_line(with_speed(GOOD, 1.8, 2.0))
    assert text == (
        "1.90x as fast (1.80-2.00), target cpu, 3.33x smaller, 31.5 dB (3% error), top-1 agrees 99.0%, "
        "2 gates held; written to q.onnx"
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1.1, 1.3, "1.20x as fast (1.10-1.30)"), (0.98, 1.04, "no measurable difference in speed (0.98-1.04)"),
     (0.7, 0.9, "slower: 0.80x as fast (0.70-0.90)")],
)  # fmt: skip
def test_no_speed_is_without_its_verdict(low: float, high: float, words: str) -> None:
    assert verdict_line(with_speed(GOOD, low, high)).startswith(words)


def test_labels_take_the_place_of_agreement() -> None:
    labelled = replace(GOOD, comparison=replace(JUDGED, accuracy=Accuracy(0.9, 0.895, 200, 200)))
    assert "accuracy 90.0% -> 89.5%, " in verdict_line(labelled)


def test_only_a_quantized_model_that_held_gates_on_real_samples_is_good() -> None:
    reports = {
        "good": GOOD, "bad": replace(GOOD, gates=FULL.gates), "nothing quantized": NOTHING,
        "no gates": replace(GOOD, gates=()), "random": replace(SYNTHETIC, gates=()),
    }  # fmt: skip
    assert {name: tone(report) for name, report in reports.items()} == {
        "good": "good", "bad": "bad", "nothing quantized": "neutral", "no gates": "neutral", "random": "neutral",
    }  # fmt: skip
    assert to_markdown(GOOD).startswith("## ✅")
    assert "✅ qtool" not in to_markdown(NOTHING)
    assert "nothing quantized (0 of 3 nodes)" in verdict_line(NOTHING)


def budget(option: str, text: str, value: Verdict) -> Report:
    gate = replace(parse(text), text=option)
    return replace(GOOD, quantized=ModelFile("q.onnx", 12_400), gates=tuple(judge([gate], value)))


def test_a_failed_budget_speaks_of_its_option_and_of_the_best_that_was_reached() -> None:
    size = budget("--max-size 5 KB", "size>0.189", Verdict(size=0.47))
    assert gate_text(size, size.gates[0]).startswith(
        "--max-size 5 KB: the model has 12.4 KB, the smallest candidate 290 bytes; try"
    )
    speed = budget("--min-speedup 3", "speedup<3", Verdict(speedup=1.4))
    text = gate_text(speed, speed.gates[0])
    assert text.startswith(
        "--min-speedup 3: the model is 1.40x as fast as the original, the fastest candidate 1.50x; try"
    )
    for report in (size, speed):
        assert "try" in verdict_line(report) and "0.189" not in verdict_line(report)


def test_held_gates_are_shown_with_their_values() -> None:
    assert [gate_row(GOOD, g) for g in GOOD.gates] == [
        "held: sqnr<20: sqnr is 28",
        "held: size>0.5: size is 0.3, 300 bytes",
    ]


def test_rows_with_nothing_quantized_and_one_reason_are_joined() -> None:
    slow, isolated = Reason(Code.NOT_FASTER), Reason(Code.NEIGHBOURS)
    rows = [
        CoverageRow("Conv", 4, {"int8": 3, "float": 1}, (ReasonCount(slow, 1),)),
        CoverageRow("Relu", 2, {"float": 2}, (ReasonCount(slow, 2),)),
        CoverageRow("Add", 1, {"float": 1}, (ReasonCount(isolated, 1),)),
        CoverageRow("Mul", 3, {"float": 3}, (ReasonCount(slow, 3),)),
    ]
    joined = merged(rows)
    assert [(row.op, row.total, row.counts) for row in joined] == [
        ("Conv", 4, {"int8": 3, "float": 1}), ("Relu, Mul", 5, {"float": 5}), ("Add", 1, {"float": 1}),
    ]  # fmt: skip
    assert joined[1].reasons == (ReasonCount(slow, 5),)
