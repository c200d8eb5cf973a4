"""One model in every mode: size, speed, SQNR and the metrics of its task, as a table to publish."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from qtool import __version__
from qtool.commands.quantize import quantize
from qtool.errors import EnvironmentFailure, ModelError, RuntimeFailure, UsageError
from qtool.evaluate.latency import Ratio
from qtool.options import ModelLike, Options, Progress, silent
from qtool.plan.scheme import Choices
from qtool.report.model import ModelFile, Report
from qtool.tables.judging import NONE
from qtool.tables.modes import MODES, PUBLISHED, Published

FP32 = "FP32"


@dataclass(frozen=True)
class ModeRow:
    """One mode.

    Args:
        name: a name of PUBLISHED, or FP32.
        bytes: of the file; 0 where it could not be made.
        speedup: FP32 time / its own, with the 95% interval; None where it was not timed.
        sqnr: of the worst output in dB, on the judge set.
        sqnr_interval: of that over samples, 95%.
        metrics: name -> value.
        quantized: nodes that compute in fewer bits, or have weights in fewer.
        nodes: of all that compute floats.
        failed: why there is no such model; '' for none.
    """

    name: str
    bytes: int = 0
    speedup: Ratio | None = None
    sqnr: float = float("nan")
    sqnr_interval: tuple[float, float] = (float("nan"), float("nan"))
    metrics: Mapping[str, float] = field(default_factory=dict)
    quantized: int = 0
    nodes: int = 0
    failed: str = ""


@dataclass(frozen=True)
class ModeTable:
    """One model in every mode, judged on the same samples.

    Args:
        version: of qtool.
        fp32: the model.
        target: whose kernels the modes are for.
        data, samples: the judge set, which no choice used.
        threads: that each model was timed with; 0: none was.
        rows: FP32 first.
        warnings: of the modes, each with its name.
        arguments: the command line; empty in Python.
    """

    version: str
    fp32: ModelFile
    target: str
    data: str
    samples: int
    threads: int
    rows: tuple[ModeRow, ...]
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that some row has."""
        return metrics_of(self.rows)

    def save(self, path: str | Path) -> None:
        """Write the table to a file, in the format of its suffix: .md, .csv, .json or .html.

        Raises:
            UsageError: another suffix.
            EnvironmentFailure: the file can't be written.
        """
        from qtool.report.formats import TABLE_FORMATS, save

        save(self, path, TABLE_FORMATS)


def tune_table(model: ModelLike, options: Options | None = None, progress: Progress = silent) -> ModeTable:
    """Quantize a model in every mode, keep no file, and judge each on the judge set.

    Args:
        model: a path, or a model in memory.
        options: as for quantize; the mode and its bits are those of each row, and no gate is judged.
        progress: called with the stage, and how much of it is done.

    Raises:
        QtoolError: as quantize does, where no mode has a result.
    """
    options = options or Options()
    if options.plan is not None:
        raise UsageError("a table is of every mode, a plan of one", "qtool quantize --plan replays it")
    if options.calib is None:
        raise UsageError("a table needs samples", "--calib SRC")
    reports: dict[str, Report] = {}
    failed: dict[str, ModelError | RuntimeFailure | UsageError] = {}
    try:
        folder = tempfile.TemporaryDirectory(prefix="qtool-table-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
    with folder as place:
        for number, row in enumerate(PUBLISHED):
            try:
                output = Path(place) / f"{number}.onnx"
                reports[row.name] = quantize(model, output, _options_of(row, options), progress).report
            except (ModelError, RuntimeFailure, UsageError) as error:  # this mode has no such model
                failed[row.name] = error
    if not reports:
        raise next(iter(failed.values()))
    return _table(reports, {name: error.message for name, error in failed.items()})


def _options_of(row: Published, options: Options) -> Options:
    """The options of a mode: of the choices those that mean something there."""
    kept = MODES[row.mode].options
    chosen: dict[str, Any] = {f.name: f.default for f in fields(Choices) if f.name not in kept}
    bits = row.bits if "bits" in kept else 8
    chosen |= {"bits": bits, "mode": row.mode, "gate": NONE, "fail_if": (), "keep_failed": True}
    return replace(options, **chosen)


def _table(reports: Mapping[str, Report], failed: Mapping[str, str]) -> ModeTable:
    first = next(iter(reports.values()))
    comparison, race = first.comparison, first.race
    rows = [
        ModeRow(
            FP32,
            first.fp32.bytes,
            Ratio(1.0, 1.0, 1.0) if race else None,
            float("inf"),
            (float("inf"), float("inf")),
            _metrics(first, fp32=True),
            nodes=sum(row.total for row in first.coverage),
        ),
        *(row_of(row.name, reports.get(row.name), failed.get(row.name, "")) for row in PUBLISHED),
    ]
    return ModeTable(
        __version__,
        first.fp32,
        first.target,
        comparison.data if comparison else "",
        comparison.samples if comparison else 0,
        race.threads if race else 0,
        tuple(rows),
        tuple(f"{name}: {warning}" for name, report in reports.items() for warning in report.warnings),
    )


def metrics_of(rows: Sequence[ModeRow]) -> tuple[str, ...]:
    """Return the names of the metrics that some row has."""
    return tuple(dict.fromkeys(name for row in rows for name in row.metrics))


def row_of(name: str, report: Report | None, failed: str = "") -> ModeRow:
    """Return the figures of a report as a row.

    Args:
        name: of the mode or configuration.
        report: of its model; None where it could not be made.
        failed: why not.
    """
    if report is None:
        return ModeRow(name, failed=failed)
    comparison = report.comparison
    return ModeRow(
        name,
        report.quantized.bytes if report.quantized else 0,
        report.race.speedup["original"] if report.race else None,
        comparison.sqnr if comparison else float("nan"),
        comparison.sqnr_interval if comparison else (float("nan"), float("nan")),
        _metrics(report, fp32=False),
        report.quantized_nodes,
        sum(row.total for row in report.coverage),
    )


def _metrics(report: Report, fp32: bool) -> dict[str, float]:
    """Return the metrics of a model: accuracy by labels, of tasks, and the user's own, which FP32 lacks."""
    comparison = report.comparison
    if comparison is None:
        return {}
    values = comparison.user_metrics
    tasks = {name.removesuffix("_fp32") for name in values if name.endswith("_fp32")} & values.keys()
    helpers = {f"{name}_{what}" for name in tasks for what in ("fp32", "drop")}
    accuracy = comparison.accuracy
    first = {"accuracy": accuracy.fp32 if fp32 else accuracy.quantized} if accuracy else {}
    if fp32:
        return first | {name: values[f"{name}_fp32"] for name in values if name in tasks}
    return first | {name: value for name, value in values.items() if name not in helpers}
