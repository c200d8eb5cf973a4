"""The verdict of a report in one line, its gates in words, and the next step."""

from __future__ import annotations

import math
from typing import Literal

from qtool.errors import bytes_text, counted, printable
from qtool.evaluate.gates import GateResult
from qtool.report.model import Report
from qtool.tables.judging import CLASSIFY, TASKS

Tone = Literal["good", "bad", "neutral"]
SIGNS: dict[Tone, str] = {"good": "✅", "bad": "❌", "neutral": "⚪"}
COLOURS: dict[Tone, str] = {"good": "green", "bad": "red", "neutral": "yellow"}


def tone(report: Report) -> Tone:
    """Return good only where gates held on real samples for a model in which something is quantized."""
    if report.failed:
        return "bad"
    nothing = report.coverage and not report.quantized_nodes
    return "neutral" if nothing or report.synthetic or not report.gates else "good"


def verdict_line(report: Report) -> str:
    """Return the verdict: speed with its interval, size, fidelity, agreement and gates, and the next step.

    Each part is there where it was measured, such as: `1.90x as fast (1.80-2.00), target cpu, 3.30x smaller,
    34.6 dB (2% error), top-1 agrees 99.6%, 4 gates held; written to int8.onnx`.
    """
    parts = [
        *(part(report) for part in (_quantized, _speed, _target, _size, _fidelity, _agreement)),
        "not judged" if report.quantized is not None and report.comparison is None else "",
        gates_line(report),
    ]
    step = next_step(report)
    return ", ".join(part for part in parts if part) + (f"; {step}" if step else "")


def gates_line(*reports: Report) -> str:
    """Return how many gates of one or more reports failed."""
    gates, failed = sum(len(r.gates) for r in reports), sum(len(r.failed) for r in reports)
    if not gates:
        return "no gates"
    many = counted(gates, "gate")
    return f"{failed} of {many} failed" if failed else f"{many} held"


def gate_row(report: Report, result: GateResult) -> str:
    """Return the outcome of a gate for a table, held or failed."""
    state = "failed" if result.failed else "held"
    if (result.failed and _is_budget(result)) or math.isnan(result.value):
        return f"{state}: {gate_text(report, result)}"
    own = report.quantized.bytes if report.quantized else 0
    size = f", {bytes_text(own)}" if result.gate.metric == "size" else ""
    ends = f" (95%: {result.interval[0]:.4g}-{result.interval[1]:.4g})" if result.interval else ""
    random = ", on random data" if result.synthetic else ""
    return f"{state}: {result.gate.text}: {result.gate.metric} is {result.value:.4g}{ends}{size}{random}"


def gate_text(report: Report, result: GateResult) -> str:
    """Return why a gate failed; of a budget in the words of its option, with the best that was reached."""
    if not _is_budget(result) or math.isnan(result.value):
        return result.why
    text, own = result.gate.text, report.quantized.bytes if report.quantized else 0
    if result.gate.metric == "size":
        least = min((t.bytes for t in report.trials), default=own)
        also = f", the smallest candidate {bytes_text(least)}" if least < own else ""
        return f"{text}: the model has {bytes_text(own)}{also}; try {_SMALLER}"
    most = max((t.speedup for t in report.trials), default=0.0)
    also = f", the fastest candidate {most:.2f}x" if most > result.value else ""
    return f"{text}: the model is {result.value:.2f}x as fast as the original{also}; try {_FASTER}"


def _is_budget(result: GateResult) -> bool:
    """Whether the gate stands for --max-size or --min-speedup."""
    return result.gate.text.startswith("--")


def next_step(report: Report) -> str:
    """Return where the result is, or what to do about it; '' for neither."""
    if report.failed:
        return _remedy(report, report.failed[0])
    if report.coverage and not report.quantized_nodes:
        return "-v and --explain NODE show why"
    if report.quantized is None or report.command == "compare":
        return ""
    if report.comparison is None or report.synthetic:
        return "add --data SRC to judge it on real samples"
    return f"written to {printable(report.quantized.path)}" if report.written else "-o FILE writes it"


_SMALLER = "--mode weight-only --bits 4, or a larger --max-size"
_FASTER = "a lower --min-speedup; qtool tune shows every trade-off"


def _remedy(report: Report, result: GateResult) -> str:
    """Return a remedy for a failed gate."""
    if result.synthetic:
        return "judge it on real samples: --data SRC"
    if math.isnan(result.value):
        return f"{result.gate.metric} was not measured"
    if result.inconclusive:
        return "more samples decide"
    if report.command == "compare":
        return "quantize with a higher --min-sqnr"
    if result.gate.metric == "size":
        return f"try {_SMALLER}"
    if result.gate.metric == "speedup":
        return f"try {_FASTER}"
    if result.gate.metric == "quantized":
        return "-v and --explain NODE show why"
    return "try --effort best, or more samples; --keep-failed writes it anyway"


def _quantized(report: Report) -> str:
    if not report.coverage:
        return ""
    total = sum(row.total for row in report.coverage)
    if report.quantized is None:
        return f"{report.quantized_nodes} of {total} nodes would be quantized"
    return "" if report.quantized_nodes else f"nothing quantized (0 of {total} nodes)"


def _speed(report: Report) -> str:
    if report.race is None:
        return ""
    ratio = report.race.speedup["original"]
    interval = f"({ratio.low:.2f}-{ratio.high:.2f})"
    if ratio.low <= 1 <= ratio.high:
        return f"no measurable difference in speed {interval}"
    return f"{'slower: ' if ratio.high < 1 else ''}{ratio.median:.2f}x as fast {interval}"


def _target(report: Report) -> str:
    return f"target {printable(report.target)}" if report.target else ""


def _size(report: Report) -> str:
    return "" if report.quantized is None else smaller(report.fp32.bytes, report.quantized.bytes)


def smaller(before: int, after: int) -> str:
    """Return how many times smaller, or larger, the bytes are."""
    ratio = before / max(after, 1)
    return f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / max(ratio, 1e-9):.2f}x larger"


def _fidelity(report: Report) -> str:
    comparison = report.comparison
    if comparison is None or all(o.exact for o in comparison.outputs):
        return ""
    sqnr = comparison.sqnr
    if math.isnan(sqnr):
        empty = all(o.exact or not o.count for o in comparison.outputs)
        return "not judged: no sample gives a value" if empty else "SQNR is not a number"
    if sqnr == math.inf:
        return "outputs exact"
    percent = 100 * 10 ** min(-sqnr / 20, 10.0)
    return f"{sqnr:.1f} dB ({percent:.{0 if percent >= 1 else 1}f}% error)"


def _agreement(report: Report) -> str:
    """Accuracy where there are labels, else the worst agreement of an output that is scored by argmax."""
    comparison = report.comparison
    if comparison is None:
        return ""
    if comparison.accuracy is not None:
        return f"accuracy {comparison.accuracy.fp32:.1%} -> {comparison.accuracy.quantized:.1%}"
    shares = [
        (o.top1 if o.task == CLASSIFY else o.unchanged, o.task) for o in comparison.outputs if o.decisions
    ]
    if not shares or any(math.isnan(share) for share, _ in shares):
        return ""
    share, task = min(shares)
    return f"top-1 agrees {share:.1%}" if task == CLASSIFY else f"{share:.1%} of {TASKS[task].unit} unchanged"
