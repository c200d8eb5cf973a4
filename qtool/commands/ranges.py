"""The ranges of a run: from samples, buckets of them, a file, or the model alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import onnx_ir as ir

from qtool.calibration.analytic import estimate_ranges
from qtool.calibration.buckets import Buckets, buckets_of
from qtool.calibration.memo import RangeMemo
from qtool.calibration.ranges import Ranges, merged
from qtool.calibration.ranges_file import Calibration, read
from qtool.calibration.runner import calibrate
from qtool.data.model_inputs import inputs_of
from qtool.data.samples import Samples
from qtool.data.split import SampleSets
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.graph.load import Source
from qtool.options import Options, Progress
from qtool.plan.activations import nonnegative
from qtool.plan.assignment import PlanInput
from qtool.plan.constraints import input_ranges
from qtool.plan.draft import observation_sets
from qtool.plan.known_ranges import known_ranges
from qtool.recover.run import searches_ranges
from qtool.tables.methods import METHODS


def given_ranges(source: Source, options: Options) -> Calibration | None:
    """Return the calibration of the `ranges` option; None without it.

    Raises:
        DataError: they are of another model, or lack what the method needs.
    """
    if options.ranges is None:
        return None
    calibration = options.ranges if isinstance(options.ranges, Calibration) else read(Path(options.ranges))
    if calibration.model_sha256 != source.sha256:
        raise DataError(
            f"the ranges are of another model (sha256 {calibration.model_sha256[:16]}, "
            f"not {source.sha256[:16]})",
            "qtool calibrate makes them anew",
        )
    return calibration


def sample_buckets(source: Source, options: Options, sets: SampleSets) -> Buckets | None:
    """Return the samples that set ranges, by step; None without --timestep, and where a plan is replayed.

    Raises:
        UsageError: there is no such input, or there are no such samples.
    """
    name = options.timestep
    if not name or (options.plan is not None and not options.resume):
        return None
    if name not in (inputs := inputs_of(source.model)):
        raise UsageError(
            f"--timestep: {source.name} has no input '{printable(name, 80)}'",
            did_you_mean(name, inputs) or f"it has: {printable(', '.join(inputs), 120)}",
        )
    if sets.calibrate is None:
        raise UsageError(
            "--timestep needs samples that set ranges", "add --calib SRC, and leave --ranges out"
        )
    return buckets_of(sets.calibrate, name, options.buckets)


def range_memo(
    source: Source,
    model: ir.Model,
    task: PlanInput,
    options: Options,
    calib: Samples | None,
    calibration: Calibration | None,
    progress: Progress,
    parts: Sequence[Samples] = (),
) -> RangeMemo:
    """Return the ranges of a model: from samples and parts of them, from a file, or from the model alone."""
    kept = known_ranges(task.grids)
    if calibration is not None:
        return RangeMemo([list(calibration.ranges)], lambda values: (calibration.ranges, {}), kept)
    if parts:
        memos, before = [], 0
        for part in parts:

            def report_part(stage: str, done: int, total: int, before: int = before) -> None:
                progress(stage, before + done, sum(map(len, parts)))

            memos.append(range_memo(source, model, task, options, part, None, report_part))
            before += len(part)

        def joined(values: Sequence[str]) -> tuple[Ranges, Mapping[str, str]]:
            return reduce(merged, (memo.of(values) for memo in memos)), {}

        return RangeMemo(observation_sets(task), joined, kept, memos)
    if calib is not None:

        def observe(values: Sequence[str]) -> tuple[Ranges, Mapping[str, str]]:
            ranges = calibrate(
                model,
                values,
                calib,
                threads=options.threads,
                # Range search needs them as well, and a second pass over the samples would cost more.
                histograms=METHODS[options.method].needs_histogram or searches_ranges(options),
                positive=nonnegative(task.view, values),
                progress=lambda done, total: progress("calibrate", done, total),
            )
            return ranges, {}

        return RangeMemo(observation_sets(task), observe, kept)
    if not options.estimates:
        return RangeMemo([], lambda values: ({}, {}), kept)

    def estimate(values: Sequence[str]) -> tuple[Ranges, Mapping[str, str]]:
        declared = input_ranges(model, options.input_range)
        return estimate_ranges(source.model, model, list(values), declared)

    return RangeMemo([[name for names in observation_sets(task) for name in names]], estimate, kept)
