"""Every model in every configuration: each pair is quantized and judged, and keeps its files in a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from qtool import __version__
from qtool.commands.quantize import quantize
from qtool.commands.table import ModeRow, metrics_of, row_of
from qtool.data.files import names_in
from qtool.errors import EXIT_GATE, EXIT_OK, DataError, EnvironmentFailure, QtoolError, UsageError, counted
from qtool.graph.load import model_digest
from qtool.graph.save import save_text
from qtool.options import Options, Progress, silent
from qtool.plan import serial
from qtool.report.model import Report
from qtool.report.saved import read_report
from qtool.runtime.cpu import fitting_target
from qtool.runtime.pool import opened
from qtool.tables.targets import AUTO, TargetName

Configuration = Options | Callable[[Path], Options]
"""The options for every model, or a function of the model's path."""


@dataclass(frozen=True)
class SweepItem:
    """One model in one configuration. Its files are named like the configuration, with their own suffixes.

    Args:
        model: the path of the model.
        config: the name of the configuration.
        output: the model to write.
        options: of quantize.
        arguments: the command line that does the same; () in Python.
    """

    model: str
    config: str
    output: Path
    options: Options
    arguments: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """The file of the report."""
        return self.output.with_suffix(".json")

    @property
    def plan(self) -> Path:
        """The file of the plan; none where a gate failed."""
        return self.output.with_suffix(".plan.json")

    @property
    def done(self) -> Path:
        """The file that is written last: a digest of all that the results depend on."""
        return self.output.with_suffix(".done")

    def files(self) -> Iterator[Path]:
        """Yield the files of an earlier run."""
        with suppress(OSError):
            yield from self.output.parent.glob(f"{self.config}.*")


@dataclass(frozen=True)
class SweepRow(ModeRow):
    """One model in one configuration; `name` is the configuration.

    Args:
        model: its path.
        fp32_bytes: of the model; 0 where it could not be made.
        gates: the number of gates that were judged.
        gates_failed: those that failed, as they were given.
        exit_code: of qtool quantize for this model and configuration.
        report: the file with all figures; '' where it could not be made.
    """

    model: str = ""
    fp32_bytes: int = 0
    gates: int = 0
    gates_failed: tuple[str, ...] = ()
    exit_code: int = EXIT_OK
    report: str = ""


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep.

    Args:
        version: of qtool.
        folder: that holds a folder a model, with the files of each configuration.
        rows: in the order of models, then configurations.
        resumed: the number of rows that an earlier run has made.
        warnings: of the sweep as a whole; those of a row are in its report.
        arguments: the command line; empty in Python.
    """

    version: str
    folder: str
    rows: tuple[SweepRow, ...]
    resumed: int = 0
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that some row has."""
        return metrics_of(self.rows)

    @property
    def exit_code(self) -> int:
        """The exit code of the first row with an error, else 1 where a gate failed, else 0."""
        codes = [row.exit_code for row in self.rows]
        errors = [code for code in codes if code not in (EXIT_OK, EXIT_GATE)]
        return errors[0] if errors else max(codes, default=EXIT_OK)


def sweep(
    models: Sequence[str | Path],
    configs: Mapping[str, Configuration],
    folder: str | Path,
    *,
    jobs: int = 0,
    ray: str = "",
    resume: bool = False,
    force: bool = False,
    part: tuple[int, int] = (1, 1),
    progress: Progress = silent,
) -> Sweep:
    """Quantize every model in every configuration, each in a worker process, and put the results in a folder.

    An error of one model ends no other. The folder holds MODEL/CONFIG.onnx (where the gates hold),
    MODEL/CONFIG.json (the report) and MODEL/CONFIG.plan.json.

    Args:
        models: paths.
        configs: name -> options of quantize, or a function of the model's path that returns them.
        folder: the folder of the results; it is made if its parent exists.
        jobs: the number of workers; 0: one, or with `ray` the CPUs of the cluster.
        ray: 'auto' or the address of a Ray cluster, for workers there; '': processes here.
        resume: skip what an earlier run with the same models, samples, options and version has done.
        force: replace results in the folder.
        part: (i, n): only the i-th, i+n-th, .. of all pairs, counted from 1.
        progress: called with the number of pairs that are done.

    Raises:
        UsageError: no model, no configuration, a name that can't be one of a file, or results in the folder.
        EnvironmentFailure: the folder can't be made.
    """
    items = sweep_items(models, {name: (config, ()) for name, config in configs.items()}, Path(folder))
    return run_sweep(
        items, Path(folder), jobs=jobs, ray=ray, resume=resume, force=force, part=part, progress=progress
    )


def sweep_items(
    models: Sequence[str | Path], configs: Mapping[str, tuple[Configuration, Any]], folder: Path
) -> list[SweepItem]:
    """Return every model in every configuration.

    Args:
        models: paths.
        configs: name -> options, or a function that returns them, and the command line or () of each.
        folder: the folder of the results.
    """
    if not models or not configs:
        raise UsageError(f"nothing to sweep: no {'configuration' if models else 'model'}")
    for name in configs:
        if not re.fullmatch(r"[\w-]{1,80}", name, re.ASCII):
            raise UsageError(f"configuration '{name}' can't name a file", "letters, digits, '-' and '_'")
    paths = [Path(model) for model in models]
    items = []
    for path, label in zip(paths, labels_of(paths), strict=True):
        for name, (config, arguments) in configs.items():
            output = folder / label / f"{name}.onnx"
            options = config if isinstance(config, Options) else config(path)
            if options.target == AUTO:  # not that of another machine, which may run the pair
                options = replace(options, target=cast(TargetName, fitting_target()))
            words = arguments(path, output) if callable(arguments) else arguments
            items.append(SweepItem(str(path), name, output, options, words))
    return items


