"""The plan: plain data that names nodes and values, so that it can be printed, diffed, saved and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qtool.errors import counted
from qtool.graph.save import save_text
from qtool.numerics.qparams import QParams
from qtool.plan.scheme import Choices
from qtool.tables.forms import Form, Operator
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import TensorSpec
from qtool.tables.reasons import Reason

Use = tuple[str, int]
"""A consumer of a value: the name of a node, and the index of the input."""


class Dequantizer(Enum):
    """The nodes that turn a stored weight back into floats."""

    CAST_MUL = "Cast and Mul"  # onnxruntime runs them once, when it loads the model
    OPERATOR = "DequantizeLinear"  # onnxruntime would run it at every inference


class Kind(Enum):
    """The form in which a tensor is quantized."""

    ACTIVATION = "activation"  # QuantizeLinear -> DequantizeLinear
    RUNTIME = "runtime"  # DynamicQuantizeLinear: the scale is computed at every run
    WEIGHT = "weight"  # integer initializer -> DequantizeLinear
    BIAS = "bias"  # int32 initializer -> DequantizeLinear, at scale input * weight
    FUSED = "fused"  # integer initializer, an input of an integer operator
    STORED = "stored"  # integer initializer -> floats for a float node (see Dequantizer)
    LOOKUP = "lookup"  # integer table: a Gather picks rows, and only these become floats


# Kinds whose range calibration observes, and kinds that hold the integers of a weight.
OBSERVED = frozenset({Kind.ACTIVATION, Kind.RUNTIME})
WEIGHTS = frozenset({Kind.WEIGHT, Kind.STORED, Kind.FUSED, Kind.LOOKUP})


@dataclass(frozen=True)
class Site:
    """One tensor to quantize.

    Args:
        value: its name.
        uses: the consumers of the quantized value; None: every consumer, graph outputs included.
        group: activation sites of one group share one scale (pass-through ops).
        bounds: limits of the range, from the op that computes the value.
        scale_from: for a bias, the two factors of its scale: (input value, node with the weight).
        qparams: None until resolved; of a weight in a side file, it may follow from it (plan/resolve.py).
        dequantizer: the nodes that turn a STORED weight into floats.
        integers: of a weight, in its shape and qtype.dtype; None: rounded to nearest (plan/resolve.py).
    """

    value: str
    kind: Kind
    uses: tuple[Use, ...] | None
    spec: TensorSpec
    group: str = ""
    bounds: Bounds = ANY
    scale_from: tuple[str, str] | None = None
    qparams: QParams | None = None
    dequantizer: Dequantizer = Dequantizer.CAST_MUL
    integers: NDArray[np.integer] | None = field(default=None, compare=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Site):
            return NotImplemented
        plain = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.compare)
        a, b = self.integers, other.integers
        return plain and (a is b or (a is not None and b is not None and np.array_equal(a, b)))

    def __hash__(self) -> int:
        return hash((self.value, self.kind, self.uses))

    @property
    def scaled(self) -> bool:
        """Whether it has a scale in the plan."""
        return self.kind in WEIGHTS or self.kind in (Kind.ACTIVATION, Kind.BIAS)


class EditKind(Enum):
    """A change of the graph that quantizes nothing."""

    QUANTIZER_BARRIER = "fusion barrier before QuantizeLinear"
    """The QuantizeLinear of the value reads Max(value, -3e38)."""
    RESULT_BARRIER = "fusion barrier behind the int8 product"
    """Every consumer of the value reads Max(value, -3e38)."""
    ADDED_BIAS = "float bias added after the integer product"
    """`node` takes the value as its bias, and the Add that read it is removed."""
    RESHAPED_BIAS = "bias reshaped to leading axes of 1"
    """The Add reads the bias [N] as [1, .., 1, N]."""
    NORM_BARRIER = "fusion barrier in a layer norm of two types"
    """The consumers of the value read Max(value, -inf), behind the Cast where the consumers in `uses` read it
    cast. With `uses` None the Max is right behind the value, and outputs of the model stay before it."""
    SUM = "Add written as Sum"
    """The Add that reads the value becomes a Sum, which onnxruntime does not fuse with a product."""


@dataclass(frozen=True)
class GraphEdit:
    """One change of the graph.

    Args:
        kind: the change.
        value: the value that is edited.
        uses: the consumers that the edit is for; None: every consumer, graph outputs included.
        node: ADDED_BIAS: the product that adds the bias; '' for other kinds.
        axes: RESHAPED_BIAS: the new rank of the bias; 0 for other kinds.
    """

    kind: EditKind
    value: str
    uses: tuple[Use, ...] | None
    node: str = ""
    axes: int = 0


@dataclass(frozen=True)
class Fp16Node:
    """The float32 inputs and outputs of a node, by index, that are float16 when the node computes in it."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Fp16Assignment:
    """The nodes, weights and ports that become float16, by name.

    Args:
        nodes: the nodes that compute in float16.
        reasons: other node with float32 values -> why it stays in float32.
        stored: weights of float32 nodes that are float16 in the file only.
        overflow: float32 value -> why float16 can't hold it.
        ports: inputs and outputs of the model that become float16.
        copied: weights that stay float32 and have a float16 copy for float16 nodes.
    """

    nodes: dict[str, Fp16Node] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    overflow: dict[str, str] = field(default_factory=dict)
    ports: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Skip:
    """A node left in float, and why."""

    node: str
    op: str
    reason: Reason


