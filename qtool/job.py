"""What a run is about: a model that is ready to be planned for, everything that was asked, the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from qtool.calibrate.serial import Calibration, read
from qtool.data.open import Data, open_source
from qtool.data.ports import ports_of
from qtool.data.reading import Reading
from qtool.data.samples import Source as Samples
from qtool.data.samples import check_used, hold_out, synthetic
from qtool.errors import DataError, ModelError, UsageError
from qtool.graph.load import Source, from_model, load
from qtool.graph.prepare import Prepared, prepare
from qtool.graph.prepare.opset import QDQ_OPS
from qtool.graph.view import View, opset_of
from qtool.options import ModelLike, Options
from qtool.plan.model import Scaled, Wishes
from qtool.plan.scaling import rescaled
from qtool.plan.scheme import Scheme, settle
from qtool.plan.wishes import Asked, named, wishes
from qtool.session import Session, has_op
from qtool.steps import step
from qtool.tables.forms import Form
from qtool.tables.modes import MIXED_BITS, MODES

# --calib none: no samples, rough ranges.
NO_SAMPLES = "none"


@dataclass(frozen=True)
class Job:
    """A model that is ready to be planned for, and everything that was asked; `known` from earlier runs.

    `puzzling` are the nodes that the report is to explain; `scaled` is what was done to the prepared model's
    constants since it was prepared.
    """

    source: Source
    prepared: Prepared
    view: View
    scheme: Scheme
    wish: Wishes
    options: Options
    known: Calibration | None = None
    puzzling: tuple[str, ...] = ()
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)

    def rescaled(self, scaled: Mapping[str, tuple[Scaled, ...]]) -> Job:
        """The same with constants of the prepared model scaled.

        Raises:
            KeyError: it has no such constants.
        """
        if not scaled:
            return self
        model = rescaled(self.prepared.model, scaled)
        joined = {n: (*self.scaled.get(n, ()), *scaled.get(n, ())) for n in (*self.scaled, *scaled)}
        return replace(self, prepared=replace(self.prepared, model=model), view=View(model), scaled=joined)


def open_job(model: ModelLike, options: Options) -> Job:
    """Load, check, prepare; match what was asked with the tables and the nodes."""
    plan = options.plan
    if plan is not None:
        options = replace(
            options,
            mode=plan.mode,
            target=plan.target,
            exclude=plan.exclude,
            include=plan.include,
            sets=plan.sets,
            **vars(plan.choices),
        )
    if options.target_size or options.target_bits:
        options = _mixing(options)
    scheme = settle(options.mode, options.target, options.choices, options.sets)
    source = load_model(model)
    if source.warnings and scheme.target.onnxruntime:
        Session(source.loadable, name=source.name)  # what was mended is what the runtime accepts
    with step(source.name, "it is prepared", ModelError):
        prepared = prepare(
            source.model,
            onnxruntime=scheme.target.onnxruntime,
            opset=scheme.opset,
            requantize=options.requantize,
            needed=() if scheme.form is Form.HALF and not options.sets else QDQ_OPS,
            runs=has_op,
        )
    view = View(prepared.model)
    if scheme.opset > (found := opset_of(prepared.model)) and scheme.insists:
        raise ModelError(
            f"{source.name}: opset {found} can't be raised to {scheme.opset}, which {scheme.insists} need",
            "quantize to 8 bits with float inputs and outputs, or export the model anew",
        )
    wish = wishes(view, source.model, scheme, Asked(options.exclude, options.include, options.sets))
    puzzling = named(view, source.model, options.explain, "--explain")
    job = Job(source, prepared, view, scheme, wish, options, _known(source, options), puzzling)
    if plan is None or plan.model_sha256 != source.sha256:  # of another model's, whoever replays it says so
        return job
    try:
        return job.rescaled(plan.scaled)
    except KeyError as error:
        raise UsageError(f"the plan does not fit the model: {error.args[0]}") from error


def _mixing(options: Options) -> Options:
    """Bits a layer start from the fewest.

    Raises:
        UsageError: another mode, or two aims.
    """
    mode = MODES.get(options.mode)
    if mode is None:
        return options  # whoever looks it up says so
    if "bits" not in mode.options:
        raise UsageError("--target-size and --target-bits are for --mode weight-only")
    if options.target_size and options.target_bits:
        raise UsageError("--target-size and --target-bits are two aims", "leave one of them out")
    return replace(options, bits=min(options.bits, MIXED_BITS))


def _known(source: Source, options: Options) -> Calibration | None:
    """The ranges that were handed over.

    Raises:
        DataError: they are of another model, or lack what the method needs.
        UsageError: samples were handed over, too.
    """
    if options.ranges is None:
        return None
    if options.calib is not None:
        raise UsageError("--ranges and --calib both set the ranges", "leave one of them out")
    known = options.ranges if isinstance(options.ranges, Calibration) else read(Path(options.ranges))
    if known.model_sha256 != source.sha256:
        raise DataError(
            f"the ranges are of another model (sha256 {known.model_sha256[:16]}, not {source.sha256[:16]})",
            "qtool calibrate makes them anew",
        )
    return known


def load_model(model: ModelLike) -> Source:
    return from_model(model) if isinstance(model, onnx.ModelProto) else load(Path(model))


def estimates(options: Options) -> bool:
    """Whether ranges are to be derived from the model alone."""
    return isinstance(options.calib, str) and options.calib == NO_SAMPLES


def samples_of(job: Job) -> tuple[Samples | None, Samples | None, tuple[str, ...]]:
    """What to calibrate on, what to judge on, and what to say about it."""
    options = job.options
    calib = None
    if options.calib is not None and not estimates(options):
        calib = read_for(job.source, options.calib, options.reading, options.calib_format)
    ready = options.plan is not None or job.known is not None or estimates(options)
    if calib is None and job.scheme.mode.needs_ranges and not ready:
        raise UsageError(
            f"--mode {job.scheme.mode.name} needs samples to set its ranges",
            "add --calib SRC (a directory of .npz files, of images ..), or --calib none for rough estimates",
        )
    data = None
    if options.data is not None:
        data = read_for(job.source, options.data, options.reading, options.data_format)
    check_used(options.reading, [s for s in (calib, data) if s is not None])
    if data is not None:
        return calib, data, made_up(calib, data)
    if calib is None:
        return None, None, ("not judged: there are no samples (add --data SRC)",)
    rest, held_out, split = hold_out(calib)
    if split:
        return rest, held_out, made_up(calib)
    note = f"judged on the {len(calib)} samples that set the ranges: too few to hold some out"
    return calib, calib, (note, *made_up(calib))


def read_for(source: Source, data: Data, reading: Reading, kind: str = "") -> Samples:
    """Samples for a model, read as the user said.

    Raises:
        QtoolError: DataError, UsageError or EnvironmentFailure, as data/open.py has it.
    """
    folder = source.path.parent if source.path else None
    return open_source(data, ports_of(source.model), reading, kind=kind, model=folder)


def made_up(*sources: Samples | None) -> tuple[str, ...]:
    """What to say of random numbers, wherever they were taken for samples."""
    return tuple(
        f"{s.name} is random data: it says nothing of accuracy" for s in sources if s and synthetic(s)
    )
