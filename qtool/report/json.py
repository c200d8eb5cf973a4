"""The report as one JSON document (docs/report.md), and back: `to_json` gives the same text again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from qtool.evaluate.compare import Comparison
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.model import COMMANDS, SCHEMA, Report, heading
from qtool.serialize.json_format import JsonFormat
from qtool.tables.judging import TASKS


@dataclass(frozen=True)
class Derived:
    """A value that follows from the others, written for programs that read the document without qtool."""

    kind: Any
    get: Callable[[Any], Any]
    help: str


def _interval(measure: str) -> Callable[[OutputMetrics], tuple[float, float] | None]:
    """The interval of a share; None where there is no share."""
    interval = attrgetter(f"{measure}_interval")
    return lambda o: interval(o) if o.rows and not math.isnan(getattr(o, measure)) else None


_PAIR = tuple[float, float] | None
DERIVED: dict[type, dict[str, Derived]] = {
    Report: {
        "front": Derived(
            tuple[str, ...], attrgetter("front"), "the trials that no other one beats in speed, error, size"
        ),
        "size_ratio": Derived(float | None, attrgetter("size_ratio"), "quantized / FP32 bytes"),
        "speedup": Derived(float | None, attrgetter("speedup"), "FP32 time / quantized time, median"),
        "failed": Derived(
            tuple[str, ...], lambda r: tuple(g.gate.text for g in r.failed), "the gates that failed"
        ),
    },
    Comparison: {
        "sqnr": Derived(float, attrgetter("sqnr"), "of the worst output, dB"),
        "sqnr_interval": Derived(
            tuple[float, float], attrgetter("sqnr_interval"), "its 95% interval over samples, dB"
        ),
    },
    Accuracy: {"drop": Derived(float, attrgetter("drop"), "accuracy lost against FP32")},
    OutputMetrics: {
        name: Derived(_PAIR, _interval(name.removesuffix("_interval")), f"95% interval of {name[:4]}")
        for name in ("top1_interval", "top5_interval")
    },
}


def _check(report: Report) -> None:
    """Check what types can't express.

    Raises:
        ValueError: an unknown name, or parts that contradict each other.
    """
    if report.command not in COMMANDS:
        raise ValueError(f"command is {report.command!r}")
    for kind in (
        *(k for row in report.coverage for k in row.counts),
        *(e.kind for e in (*report.explained, *report.nodes)),
    ):
        if kind:
            heading(kind)
    for output in report.comparison.outputs if report.comparison else ():
        if output.task and output.task not in TASKS:
            raise ValueError(f"task is {output.task!r}")
    if report.chosen and report.chosen not in {trial.name for trial in report.trials}:
        raise ValueError(f"chosen is {report.chosen!r}, which is no trial")
    if report.race is not None and {*report.race.speedup, "quantized"} != set(report.race.milliseconds):
        raise ValueError("race.speedup is of other models than race.milliseconds")


REPORT = JsonFormat(
    Report,
    SCHEMA,
    "report",
    hint="quantize --json and compare --json make one, or --report RUN.json",
    largest=1 << 28,  # a model of a million nodes has a smaller one
    check=_check,
    derived={kind: {name: row.get for name, row in rows.items()} for kind, rows in DERIVED.items()},
)
to_json = REPORT.to_json
from_json = REPORT.from_json
