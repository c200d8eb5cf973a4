"""The whole Pareto front of a model: candidates from the fastest to the most accurate, and one chosen."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from qtool.commands.quantize import quantize
from qtool.errors import EnvironmentFailure, UsageError
from qtool.options import ModelLike, Options, Progress, silent
from qtool.report.model import ModelFile, Result
from qtool.runtime.blas import single_threaded_blas
from qtool.tables.modes import MIXED_BITS, MODES

POINTS = 8
# The path of a model that is written nowhere.
NOWHERE = "not written"


@single_threaded_blas()
def tune(
    model: ModelLike,
    output: str | Path | None = None,
    options: Options | None = None,
    points: int = POINTS,
    progress: Progress = silent,
) -> Result:
    """Run the flow of `quantize` with candidates all along the Pareto front, and choose one of them.

    The report's `trials` are what was raced, on the select set. Only the chosen candidate is judged; with
    `output` it is written there, under the same gates as quantize has. The plan of the result replays it.

    Args:
        model: a path, or a model in memory.
        output: where to write the chosen model; None: nowhere.
        options: as for quantize; min_sqnr, min_speedup and max_size say what to choose.
        points: the most points of the front to build, beside the rule-based, all-int8 and float candidates.
        progress: called with the stage, and how much of it is done.

    Raises:
        QtoolError: as quantize does; UsageError also where there is nothing to tune by.
    """
    options = _tunable(options or Options(), points)
    if output is not None:
        return _called(quantize(model, output, options, progress, points=points))
    try:
        folder = tempfile.TemporaryDirectory(prefix="qtool-tune-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
    with folder as place:
        result = _called(quantize(model, Path(place) / "model.onnx", options, progress, points=points))
    file = result.report.quantized
    bytes_ = 0 if file is None else file.bytes
    return replace(result, report=replace(result.report, quantized=ModelFile(NOWHERE, bytes_), written=False))


def _called(result: Result) -> Result:
    return replace(result, report=replace(result.report, command="tune"))


def _tunable(options: Options, points: int) -> Options:
    """The options, with as few bits as there are where bits are what is tuned.

    Raises:
        UsageError: there is nothing to tune, or nothing to tune by.
    """
    if points < 1:
        raise UsageError("tune builds at least one point", f"points={POINTS}")
    if options.plan is not None:
        raise UsageError("a plan has nothing left to tune", "qtool quantize --plan replays it")
    if options.target_size or options.target_bits:
        raise UsageError("tune shows all sizes", "max_size says which one to choose")
    mode = MODES.get(options.mode)
    if mode is None:
        return options  # an unknown mode is refused where it is looked up
    if "bits" in mode.options:
        if options.prefer == "speed":
            raise UsageError("--prefer speed has bits of its own to choose", "leave it out to tune bits")
        return replace(options, bits=MIXED_BITS if options.bits > MIXED_BITS else options.bits)
    if not mode.for_speed:
        raise UsageError(
            f"--mode {mode.name}: there is nothing to tune: what can be {mode.storage.name} is",
            f"qtool quantize --mode {mode.name}, with --exclude for what should stay",
        )
    return options
