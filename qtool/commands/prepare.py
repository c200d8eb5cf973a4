"""From what a user gives to a prepared model: load, check, prepare, match constraints, split the samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import onnx
import onnx_ir as ir

from qtool.calibration.memo import RangeMemo
from qtool.calibration.ranges_file import Calibration
from qtool.commands.ranges import given_ranges, range_memo, sample_buckets
from qtool.data.budget import Budget, Counted
from qtool.data.doubts import Habits, ObservedSamples, doubts_of
from qtool.data.model_inputs import inputs_of, rescaled_inputs, usual_magnitudes, with_shapes
from qtool.data.open import Data, open_source
from qtool.data.reading import Reading
from qtool.data.samples import Part, Samples, check_used, synthetic
from qtool.data.split import SampleSets, split_samples
from qtool.errors import ModelError, UsageError, printable
from qtool.graph.load import Source, from_model, load
from qtool.graph.prepare import prepare
from qtool.graph.prepare.keep_grids import has_quantizers
from qtool.graph.prepare.opset import QDQ_OPS
from qtool.graph.view import View, opset_of
from qtool.options import ModelLike, Options, Progress, silent
from qtool.plan.assignment import PlanInput
from qtool.plan.constraints import Patterns, match_constraints, match_nodes
from qtool.plan.known_ranges import completed
from qtool.plan.prepared import PreparedModel
from qtool.plan.scheme import Scheme, make_scheme
from qtool.runtime.cpu import fitting_target
from qtool.runtime.heartbeat import step
from qtool.runtime.library import has_op, known_ops
from qtool.runtime.session import Session
from qtool.tables.efforts import EFFORTS
from qtool.tables.forms import Form
from qtool.tables.images import PROCESSOR
from qtool.tables.modes import MIXED_BITS, MODES, PRODUCT_BITS, ModeName
from qtool.tables.runtimes import RUNTIMES, Runtime
from qtool.tables.targets import AUTO, TargetName

NO_SAMPLES = SampleSets(None, None, None, False, False)

# Inferences for each select sample that the budget keeps for the end: acceptance, and the audit of the file.
_RESERVE = 5


def prepare_model(
    model: ModelLike | Source,
    options: Options,
    progress: Progress = silent,
    sets: SampleSets | None = None,
) -> PreparedModel:
    """Load, check and prepare a model, match the constraints with its nodes, and split the samples.

    Args:
        model: a path, a model in memory, or a loaded one.
        options: what the user chose; a plan among them overrides the choices of types and nodes.
        progress: called at the start, and as calibration goes on, when ranges are first asked for.
        sets: the samples, if they are open and split already, or NO_SAMPLES; None: as the options say.

    Raises:
        QtoolError: UsageError, ModelError, DataError or EnvironmentFailure.
    """
    progress("prepare", 0, 0)
    options = _settled(options)
    scheme = make_scheme(options.mode, options.target, options.choices, options.sets, options.runtime)
    source = load_model(model)
    custom = custom_ops(source.model)
    if source.warnings and scheme.target.onnxruntime and not custom:
        Session(source.loadable, name=source.name)  # what was mended is what the runtime accepts
    calibration = given_ranges(source, options)
    sets = _split(source, scheme, options, calibration) if sets is None else sets
    shaped = _with_ranks(source.model, sets)
    if (runtime := RUNTIMES[(scheme.target.runtime or scheme.judge).partition(":")[0]]).static:
        shaped = _with_static_shapes(shaped, runtime, options.reading, sets)
    buckets = sample_buckets(source, options, sets)
    sets, budget = _counted(sets, options)
    if custom and sets.judge is None:
        note = f"not run: onnxruntime has no {', '.join(custom)}"
        sets = replace(sets, notes=(*sets.notes, note))
    with step(source.name, "it is prepared", ModelError):
        prepared = prepare(
            shaped,
            onnxruntime=scheme.target.onnxruntime,
            opset=scheme.opset,
            requantize=options.requantize,
            grid_bits=scheme.activation.bits if scheme.form is Form.INT8 and not options.requantize else 0,
            needed=() if scheme.form is Form.FLOAT16 and not options.sets else QDQ_OPS,
            runs=has_op,
        )
    view = View(prepared.model)
    if scheme.opset > (opset := opset_of(prepared.model)) and scheme.requires_opset:
        raise ModelError(
            f"{source.name}: opset {opset} can't be raised to {scheme.opset}, "
            f"which {scheme.requires_opset} need",
            "quantize to 8 bits with float inputs and outputs, or export the model anew",
        )
    patterns = Patterns(tuple(options.exclude), tuple(options.include), tuple(options.sets))
    constraints = match_constraints(view, source.model, scheme, patterns)
    grids = completed(view, prepared.grids)
    task = PlanInput(view, scheme, constraints, source.sha256, grids=grids)
    explain = match_nodes(view, source.model, options.explain, "--explain")

    def memo_of(model: ir.Model, task: PlanInput) -> RangeMemo:
        # float16 needs no ranges, and looks for overflow on the samples that there are.
        looks = scheme.form is Form.FLOAT16 and sets.calibrate is None
        observed = sets.select if looks else sets.calibrate
        parts = [Part(observed, p, observed.name) for p in buckets.positions] if observed and buckets else ()
        return range_memo(source, model, task, options, observed, calibration, progress, parts)

    ready = PreparedModel(
        source,
        prepared.model,
        prepared.notes,
        task,
        options,
        sets,
        budget,
        explain,
        memo_of(prepared.model, task),
        memo_of,
        buckets,
    )
    return _scaled_as_planned(ready)


def custom_ops(model: ir.Model) -> list[str]:
    """Return the ops that the runtime does not know, as `domain::Op`; local functions are no such ops."""
    functions = {(f.domain, f.name) for f in model.functions.values()}
    bodies = (n for f in model.functions.values() for n in f.all_nodes())
    ops = {(n.domain, n.op_type) for n in (*model.graph.all_nodes(), *bodies)} - functions
    return sorted(f"{d}::{op}" for d, op in ops - known_ops() if d not in ("", "ai.onnx"))


def refusal(error: ModelError, model: ir.Model) -> ModelError:
    """Return the runtime's refusal of a model, with the modes that need not run it where an op is custom."""
    if not (custom := custom_ops(model)):
        return error
    return ModelError(
        error.message,
        f"{', '.join(custom)} is a custom op: without --calib and --data, --mode weight-only, dynamic and "
        "fp16 need not run it",
    )


