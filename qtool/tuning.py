"""The whole front of a model: plans from the fastest to the truest, built and raced, and one chosen."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from qtool.bits import weights_of
from qtool.data.samples import Source as Samples
from qtool.data.samples import synthetic
from qtool.errors import EnvironmentFailure, UsageError
from qtool.numerics.threads import single_threaded_blas
from qtool.options import ModelLike, Options, Progress, Result, silent
from qtool.pipeline import produced
from qtool.placing import labelled
from qtool.plan.front import spread
from qtool.planning import Planned
from qtool.report.model import ModelFile
from qtool.search import Search
from qtool.tables.modes import MIXED_BITS, MODES

POINTS = 8
# What stands where there is no file.
NOWHERE = "not written"
_FLOAT = "of all plans that were raced, the one without int8 is the best"


@single_threaded_blas()
def tune(
    model: ModelLike,
    output: str | Path | None = None,
    options: Options | None = None,
    points: int = POINTS,
    progress: Progress = silent,
) -> Result:
    """Measure what int8 gains and costs, build plans all along the front, race them, and choose one.

    The report's `trials` are what was raced. With `output` the chosen model is written there, under the same
    gates as quantize has; without, it is judged all the same. The plan of the result replays it.

    Args:
        model: the model.
        output: where to write the chosen one; None: nowhere.
        options: as for quantize; min_sqnr, min_speedup and max_size are what the choice is made by.
        points: plans that are built, at most, beside those of the rules, of everything in int8 and of none.
        progress: told how far it is.

    Raises:
        QtoolError: as quantize does; UsageError also where there is nothing to tune by.
    """
    options = _tunable(options or Options(), points)
    first = partial(_explored, points=points)
    if output is not None:
        return _called(produced(model, output, options, progress, first))
    try:
        folder = tempfile.TemporaryDirectory(prefix="qtool-tune-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
    with folder as place:
        result = _called(produced(model, Path(place) / "model.onnx", options, progress, first))
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
        return options  # whoever looks it up says so
    if "bits" in mode.options:
        if options.prefer == "speed":
            raise UsageError("--prefer speed has bits of its own to choose", "leave it out to tune bits")
        return replace(options, bits=min(options.bits, MIXED_BITS))
    if not mode.for_speed:
        raise UsageError(
            f"--mode {mode.name}: there is nothing to tune: what can be {mode.storage.name} is",
            f"qtool quantize --mode {mode.name}, with --exclude for what should stay",
        )
    return options


def _explored(search: Search, points: int) -> Planned:
    """The best of plans all along the front.

    Raises:
        UsageError: there is nothing to tune by.
    """
    job, samples = search.job, search.samples
    if samples is None:
        raise UsageError("tune measures errors and times on samples", "add --calib SRC or --data SRC")
    if synthetic(samples):
        raise UsageError(
            f"{samples.name} is random data: errors on it say nothing, and there is nothing to tune by",
            "add --calib SRC of real samples",
        )
    if job.scheme.form is None:
        weights = weights_of(job, search.planner, samples, search.progress)
        wishes = weights.spread(points)
        return search.best_of({n: search.planner.plan(w) for n, w in wishes.items()}, samples, small=True)
    if (obstacle := search.obstacle()) is not None:
        raise UsageError(*obstacle)
    return _cuts(search, samples, points)


def _cuts(search: Search, samples: Samples, points: int) -> Planned:
    """Of int8: the cuts of the network, between everything in int8 and nothing."""
    known = search.learned(samples)
    plans = {"rules": search.planner.plan(search.job.wish), "all int8": known.everything}
    for number, point in enumerate(spread(known.network, search.front, points), start=1):
        name = f"cut {number}" if point.int8 else "float"
        plans[name] = search.planner.plan(labelled(known, point))
    if "float" not in plans:
        plans["float"] = search.in_float(known.everything, _FLOAT)
    return search.best_of(plans, samples)
