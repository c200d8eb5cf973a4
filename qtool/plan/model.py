"""The plan: plain data that names nodes and values, so it can be printed, diffed, saved, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import QParams
from qtool.plan.edits import GraphEdit
from qtool.plan.fp16.assignment import Fp16Assignment
from qtool.plan.scheme import Choices
from qtool.tables.forms import Form
from qtool.tables.operators import Operator
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import TensorSpec
from qtool.tables.reasons import Reason

Use = tuple[str, int]
"""A node's name and the index of the input that reads the value."""


class Dequantizer(Enum):
    """How a weight that is stored as integers becomes floats again."""

    CAST_MUL = "Cast and Mul"  # onnxruntime runs them once, when it loads the model
    OPERATOR = "DequantizeLinear"  # which onnxruntime would run at every inference


class Kind(Enum):
    """What is done at a site, and in which form it is written."""

    ACTIVATION = "activation"  # QuantizeLinear -> DequantizeLinear
    RUNTIME = "runtime"  # DynamicQuantizeLinear: the scale is found at every run
    WEIGHT = "weight"  # integer initializer -> DequantizeLinear
    BIAS = "bias"  # int32 initializer -> DequantizeLinear, at scale input * weight
    FUSED = "fused"  # integer initializer that a node reads itself
    STORED = "stored"  # integer initializer -> floats that a float node reads (see Dequantizer)
    LOOKUP = "lookup"  # integer table, of which only the rows that a Gather picks are restored


# Sites whose values calibration looks at, and those that hold a weight's integers.
OBSERVED = frozenset({Kind.ACTIVATION, Kind.RUNTIME})
WEIGHTS = frozenset({Kind.WEIGHT, Kind.STORED, Kind.FUSED, Kind.LOOKUP})


@dataclass(frozen=True)
class Site:
    """One tensor to quantize.

    Args:
        value: its name.
        uses: who reads it quantized; None: every reader, graph outputs included.
        group: activation sites of one group share one scale (pass-through ops).
        bounds: what the range may not exceed, from the op that makes the value.
        scale_from: for a bias, whose it is: (input value, node that reads the weight).
        qparams: None until resolved.
        dequantizer: how a STORED weight becomes floats.
        integers: what a weight becomes, of its shape and qtype.dtype; None: the nearest (plan/integers.py).
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


@dataclass(frozen=True)
class Skip:
    """A node left in float, and why."""

    node: str
    op: str
    reason: Reason


@dataclass(frozen=True)
class OutlierColumns:
    """What an int8 product leaves to float.

    Args:
        columns: of the activation's last axis.
        lo, hi: the range of all other columns.
    """

    columns: tuple[int, ...]
    lo: float
    hi: float


@dataclass(frozen=True)
class Scaled:
    """What a constant is multiplied with before anything is quantized: what another takes back.

    Args:
        axis: along which the factors lie.
        factors: powers of two, of which floats lose nothing.
    """

    axis: int
    factors: tuple[float, ...]


@dataclass(frozen=True)
class RegionNote:
    """What was measured of nodes that stand or fall together, and what came of it.

    Args:
        nodes: the region, in graph order.
        float_us, int8_us: microseconds of one inference.
        sqnr: dB of the worst output where the region alone is quantized; inf where that changes nothing.
        quantized: the label.
        why: what decided it.
        ops: their op types.
    """

    nodes: tuple[str, ...]
    float_us: float
    int8_us: float
    sqnr: float
    quantized: bool
    why: str
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that rewrite needs to know.

    Args:
        mode, target: names of rows in the tables.
        model_sha256: the source model that the plan is for; '' when it was made in memory.
        forms: what becomes of each quantized node, by name.
        sites: in graph order.
        operators: node -> the operator that it is written as, where its form alone does not tell.
        integer_ports: inputs and outputs of the model that become integers of the type of choices.io.
        edits: changes of the graph that quantize nothing: fusion barriers, biases that move.
        skips: every quantizable node left in float.
        fp16: what becomes float16, and where.
        fp16_observed: values that float16 must be able to hold.
        choices: of types and forms.
        exclude, include, sets: what was asked for, node by node.
        calibration_sha256: of the ranges behind the scales; '' when there were none.
        regions: what placement was decided by, where it was measured. It changes nothing in the model.
        outlier_columns: activation -> the columns that its int8 products leave to a float product.
        scaled: constants of the prepared model that balance what their readers multiply (plan/scaling.py).
        corrections: bias -> what is added to it, a value a channel, in the order in which it lies.
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

    @property
    def observed(self) -> tuple[str, ...]:
        """The values whose ranges calibration must find."""
        return tuple(
            dict.fromkeys((*(s.value for s in self.sites if s.kind in OBSERVED), *self.fp16_observed))
        )

    @property
    def resolved(self) -> bool:
        """Whether every site that needs a scale has one."""
        return all(s.qparams is not None or not s.scaled for s in self.sites)