def _with_ranks(model: ir.Model, sets: SampleSets) -> ir.Model:
    """Return the model whose inputs without a shape have as many axes as in the first sample."""
    samples = sets.calibrate or sets.judge
    bare = {v.name for v in model.graph.inputs if isinstance(v.type, ir.TensorType) and v.shape is None}
    if samples is None or not bare:
        return model
    shown = next(iter(samples.read(frozenset({0}))), None)
    clone = model.clone()
    for value in clone.graph.inputs:
        array = shown.inputs.get(value.name or "") if shown is not None else None
        if value.name in bare and array is not None:
            value.shape = ir.Shape([None] * array.ndim)
    return clone


def _with_static_shapes(model: ir.Model, runtime: Runtime, reading: Reading, sets: SampleSets) -> ir.Model:
    """Return the model with the shapes of --shape fixed; all other shapes follow from them.

    Raises:
        UsageError: an input keeps a free axis.
    """
    clone = model.clone()
    inputs = with_shapes(inputs_of(model), reading.shape)
    samples = sets.calibrate or sets.judge
    for value in clone.graph.inputs:
        spec = inputs.get(value.name or "")
        if spec is None:
            continue  # an initializer
        if spec.shape is None or not all(isinstance(axis, int) and axis > 0 for axis in spec.shape):
            shown = next(iter(samples.read(frozenset({0}))), None) if samples is not None else None
            array = None if shown is None else shown.inputs.get(value.name or "")
            axes = (spec.shape or (1, 3, 224, 224)) if array is None else array.shape
            shape = ",".join(str(axis) if isinstance(axis, int) and axis > 0 else "1" for axis in axes)
            raise UsageError(
                f"input '{printable(value.name or '', 80)}' is {spec}: {runtime.title} needs fixed shapes",
                f"--shape {value.name}={shape}",
            )
        value.shape = ir.Shape(spec.shape)
    for value in (*clone.graph.outputs, *(v for node in clone.graph.all_nodes() for v in node.outputs)):
        if value.shape is not None and not value.shape.is_static():
            value.shape = None  # inferred anew
    return clone


