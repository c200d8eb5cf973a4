"""Figures of a report in words, shared by the renderers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtool.errors import counted, printable
from qtool.evaluate.evaluator import Gain
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.placement.trials import Trial
from qtool.report.model import CoverageRow, RacedTarget, ReasonCount, Report, Timing


def decibels(value: float) -> str:
    """One decimal; inf is 'exact'."""
    return "exact" if value == math.inf else f"{value:.1f}"


def share(value: float, interval: tuple[float, float]) -> str:
    """A share with its 95% interval."""
    return "nan" if math.isnan(value) else f"{value:.4f} ({interval[0]:.3f}-{interval[1]:.3f})"


def labels_text(accuracy: Accuracy, samples: int) -> str:
    """Return how many labels there were, and of how many samples."""
    return f"{counted(accuracy.labels, 'label')}, of {accuracy.samples} of {counted(samples, 'sample')}"


def merged(rows: Sequence[CoverageRow]) -> list[CoverageRow]:
    """Return the rows with those joined that have nothing quantized and the same single reason.

    The same long reason on every row would hide the others.
    """
    groups: dict[object, list[CoverageRow]] = {}
    for index, row in enumerate(rows):
        same = not row.computed and len(row.reasons) == 1
        key = (tuple(row.counts), row.reasons[0].reason) if same else index
        groups.setdefault(key, []).append(row)
    return [_joined(group) for group in groups.values()]


def _joined(rows: list[CoverageRow]) -> CoverageRow:
    if len(rows) == 1:
        return rows[0]
    counts = {kind: sum(row.counts[kind] for row in rows) for kind in rows[0].counts}
    reason = ReasonCount(rows[0].reasons[0].reason, sum(row.reasons[0].count for row in rows))
    return CoverageRow(", ".join(row.op for row in rows), sum(row.total for row in rows), counts, (reason,))


def trial_speed(trial: Trial) -> str:
    """Return the speed of a candidate against the original, with its interval where it was timed."""
    text = f"{trial.speedup:.2f}x"
    return text if trial.interval is None else f"{text} ({trial.interval[0]:.2f}-{trial.interval[1]:.2f})"


def selection_lines(report: Report) -> list[str]:
    """The SQNR on the select set and on the judge set, side by side."""
    chosen, judged = report.selection, report.comparison
    if chosen is None:
        return []
    lines = [
        f"select set: {_sqnr(chosen.sqnr, chosen.interval)}, {chosen.samples} samples, made every choice"
    ]
    if judged is not None:
        text = f"judge set: {_sqnr(judged.sqnr, judged.sqnr_interval)}, {judged.samples} samples"
        lines.append(
            text + (", made none" if chosen.judge_independent else ", not independent: they chose as well")
        )
    if report.cpu_sqnr is not None:
        lines.append(f"judge set in onnxruntime's CPU provider: {decibels(report.cpu_sqnr)} dB")
    return lines


def _sqnr(value: float, interval: tuple[float, float]) -> str:
    if math.isnan(value):
        return "not judged"
    if not math.isfinite(value):
        return decibels(value)
    return f"{value:.1f} dB ({interval[0]:.1f}-{interval[1]:.1f})"


def size_text(report: Report) -> str:
    """Bytes of both models; '' where there is one only."""
    if report.quantized is None:
        return ""
    a, b = report.fp32.bytes, report.quantized.bytes
    return f"{a:,} -> {b:,} bytes ({a / max(b, 1):.2f}x smaller)"


def choice_lines(report: Report) -> list[str]:
    """Return a line for each mode that needs no samples: the size of its file."""
    source = report.fp32.bytes
    return [
        f"{size.mode}, {size.bits} bits: {size.bytes:,} bytes ({source / max(size.bytes, 1):.2f}x smaller)"
        for size in report.sizes
    ]


def target_lines(report: Report) -> list[str]:
    """Return a line for each target that was raced: its figures on the select set, and why it lost."""
    return [_target(raced) for raced in report.targets]


def _target(raced: RacedTarget) -> str:
    figures = [f"in {raced.runtime}"] if raced.runtime else []
    figures += [f"'{raced.plan}'"] if raced.plan else []
    figures += [f"{raced.speedup.median:.2f}x as fast"] if raced.speedup else []
    figures += [] if math.isnan(raced.sqnr) else [f"{decibels(raced.sqnr)} dB"]
    outcome = "chosen" if raced.chosen else f"not chosen: {printable(raced.why)}"
    return f"{raced.target}: {', '.join([*figures, outcome])}"


def gain_lines(report: Report) -> list[str]:
    """Return the gain of each recovery step, a line each."""
    return [_gain(g) for g in report.recovered]


def cost_line(report: Report) -> str:
    """Return the cost of the search; '' where nothing was chosen by samples."""
    if report.selection is None:
        return ""
    cost = report.selection.cost
    limit = "" if cost.limit is None else f" of at most {cost.limit}"
    text = f"{cost.inferences:.0f}{limit} inferences a select sample, {cost.seconds:.1f} s"
    text += f", {cost.timing_seconds:.1f} s of it for timing" if cost.timing_seconds else ""
    return text + (f"; left out: {', '.join(cost.left_out)}" if cost.left_out else "")


def _gain(step: Gain) -> str:
    if step.failed:
        return f"{step.name}: could not be tried: {printable(step.failed)}"
    text = f"{step.name}: {decibels(step.before)} -> {decibels(step.after)} dB in {step.seconds:.1f} s"
    text += f", {step.peak_bytes / 1e6:.0f} MB" if step.name == "finetune" else ""
    on = ", before placement" if step.before_placement else ""
    outcome = "" if step.applied else ", not in the result" if step.kept else ", rejected"
    return text + on + outcome


def speed_lines(report: Report) -> list[str]:
    """Return the speed against the original and against optimized FP32, and that of preparation alone.

    The last two are there where optimized FP32 was timed.
    """
    if report.race is None:
        return []
    against = {"original": "the original", "prepared": "optimized FP32"}
    lines = [_speed(report.race, key, name) for key, name in against.items() if key in report.race.speedup]
    ratio = report.race.preparation
    if ratio is not None:
        unclear = ", no measurable difference" if ratio.holds_one else ""
        lines.append(
            f"preparation alone: {ratio.median:.2f}x as fast as the original "
            f"(95%: {ratio.low:.2f}-{ratio.high:.2f}{unclear})"
        )
    return lines


def _speed(race: Timing, against: str, name: str) -> str:
    ratio = race.speedup[against]
    times = f"{race.milliseconds[against]:.3g} -> {race.milliseconds['quantized']:.3g} ms"
    threads = f"{counted(race.threads, 'thread')}"
    return (
        f"{ratio.median:.2f}x as fast as {name} (95%: {ratio.low:.2f}-{ratio.high:.2f}; {times}, {threads})"
    )


def ordered(report: Report) -> list[Trial]:
    """The trials as a table has them."""
    if report.weights_only:
        return sorted(report.trials, key=lambda t: (t.bytes, -t.sqnr))
    return sorted(report.trials, key=lambda t: (-t.speedup, -t.sqnr))


def audit_lines(report: Report) -> list[str]:
    """Return the outcome of the audit, and a line for each node that deviates."""
    audit = report.audit
    if audit is None:
        return []
    lines = [f"audit: {audit.kernels} kernels of onnxruntime, {len(audit.deviations)} nodes not as planned"]
    if audit.sqnr is not None and audit.unoptimized is not None:
        without = f"{decibels(audit.unoptimized)} dB without its optimizations"
        lines.append(f"audit: {decibels(audit.sqnr)} dB, {without}, on a few samples")
    lines += [f"audit: fusion barrier added at {value}" for value in audit.barriers]
    return lines + [f"audit: {deviation}" for deviation in audit.deviations]


def row_text(output: OutputMetrics) -> str:
    """Return the rows of an output whose number depends on data."""
    return f"{output.matched:,} in both models, {output.lost:,} lost, {output.extra:,} extra"
