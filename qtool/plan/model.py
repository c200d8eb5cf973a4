"""The plan: plain data that names nodes and values, so it can be printed, diffed, saved, replayed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qtool.numerics.qparams import QParams
from qtool.tables.ops import ANY, Bounds
from qtool.tables.qtypes import TensorSpec

Use = tuple[str, int]
"""A node's name and the index of the input that reads the value."""


class Kind(Enum):
    """What is quantized at a site, and in which form."""

    ACTIVATION = "activation"  # QuantizeLinear -> DequantizeLinear
    WEIGHT = "weight"  # int8 initializer -> DequantizeLinear
    BIAS = "bias"  # int32 initializer -> DequantizeLinear, at scale input * weight
    STORED = "stored"  # int8 initializer -> Cast -> Mul: folded at load, float at run time
    LIFTED = "lifted"  # a float bias vector, given leading axes of 1
    FUSED = "fused"  # int8 initializer that a fused recurrent node reads itself


class Form(Enum):
    """What a node becomes."""

    INT8 = "int8"
    DYNAMIC = "int8-dynamic"


@dataclass(frozen=True)
class Site:
    """One tensor to quantize.

    Args:
        value: its name.
        uses: who reads it quantized; None: every reader, graph outputs included.
        group: activation sites of one group share one scale (pass-through ops).
        bounds: what the range may not exceed, from the op that makes the value.
        guard: the runtime must be kept from moving this Q, or from quantizing what precedes it.
        scale_from: for a bias, whose scales it multiplies: (input value, node that reads the weight).
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
        exclude, include: what was asked for.
        calibration_sha256: of the ranges behind the scales; '' when there were none.
    """

    mode: str
    target: str
    model_sha256: str
    forms: dict[str, Form]
    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    calibration_sha256: str = ""

    @property
    def observed(self) -> tuple[str, ...]:
        """The values whose ranges calibration must find."""
        return tuple(dict.fromkeys(s.value for s in self.sites if s.kind is Kind.ACTIVATION))

    @property
    def resolved(self) -> bool:
        """Whether every site has its scale."""
        return all(s.qparams is not None or s.kind is Kind.LIFTED for s in self.sites)


@dataclass(frozen=True)
class Wishes:
    """What was asked for beyond the tables.

    Args:
        keep_float: node -> why it stays in float.
        force: nodes to quantize even where the target would rather not.
    """

    keep_float: dict[str, str]
    force: frozenset[str] = frozenset()