def labels_of(models: Sequence[Path]) -> list[str]:
    """Return a name for each model: that of its file, after as many of its folders as tell it from others.

    Raises:
        UsageError: a model is named twice.
    """
    ends = [path.absolute().with_suffix("").parts[1:] for path in models]
    if len(set(ends)) < len(ends):
        twice = next(path for path, parts in zip(models, ends, strict=True) if ends.count(parts) > 1)
        raise UsageError(f"'{twice}' is named twice", "name each model once; suffixes do not tell them apart")
    labels = ["-".join(_tail(parts, ends)) for parts in ends]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{number}-{parts[-1]}" for number, parts in enumerate(ends, start=1)]


def _tail(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the shortest end of a path that no other path has."""
    counts = range(1, len(parts) + 1)
    ends = (parts[-n:] for n in counts if sum(other[-n:] == parts[-n:] for other in others) == 1)
    return next(ends, parts)


def run_sweep(
    items: Sequence[SweepItem],
    folder: Path,
    *,
    jobs: int,
    ray: str,
    resume: bool,
    force: bool,
    part: tuple[int, int],
    progress: Progress,
) -> Sweep:
    """Run the pairs that are not done, and return the rows of all; see `sweep`."""
    index, count = part
    items = items[index - 1 :: count]
    if not (resume or force):
        for item in items:
            if file := next(item.files(), None):
                raise UsageError(
                    f"'{file}' exists", "--resume skips what is done, --force replaces it, or another folder"
                )
    waiting = [item for item in items if force or not is_done(item)]
    _make(folder)
    failed: dict[Path, QtoolError] = {}
    resumed = len(items) - len(waiting)
    progress("sweep", resumed, len(items))
    with (
        opened(jobs, ray) as pool,
        closing(pool.outcomes(run_item, [(item,) for item in waiting])) as outcomes,
    ):
        jobs = pool.jobs
        for done, (number, outcome) in enumerate(outcomes, start=resumed + 1):
            if isinstance(outcome, QtoolError):
                failed[waiting[number].output] = outcome
            progress("sweep", done, len(items))
    if count == 1:  # other parts may be about to write there
        for place in {item.output.parent for item in items if item.output in failed} | {folder}:
            with suppress(OSError):  # it holds results
                place.rmdir()
    rows = tuple(_row(item, failed.get(item.output)) for item in items)
    warnings = []
    if jobs > 1 and waiting and any(row.speedup for row in rows):
        warnings.append(
            f"speeds were measured while up to {counted(jobs, 'model')} ran: with -j 1 they are exact"
        )
    return Sweep(__version__, str(folder), rows, resumed, tuple(warnings))


def run_item(item: SweepItem, progress: Progress = silent) -> None:
    """Quantize a model, and write its files: a pure function of the item."""
    for file in list(item.files()):
        file.unlink()
    item.output.parent.mkdir(exist_ok=True)
    digest = _digest(item)
    result = quantize(item.model, item.output, replace(item.options, force=True), progress)
    if result.report.written:
        save_text(item.plan, serial.to_json(result.plan))
    replace(result.report, arguments=item.arguments).save(item.report)
    save_text(item.done, digest + "\n")


def is_done(item: SweepItem) -> bool:
    """Return whether an item's files are complete, and of the same model, samples, options and version."""
    try:
        if item.done.read_text(encoding="utf-8").strip() != _digest(item):
            return False
        return not read_report(item.report).written or item.output.is_file()
    except (OSError, ValueError, QtoolError):
        return False


def _digest(item: SweepItem) -> str:
    """Return a digest of all that the results depend on; of files beside the model sizes and times."""
    options = item.options
    named = (options.calib, options.data, options.ranges, options.costs, options.reading.tokenizer)
    judging = (options.labels, options.alphabet, *options.metrics)
    files = [_states(name) for name in (*named, *judging) if isinstance(name, str | Path) and name]
    parts = (__version__, model_digest(Path(item.model)), replace(options, force=False), files)
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _states(name: str | Path) -> list[tuple[str, int, int]]:
    """Return the name, the size and the time of the last change of a file, or of each file in a folder."""
    path = Path(name)
    path = Path(str(name).rpartition(":")[0]) if path.suffix.startswith(".py:") else path
    with suppress(DataError):
        stats = [(file, (path / file).stat()) for file in names_in(path, nested=True)]
        return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    with suppress(OSError, ValueError):
        stat = path.stat()
        return [(path.name, stat.st_size, stat.st_mtime_ns)]
    return []


def _row(item: SweepItem, error: QtoolError | None) -> SweepRow:
    if error is not None:
        failed = error.message + (f" ({error.hint})" if error.hint else "")
        return SweepRow(item.config, failed=failed, model=item.model, exit_code=error.exit_code)
    report: Report = read_report(item.report)
    return SweepRow(
        **vars(row_of(item.config, report)),
        model=item.model,
        fp32_bytes=report.fp32.bytes,
        gates=len(report.gates),
        gates_failed=tuple(gate.gate.text for gate in report.failed),
        exit_code=EXIT_GATE if report.failed else EXIT_OK,
        report=str(item.report),
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise UsageError(f"output '{folder}' is a file", "-o names the folder of the results") from None
    except OSError as error:
        raise EnvironmentFailure(f"can't make the folder '{folder}': {error.strerror}") from error
