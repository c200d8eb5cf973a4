"""The plan: plain data that names nodes and values, so it can be printed, diffed, saved, replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from qtool.numerics.qparams import QParams
from qtool.plan.half import Halves
from qtool.plan.scheme import Choices
from qtool.tables.forms import Form
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import QType, TensorSpec

Use = tuple[str, int]
"""A node's name and the index of the input that reads the value."""


class Kind(Enum):
    """What is done at a site, and in which form it is written."""

    ACTIVATION = "activation"  # QuantizeLinear -> DequantizeLinear
    RUNTIME = "runtime"  # DynamicQuantizeLinear: the scale is found at every run
    WEIGHT = "weight"  # integer initializer -> DequantizeLinear
    BIAS = "bias"  # int32 initializer -> DequantizeLinear, at scale input * weight
    ADDED = "added"  # a float bias that the product before it adds itself
    LIFTED = "lifted"  # a float bias vector, given leading axes of 1
    APART = "apart"  # a float result that a guard keeps from its readers
    FUSED = "fused"  # integer initializer that a node reads itself
    STORED = "stored"  # integer initializer -> Cast -> Mul: folded at load, float at run time
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
        guard: the runtime must be kept from moving this Q, or from quantizing what precedes it.
        scale_from: for a bias, whose it is: (input value, node that reads the weight).
        qparams: None until resolved.
    """

    value: str
    kind: Kind
    uses: tuple[Use, ...] | None
    spec: TensorSpec
    group: str = ""
    bounds: Bounds = ANY
    guard: bool = False
    scale_from: tuple[str, str] | None = None
    qparams: QParams | None = None

    @property
    def scaled(self) -> bool:
        """Whether it has a scale in the plan."""
        return self.kind in WEIGHTS or self.kind in (Kind.ACTIVATION, Kind.BIAS)


@dataclass(frozen=True)
class Skip:
    """A node left in float, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Everything that rewrite needs to know.

    Args:
        mode, target: names of rows in the tables.
        model_sha256: the source model that the plan is for; '' when it was made in memory.
        forms: what becomes of each quantized node, by name.
        sites: in graph order.
        skips: every quantizable node left in float.
        halves: what becomes float16, and where.
        watched: values that float16 must be able to hold.
        choices: of types and forms.
        exclude, include, sets: what was asked for, node by node.
        calibration_sha256: of the ranges behind the scales; '' when there were none.
    """

    mode: str
    target: str
    model_sha256: str
    forms: dict[str, Form]
    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    halves: Halves = field(default_factory=Halves)
    watched: tuple[str, ...] = ()
    choices: Choices = field(default_factory=Choices)
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    calibration_sha256: str = ""

    @property
    def observed(self) -> tuple[str, ...]:
        """The values whose ranges calibration must find."""
        return tuple(dict.fromkeys((*(s.value for s in self.sites if s.kind in OBSERVED), *self.watched)))

    @property
    def resolved(self) -> bool:
        """Whether every site that needs a scale has one."""
        return all(s.qparams is not None or not s.scaled for s in self.sites)


@dataclass(frozen=True)
class Wishes:
    """What was asked for beyond the tables.

    Args:
        keep_float: node -> why it stays in float.
        force: nodes to quantize even where the target would rather not.
        half: nodes to compute in float16, whatever the mode.
        weights: node -> the type that its weights are kept in.
        float_ports: inputs and outputs that stay float although integers were asked for.
    """

    keep_float: dict[str, str]
    force: frozenset[str] = frozenset()
    half: frozenset[str] = frozenset()
    weights: Mapping[str, QType] = field(default_factory=dict)
    float_ports: frozenset[str] = frozenset()