@dataclass(frozen=True)
class OutlierColumns:
    """The columns of an activation that an int8 product leaves to a float product.

    Args:
        columns: indices on the last axis.
        lo, hi: the range of all other columns.
    """

    columns: tuple[int, ...]
    lo: float
    hi: float


@dataclass(frozen=True)
class Scaled:
    """The factors of a constant of the prepared model; another constant has the inverse factors.

    Args:
        axis: the axis that the factors run along.
        factors: powers of two, so that float weights lose nothing.
    """

    axis: int
    factors: tuple[float, ...]


@dataclass(frozen=True)
class RegionNote:
    """The measurements of a region, and the decision.

    Args:
        nodes: the region, in graph order.
        float_us, int8_us: microseconds of one inference.
        sqnr: isolated SQNR: dB of the worst output where only this region is quantized; inf: no noise;
            nan: not measured, since int8 can't pay there.
        quantized: the decision.
        why: its reason.
        ops: the op types of the nodes.
    """

    nodes: tuple[str, ...]
    float_us: float
    int8_us: float
    sqnr: float
    quantized: bool
    why: str
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Steps:
    """Scales that follow an input of the model, such as the time step of a diffusion model.

    Args:
        input: its name.
        bounds: the steps, ascending, at which the next bucket begins.
        qparams: activation -> its scale in each bucket, one more than `bounds`. Other activations have the
            scale of their site at every step.
    """

    input: str
    bounds: tuple[float, ...]
    qparams: Mapping[str, tuple[QParams, ...]]


@dataclass(frozen=True)
class Plan:
    """All that rewrite needs.

    Args:
        mode, target: names of rows in the tables.
        model_sha256: of the source model; '' for a model made in memory.
        forms: quantized node -> its form.
        sites: in graph order.
        skips: the nodes left in float that could be quantized.
        fp16: the float16 assignment.
        fp16_observed: values that float16 must be able to hold, by calibration.
        choices: of types and forms.
        exclude, include, sets: the user's patterns.
        calibration_sha256: of the ranges behind the scales; '' without ranges.
        regions: the measurements behind the placement. They change nothing in the model.
        outlier_columns: activation -> the columns that its int8 products leave to a float product.
        scaled: constant of the prepared model -> its factors (recover/channel_scaling.py).
        corrections: bias -> the offset of each channel, in storage order.
        edits: changes of the graph that quantize nothing.
        operators: node -> the operator that it is written as, where several fit its form.
        integer_ports: inputs and outputs of the model that become integers of the type of choices.io.
        runtime: that the plan is for, and the precision of its float nodes there, such as 'openvino:bf16';
            '': not known. It changes nothing in the graph.
        steps: scales that follow an input; None: every scale is a constant.
    """

    mode: str
    target: str
    model_sha256: str
    forms: dict[str, Form]
    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    fp16: Fp16Assignment = field(default_factory=Fp16Assignment)
    fp16_observed: tuple[str, ...] = ()
    choices: Choices = field(default_factory=Choices)
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    calibration_sha256: str = ""
    regions: tuple[RegionNote, ...] = ()
    outlier_columns: Mapping[str, OutlierColumns] = field(default_factory=dict)
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)
    corrections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    edits: tuple[GraphEdit, ...] = ()
    operators: Mapping[str, Operator] = field(default_factory=dict)
    integer_ports: tuple[str, ...] = ()
    runtime: str = ""
    steps: Steps | None = None

    def __repr__(self) -> str:
        counts = f"{counted(len(self.forms), 'node')} quantized, {len(self.skips)} float"
        return f"<Plan of {self.mode} on {self.target}: {counts}>"

    def save(self, path: str | Path) -> None:
        """Write the plan to a JSON file, which `load` and `qtool quantize --plan` read.

        Raises:
            EnvironmentFailure: the file can't be written.
        """
        from qtool.plan.serial import to_json

        save_text(Path(path), to_json(self))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from its file.

        Raises:
            UsageError: it can't be read, or is damaged.
        """
        from qtool.plan.serial import PLAN

        return PLAN.read(Path(path))

    @property
    def observed(self) -> tuple[str, ...]:
        """The values whose ranges calibration must find."""
        return tuple(
            dict.fromkeys((*(s.value for s in self.sites if s.kind in OBSERVED), *self.fp16_observed))
        )

    @property
    def resolved(self) -> bool:
        """Whether every site has a scale whose scale does not follow from the weight alone."""
        needed = (Kind.ACTIVATION, Kind.WEIGHT, Kind.BIAS)
        return all(s.qparams is not None for s in self.sites if s.kind in needed)
