"""The scheme of a run: mode, target and the user's choices of types and forms, checked against the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from qtool.errors import UsageError, did_you_mean
from qtool.tables.forms import Form
from qtool.tables.methods import METHODS
from qtool.tables.modes import FEW_BITS, FLOORS, MODES, PRODUCT_BITS, WEIGHT_BITS, Mode
from qtool.tables.ops import OpRule, Role
from qtool.tables.qtypes import (
    BINARY,
    FLOAT16,
    FLOAT32,
    INT2,
    INT4,
    INT8,
    INT16,
    QTYPES,
    TERNARY,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    QType,
)
from qtool.tables.runtimes import DEFAULT, RUNTIMES, Tells
from qtool.tables.targets import TARGETS, Target

LEVELS = {t.name: t for t in (TERNARY, BINARY)}
FORMATS = ("qdq", "qoperator")
WEIGHT_TYPES = (INT8, UINT8, INT16, INT4, INT2)
ACTIVATION_TYPES = (UINT8, INT8, UINT16, INT16)
BLOCKS = (32, 64, 128)
PREFERENCES = ("size", "speed")
IO_TYPES = ("float", *sorted({t.name for m in MODES.values() for t in m.io if t is not FLOAT32}))

# The opsets of per-channel and of blocked scales; tables/qtypes.py has those of types.
PER_CHANNEL_OPSET = 13
WIDE_OPSET = 21


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The user's choices of types and forms; the defaults are those of the mode and the target.

    Args:
        weights, acts: static: names of the types of weights and activations; '' for the target's.
        symmetric: static: activation ranges symmetric about 0.
        per_tensor: static: one scale for each weight, instead of one for each channel.
        format: static: 'qdq', or 'qoperator' for integer operators.
        method: static: the range estimator, a row of tables/methods.py.
        io: the type of float inputs and outputs: float, uint8 or int8 (static), float16 (fp16).
        bits: weight-only: 8, 4 or 2.
        block: weight-only: values for each scale; 0: in 8 bits the most that the accuracy allows, in 4 bits
            32, in 2 bits 64.
        levels: of weights of 2 bits: 'ternary' for -1, 0, 1, 'binary' for -1, 1, times a scale.
        timestep: static: the input that tells the step of a model that is run step after step; activations
            have scales for each bucket of steps, in integer operators. '': scales are constants.
        buckets: the most buckets of steps.
        requantize: turn parts that are quantized already back into floats first, without their scales.
        prefer: weight-only: 'size' stores weights and computes in float; 'speed' uses MatMulNBits too.
    """

    weights: Literal["", "int8", "uint8", "int16", "int4", "int2"] = ""
    acts: Literal["", "uint8", "int8", "uint16", "int16"] = ""
    symmetric: bool = False
    per_tensor: bool = False
    format: Literal["qdq", "qoperator"] = "qdq"
    method: Literal["minmax", "moving-average", "percentile", "entropy", "mse", "auto"] = "minmax"
    io: Literal["float", "float16", "int8", "uint8"] = "float"
    bits: Literal[8, 4, 2] = 8
    block: Literal[0, 32, 64, 128] = 0
    prefer: Literal["size", "speed"] = "size"
    timestep: str = ""
    levels: Literal["", "ternary", "binary"] = ""
    buckets: int = 8
    requantize: bool = False

    @property
    def integer_operators(self) -> bool:
        """Whether integer operators are written: scales that follow a step need them."""
        return self.format == "qoperator" or bool(self.timestep)

    def made(self) -> dict[str, Any]:
        """Return the choices that differ from the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(Choices) if getattr(self, f.name) != f.default}


@dataclass(frozen=True)
class Scheme:
    """A mode on a target, with every choice settled.

    Args:
        form: of quantized nodes; None: only weights are quantized.
        activation, weight: the types of int8 nodes.
        symmetric: activation ranges are symmetric about 0.
        per_tensor: one scale for each weight.
        storage, block: the storage type of the weights of other nodes, and values for each scale (0: the most
            that the accuracy allows).
        io: the type of the model's float inputs and outputs.
        opset: the lowest that has all types and operators.
        requires_opset: what a lower opset lacks; '' where a lower one only means coarser scales.
        floor_db: SQNR below which the report warns.
        forces_form: the user chose other types or another form than those that placement measures.
        choices: the user's.
        runtime: in which plans are raced and judged, 'NAME' or 'NAME:PRECISION'; '': not known.
    """

    mode: Mode
    target: Target
    form: Form | None
    activation: QType
    weight: QType
    symmetric: bool
    per_tensor: bool
    storage: QType
    block: int
    io: QType
    opset: int
    requires_opset: str
    floor_db: float
    forces_form: bool
    choices: Choices
    runtime: str = ""

    @property
    def judge(self) -> str:
        """The runtime to judge in: onnxruntime, where that of the target is not known."""
        return self.runtime or DEFAULT

    @property
    def timed(self) -> Tells:
        """The most that can be measured of plans, and means something for the target."""
        return RUNTIMES[self.runtime.partition(":")[0]].tells if self.runtime else Tells.OUTPUTS

    @property
    def weight_levels(self) -> dict[int, QType]:
        """Bits -> the type that bit allocation may choose: of int8 products, else of stored weights."""
        fewest, table = self.storage, WEIGHT_BITS
        if self.form is Form.INT8:
            fewest, table = self.weight, {8: self.target.weight, **PRODUCT_BITS}
        more = {bits: qtype for bits, qtype in table.items() if bits > fewest.bits}
        return {fewest.bits: fewest, **more} if fewest.bits < 8 else {8: fewest}

    @property
    def simulated(self) -> bool:
        """Whether the runtime is a simulator, whose speed is not reported."""
        return bool(self.runtime) and self.timed is Tells.OUTPUTS

    def form_of(self, rule: OpRule, *, inside: bool = False) -> Form | None:
        """Return the form of an op's nodes; None when the op has none in this mode.

        The state of a recurrent layer can't be observed from outside, nor can values inside an If, Loop or
        Scan. Only run-time quantization is left. It costs onnxruntime next to nothing; other runtimes with
        calibrated scales may lack the operators.

        Args:
            rule: of the op.
            inside: the node is inside an If, Loop or Scan.
        """
        unobservable = rule.role is Role.RECURRENT
        unobservable |= inside and rule.role is Role.WEIGHTED and self.target.onnxruntime
        if self.form is Form.INT8 and unobservable and Form.DYNAMIC in rule.forms:
            return Form.DYNAMIC
        return self.form if self.form in rule.forms else None


def make_scheme(
    mode_name: str, target_name: str, choices: Choices, sets: Sequence[str] = (), runtime: str = ""
) -> Scheme:
    """Return the scheme of a mode, a target and choices.

    Args:
        mode_name, target_name: rows of the tables.
        choices: the user's.
        sets: PATTERN=precision texts; a precision may need a later opset.
        runtime: 'NAME' or 'NAME:PRECISION'; '': the target's own.

    Raises:
        UsageError: a name is unknown, or choices exclude each other or the mode or target.
    """
    mode = _row(mode_name, MODES, "mode")
    target = _row(target_name, TARGETS, "target")
    for name in choices.made():
        if name not in mode.options:
            able = ", ".join(m.name for m in MODES.values() if name in m.options)
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} means nothing in --mode {mode.name}", f"it is for --mode {able}")
    weight = _type(choices.weights, WEIGHT_TYPES, "weights") or target.weight
    if weight is INT8:
        weight = target.weight
    levels = _type(choices.levels, tuple(LEVELS.values()), "levels")
    activation = _type(choices.acts, ACTIVATION_TYPES, "acts") or target.activation
    _one_of(choices.io, ("float", *(t.name for t in mode.io if t is not FLOAT32)), "io")
    io = FLOAT32 if choices.io == "float" else QTYPES[choices.io]
    _one_of(choices.format, FORMATS, "format")
    _one_of(choices.prefer, PREFERENCES, "prefer")
    _one_of(choices.method, tuple(METHODS), "method")
    if problem := _unsuited(activation, weight, choices):
        raise UsageError(problem[0], problem[1])
    form = Form.NBITS if choices.prefer == "speed" else mode.form
    if form not in (None, Form.FLOAT16) and form not in target.forms:
        option = "--prefer speed" if form is Form.NBITS else f"--mode {mode.name}"
        able = ", ".join(t.name for t in TARGETS.values() if form in t.forms)
        raise UsageError(f"{option} has no kernel on --target {target.name}", f"targets: {able}")
    storage = WEIGHT_BITS[choices.bits] if "bits" in mode.options else mode.storage
    if levels is not None and mode.form is Form.INT8:
        weight = levels
    elif levels is not None:
        storage = levels
    few = FEW_BITS.get(storage)
    block = choices.block or (few.block if few else 0)
    types = {activation, weight, storage, *(PRECISIONS.get(t.rpartition("=")[2], INT8) for t in sets)}
    if target.wide is not None and mode.form is Form.INT8:
        types.add(target.wide)
    since = max(t.since for t in types)
    blocked = storage is INT8 and not target.onnxruntime and mode.form is None
    return Scheme(
        mode,
        target,
        form,
        activation,
        weight,
        choices.symmetric or target.symmetric,
        choices.per_tensor,
        storage,
        block,
        io,
        opset=max(since, WIDE_OPSET if blocked else PER_CHANNEL_OPSET),
        requires_opset=_requires_opset(since, io),
        floor_db=FLOORS.get(min(storage.bits, weight.bits), mode.floor_db),
        forces_form=bool(choices.made().keys() & {"weights", "acts", "format", "io", "timestep", "levels"}),
        choices=choices,
        runtime=runtime or target.runtime,
    )


def _requires_opset(since: int, io: QType) -> str:
    """Return the part that has no form at all below the opset that its types came with; '' if none."""
    if since > PER_CHANNEL_OPSET:
        return "types of 2, 4 and 16 bits"
    return "integer inputs and outputs" if io.bits == 8 else ""


def _unsuited(activation: QType, weight: QType, choices: Choices) -> tuple[str, str] | None:
    """Return the message and the hint for choices that exclude each other; None if there are none."""
    if choices.bits not in WEIGHT_BITS:
        return f"--bits {choices.bits}: weights are stored in {' or '.join(map(str, WEIGHT_BITS))} bits", ""
    if choices.levels and (choices.weights not in ("", "int2") or choices.bits not in (Choices.bits, 2)):
        return f"--levels {choices.levels} is for weights of 2 bits", "--weights int2, or --bits 2"
    if choices.levels and choices.prefer == "speed":
        return f"--levels {choices.levels}: MatMulNBits has no such weights", "leave out --prefer speed"
    if choices.block and choices.block not in BLOCKS:
        return f"--block {choices.block}: blocks are of {', '.join(map(str, BLOCKS))} values", ""
    if choices.buckets < 2:
        return f"--buckets {choices.buckets}: there are at least 2 buckets of steps", ""
    if choices.integer_operators:
        form = "--timestep" if choices.timestep else "--format qoperator"
        for name, qtype in (("acts", activation), ("weights", weight)):
            if qtype.in_file not in ("int8", "uint8"):
                return (
                    f"{form} has no integer operators for --{name} {qtype.name}",
                    "leave it out for QuantizeLinear/DequantizeLinear",
                )
        if activation is INT8 and weight is UINT8:
            return (
                f"{form} with --acts int8 needs --weights int8: there are no kernels for uint8",
                "",
            )
    return None


def _row(name: str, table: dict[str, Any], option: str) -> Any:
    if name not in table:
        raise UsageError(
            f"no {option} '{name}'", did_you_mean(name, table) or f"{option}s: {', '.join(table)}"
        )
    return table[name]


def _one_of(word: str, allowed: tuple[str, ...], option: str) -> None:
    if word not in allowed:
        hint = did_you_mean(word, allowed) or f"--{option} {' or '.join(allowed)}"
        raise UsageError(f"--{option} '{word}' is unknown", hint)


def _type(name: str, allowed: tuple[QType, ...], option: str) -> QType | None:
    if not name:
        return None
    _one_of(name, tuple(t.name for t in allowed), option)
    return QTYPES[name]


# The precisions of --set.
PRECISIONS: dict[str, QType] = {
    "int8": INT8,
    "int4": UINT4,
    "int2": UINT2,
    "fp16": FLOAT16,
    "fp32": FLOAT32,
}
