"""A folder of models, quantized to another one that takes its place: each model by `quantize`, one report."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from qtool import __version__
from qtool.commands.compare import compare_models
from qtool.commands.folder_files import FolderFiles, FolderModel, files_of
from qtool.commands.folder_samples import options_for
from qtool.commands.quantize import dry_run, quantize
from qtool.data.open import Data
from qtool.errors import QtoolError, UsageError
from qtool.graph.save import folder_beside
from qtool.graph.share import SHARED, share_weights, side_files
from qtool.options import Comparing, Options, Progress, silent
from qtool.report.model import Report
from qtool.runtime.tempdirs import alone_in, flush_folder

# A side file that qtool writes: behind the name of its model, or of all models of a folder.
_SIDE = re.compile(r"(.+)\.[0-9a-f]{16}\.data")
# What holds the decisions, the outputs or the state of one model.
_OF_ONE_MODEL = ("plan", "ranges", "checkpoint", "max_size", "target_size", "save_ref")


@dataclass(frozen=True)
class FolderRow:
    """The outcome for a model of a folder.

    Args:
        name: its path in the folder, with '/'.
        role: its part there: encoder, decoder, ..
        report: of it alone.
    """

    name: str
    role: str
    report: Report


@dataclass(frozen=True)
class FolderReport:
    """The result for a folder of models.

    Args:
        command: quantize or compare.
        version: of qtool.
        source, output: the folders; output is '' where none is named.
        rows: the models.
        source_bytes: of the models in the source, side files included, each counted once.
        output_bytes: of the models in the output; 0 where none was made.
        sidecars: the files that were carried over.
        left_out: other file -> why it was not.
        shared: the side files with weights of several models.
        saved: the bytes that these save.
        warnings: of the models, each with its name.
        written: the folder is in place.
        arguments: the command line; empty in Python.
    """

    command: str
    version: str
    source: str
    output: str
    rows: tuple[FolderRow, ...]
    source_bytes: int = 0
    output_bytes: int = 0
    sidecars: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    saved: int = 0
    warnings: tuple[str, ...] = ()
    written: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[FolderRow, ...]:
        """The models that failed a gate."""
        return tuple(row for row in self.rows if row.report.failed)

    @property
    def ok(self) -> bool:
        """Whether every gate held; only then is the output in place."""
        return not self.failed

    def save(self, path: str | Path) -> None:
        """Write the report to a file, in the format of its suffix: .html, .json or .md.

        Raises:
            UsageError: another suffix.
            EnvironmentFailure: the file can't be written.
        """
        from qtool.report.formats import FOLDER_FORMATS, save

        save(self, path, FOLDER_FORMATS)


def quantize_folder(
    folder: str | Path,
    output: str | Path | None,
    options: Options | None = None,
    progress: Progress = silent,
) -> FolderReport:
    """Quantize every FP32 model of a folder to another folder, with all other files that it needs.

    Names stay, so that the library that the folder is for opens the new one as it did the old one. The output
    appears complete, and only when every gate of every model holds; the input is never changed.

    Args:
        folder: with one or more .onnx files, in itself or below it.
        output: the folder to write; None: a dry run, which needs no samples.
        options: as for quantize. `calib` and `data` are the samples of every model that they fit, texts also
            of decoders; or a folder with a folder for each model, by its name without suffix or by its role.
        progress: called with the stage and the model, and how much of it is done.

    Raises:
        QtoolError: as quantize does, with the name of the model.
    """
    options = options or Options()
    root = Path(folder)
    _check_options(options, root)
    files = files_of(root)
    if output is None:
        reports = [
            _run(files, model, options, lambda path, own: dry_run(path, own).report) for model in files.models
        ]
        return _report("quantize", files, "", reports)
    target = Path(output)
    check_folder(files, target, options.force)
    with folder_beside(target) as place:
        stage = place / "new"
        stage.mkdir()

        def one(model: FolderModel) -> Report:
            written = stage / model.name
            written.parent.mkdir(parents=True, exist_ok=True)
            show = _progress_of(progress, model)
            report = _run(files, model, options, lambda path, own: quantize(path, written, own, show).report)
            return _moved(report, stage, target)

        report = _report("quantize", files, str(target), [one(model) for model in files.models])
        if report.failed and not options.keep_failed:
            return report
        report = _shared(report, files, stage)
        files.copy(stage)
        _put(stage, target, place)
    return replace(report, written=True)


def compare_folders(
    folder: str | Path,
    other: str | Path,
    data: Data,
    options: Comparing | None = None,
    progress: Progress = silent,
) -> FolderReport:
    """Compare every model of a folder with the one of the same name in another folder.

    Args:
        folder, other: FP32 and quantized, as `quantize_folder` reads and writes them.
        data: as `calib` of `quantize_folder`.
        options: as for compare.
        progress: called with the stage and the model, and how much of it is done.

    Raises:
        QtoolError: as compare does, with the name of the model; UsageError where a model is missing.
    """
    options = options or Comparing()
    root, second = Path(folder), Path(other)
    _check_options(options, root)
    files = files_of(root)
    for model in files.models:
        if not (second / model.name).is_file():
            raise UsageError(
                f"'{second}' has no {model.name}, which '{root}' has", "compare two models by name"
            )

    samples = Options(data=data, data_format=options.data_format, reading=options.reading)

    def one(model: FolderModel) -> Report:
        show = _progress_of(progress, model)

        def work(path: Path, own: Options) -> Report:
            if own.data is None:
                raise UsageError("no samples", f"name their folder {data}/{model.keys[-1]}")
            return compare_models(
                path, second / model.name, own.data, replace(options, reading=own.reading), show
            )

        return _run(files, model, samples, work)

    report = _report("compare", files, str(second), [one(model) for model in files.models])
    return replace(report, output_bytes=_bytes([second / model.name for model in files.models]))


def check_folder(files: FolderFiles, target: Path, force: bool) -> None:
    """Check that a folder can take the output.

    Raises:
        UsageError: it and the input lie in each other; it exists, without --force, or is no earlier result.
    """
    root, real = files.root.resolve(), target.resolve()
    name = f"output '{target}'"
    if real.is_relative_to(root) or root.is_relative_to(real):
        raise UsageError(
            f"{name} and the input '{files.root}' lie in each other", "write to a folder beside it"
        )
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{name} exists and is no folder", "the input is a folder: name one")
    below = [
        os.path.relpath(Path(place, file), target) for place, _, names in os.walk(target) for file in names
    ]
    models = {model.name for model in files.models}
    owners = models | {str(PurePosixPath(name).with_name(SHARED)) for name in models}
    own = models.union(files.sidecars)
    foreign = sorted(
        file
        for file in below
        if file not in own and not ((side := _SIDE.fullmatch(file)) and side[1] in owners)
    )
    if foreign:
        hint = "name another folder, or remove this one yourself"
        raise UsageError(f"{name} exists and has a file that is not of such a result: {foreign[0]}", hint)
    if below and not force:
        raise UsageError(f"{name} exists", "add --force to replace it")


def _check_options(options: Options | Comparing, folder: Path) -> None:
    for name in _OF_ONE_MODEL:
        if getattr(options, name, None):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is of one model, and '{folder}' is a folder", "name a model in it")


def _run(
    files: FolderFiles, model: FolderModel, options: Options, work: Callable[[Path, Options], Report]
) -> Report:
    with _named(model):
        return work(files.root / model.name, options_for(files, model, options))


@contextlib.contextmanager
def _named(model: FolderModel) -> Iterator[None]:
    """Name the model in an error."""
    try:
        yield
    except QtoolError as error:
        if model.name in error.message:
            raise
        raise type(error)(f"{model.name}: {error.message}", error.hint) from error


def _progress_of(progress: Progress, model: FolderModel) -> Progress:
    return lambda stage, done, total: progress(f"{stage}: {model.name}", done, total)


def _report(command: str, files: FolderFiles, output: str, reports: list[Report]) -> FolderReport:
    rows = tuple(
        FolderRow(model.name, model.role, report) for model, report in zip(files.models, reports, strict=True)
    )
    return FolderReport(
        command,
        __version__,
        str(files.root),
        output,
        rows,
        source_bytes=_bytes([files.root / model.name for model in files.models]),
        sidecars=files.sidecars,
        left_out=files.left_out,
        warnings=tuple(f"{row.name}: {text}" for row in rows for text in row.report.warnings),
    )


def _moved(report: Report, stage: Path, target: Path) -> Report:
    """Return the report of a staged model with the paths that it will have."""
    old, new = str(stage), str(target)
    quantized = report.quantized and replace(report.quantized, path=report.quantized.path.replace(old, new))
    return replace(
        report, quantized=quantized, opening=tuple(line.replace(old, new) for line in report.opening)
    )


def _shared(report: FolderReport, files: FolderFiles, stage: Path) -> FolderReport:
    """Write weights that models of one folder have in common once."""
    paths = [stage / model.name for model in files.models]
    shared = [
        share_weights([p for p in paths if p.parent == place])
        for place in dict.fromkeys(p.parent for p in paths)
    ]
    done = [pair for pair in shared if pair is not None]
    return replace(
        report,
        output_bytes=_bytes(paths),
        shared=tuple(side.relative_to(stage).as_posix() for side, _ in done),
        saved=sum(saved for _, saved in done),
    )


def _bytes(models: list[Path]) -> int:
    """Return the bytes of models and their side files; a side file of several models counts once."""
    return sum(
        file.stat().st_size for file in {*models, *(side for path in models for side in side_files(path))}
    )


def _put(stage: Path, target: Path, place: Path) -> None:
    """Rename the new folder into place; an old one goes first, and comes back where that fails."""
    for folder, _, _ in os.walk(stage):
        flush_folder(Path(folder))
    with alone_in(target.parent):
        if not target.exists():
            stage.replace(target)
        else:
            old = target.rename(place / "old")
            try:
                stage.replace(target)
            except BaseException:
                old.rename(target)
                raise
        flush_folder(target.parent)