def _settled(options: Options) -> Options:
    """The options with what a plan or this CPU settles; bits start from the fewest where a size decides.

    Raises:
        UsageError: another mode, or two aims.
    """
    if (plan := options.plan) is not None:
        options = replace(
            options,
            mode=cast(ModeName, plan.mode),
            target=cast(TargetName, plan.target),
            exclude=plan.exclude,
            include=plan.include,
            sets=plan.sets,
            runtime=options.runtime or plan.runtime,
            **vars(plan.choices),
        )
    elif options.target == AUTO:
        options = replace(options, target=cast(TargetName, fitting_target()))
    mode = MODES.get(options.mode)
    if mode is None or not (options.target_size or options.target_bits):
        return options  # an unknown mode is refused where it is looked up
    if options.target_size and options.target_bits:
        raise UsageError("--target-size and --target-bits are two aims", "leave one of them out")
    if options.levels:
        return options  # these have the fewest bits
    if "bits" in mode.options:
        return replace(options, bits=min(options.bits, MIXED_BITS))
    if "weights" not in mode.options:
        raise UsageError("--target-size and --target-bits are for --mode static and weight-only")
    if options.weights not in ("", *(qtype.name for qtype in PRODUCT_BITS.values())):
        raise UsageError(f"--weights {options.weights} has one size", "with --target-size: int4 or int2")
    return replace(options, weights=options.weights or "int4")


def _scaled_as_planned(model: PreparedModel) -> PreparedModel:
    """The model with its constants scaled as the plan to replay has them.

    Raises:
        UsageError: the plan names constants that the model lacks.
    """
    plan = model.options.plan
    if plan is None or plan.model_sha256 != model.source.sha256:  # a plan for another model is refused later
        return model
    try:
        return model.rescaled(plan.scaled)
    except KeyError as error:
        raise UsageError(f"the plan does not fit the model: {error.args[0]}") from error


def _split(source: Source, scheme: Scheme, options: Options, calibration: Calibration | None) -> SampleSets:
    """The samples of a run.

    Raises:
        UsageError: the mode needs samples, and there are none.
    """
    calib = data = None
    if options.calib is not None and not options.estimates:
        calib = read_samples(source, options.calib, options.reading, options.calib_format)
    ready = options.plan is not None or calibration is not None or options.estimates
    ready |= has_quantizers(source.model) and not options.requantize  # it came with scales
    if calib is None and scheme.mode.needs_ranges and not ready:
        raise UsageError(
            f"--mode {scheme.mode.name} needs samples to set its ranges",
            "add --calib SRC (a directory of .npz files, of images ..), or --calib none for rough estimates",
        )
    if options.data is not None:
        data = read_samples(source, options.data, options.reading, options.data_format)
    check_used(options.reading, [s for s in (calib, data) if s is not None])
    sets = split_samples(calib, data, ranges_known=calibration is not None)
    return replace(sets, notes=(*sets.notes, *made_up(calib, data)), doubts=lambda: doubts_of(calib, data))


def _counted(sets: SampleSets, options: Options) -> tuple[SampleSets, Budget]:
    """The sample sets that count what choices cost, and the budget that they count for."""
    each = EFFORTS[options.effort].inferences
    most = None if each is None or sets.select is None else each * len(sets.select)
    reserve = 0 if sets.select is None else _RESERVE * len(sets.select)
    budget = Budget(most, reserve, options.time_budget)

    def counted(samples: Samples | None) -> Samples | None:
        return None if samples is None else Counted(samples, budget)

    return replace(sets, calibrate=counted(sets.calibrate), select=counted(sets.select)), budget


def load_model(model: ModelLike | Source) -> Source:
    """Load a model from a path, or take one in memory, or one that is loaded.

    Raises:
        ModelError: it can't be read, or is refused.
    """
    if isinstance(model, Source):
        return model
    return from_model(model) if isinstance(model, onnx.ModelProto) else load(Path(model))


def read_samples(source: Source, data: Data, reading: Reading, kind: str = "") -> ObservedSamples:
    """Open samples for a model, read as the user said, and looked at while they are read.

    Raises:
        QtoolError: DataError, UsageError or EnvironmentFailure, as data/open.py has it.
    """
    folder = source.path.parent if source.path else None
    inputs = inputs_of(source.model)
    samples = open_source(data, inputs, reading, kind=kind, model=folder)
    habits = Habits(
        frozenset(rescaled_inputs(source.model)),
        usual_magnitudes(source.model),
        folder is not None and (folder / PROCESSOR).is_file(),
    )
    return ObservedSamples(samples, with_shapes(inputs, reading.shape), reading, habits)


def made_up(*sources: Samples | None) -> tuple[str, ...]:
    """Return a warning for each source of random numbers."""
    return tuple(
        f"{s.name} is random data: it says nothing of accuracy" for s in sources if s and synthetic(s)
    )
