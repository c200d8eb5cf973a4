"""What each runtime runs fast: a row a target, a placement an op.

The cpu rows are measurements of onnxruntime 1.31.1's CPU provider against its float kernels
(docs/targets.md says how they were taken). A key is an op type, or `op/variant` for the forms
that plan/variants.py tells apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from qtool.tables.ops import OPS, Role
from qtool.tables.qtypes import INT8, INT8_REDUCED, UINT8, QType


class Worth(Enum):
    """When an op is worth running in int8."""

    ALWAYS = "always"
    INSIDE = "only between other int8 ops"
    NEVER = "never"


@dataclass(frozen=True)
class Placement:
    """Whether an op runs in int8, and why not where it does not."""

    worth: Worth
    reason: str = ""


ALWAYS = Placement(Worth.ALWAYS)
INSIDE = Placement(Worth.INSIDE, "not between int8 ops: alone it gains nothing there")


def _never(reason: str) -> Placement:
    return Placement(Worth.NEVER, reason)


@dataclass(frozen=True)
class Target:
    """One runtime and machine to quantize for.

    Args:
        activation, weight: the pair of types its kernels take.
        linear_output: whether a MatMul or Gemm quantizes its output too, or hands on floats.
        onnxruntime: whether the runtime is onnxruntime: com.microsoft's fused ops exist there, and its
            optimizers have habits to be met (plan/guards.py, graph/prepare/norms.py).
        min_weight: elements below which a weighted op is not worth its Q and DQ.
        placements: op or op/variant -> Placement; `otherwise` for the rest.
    """

    name: str
    summary: str
    otherwise: Placement
    activation: QType = UINT8
    weight: QType = INT8
    linear_output: bool = False
    onnxruntime: bool = False
    min_weight: int = 0
    placements: Mapping[str, Placement] = field(default_factory=dict)

    def placement(self, op_type: str, variant: str = "") -> Placement:
        """The most specific row for an op and its variant."""
        for key in (f"{op_type}/{variant}", op_type):
            if key in self.placements:
                return self.placements[key]
        return self.otherwise


_CPU_PLACEMENTS: dict[str, Placement] = {
    "Conv": ALWAYS,
    "Conv/stem": _never("a first convolution of few input values runs at 0.5x in int8"),
    "Conv/depthwise": INSIDE,
    "Conv/grouped": _never("a grouped convolution runs at 0.3x in int8"),
    "MatMul": ALWAYS,
    "MatMul/activations": _never("a product of two activations gains nothing in int8 (1.0-1.2x)"),
    "Gemm": ALWAYS,
    "ConvTranspose": _never("there is no int8 ConvTranspose kernel"),
    "LSTM": ALWAYS,
    "Add": INSIDE,
    "Sigmoid": INSIDE,
    "LeakyRelu": INSIDE,
    "Mul/silu": INSIDE,
    "Mul": _never("Mul runs at 0.5-0.7x in int8"),
    "Relu": INSIDE,
    "Clip": INSIDE,
    "MaxPool": INSIDE,
    "GlobalAveragePool": INSIDE,
    "Concat": INSIDE,
    "Transpose": INSIDE,
    "Reshape": INSIDE,
    "Flatten": INSIDE,
    "Squeeze": INSIDE,
    "Unsqueeze": INSIDE,
    "Slice": INSIDE,
    "Split": INSIDE,
    "Gather": INSIDE,
    "Expand": INSIDE,
    "Tile": INSIDE,
    "DepthToSpace": INSIDE,
    "Softmax": _never("Softmax runs at 0.16x in int8"),
    "AveragePool": _never("AveragePool runs at 0.04-0.1x in int8"),
    "Resize": _never("Resize gains nothing in int8"),
}
_NO_KERNEL = _never("no int8 kernel: it would run in float between a DQ and a Q")

_CPU = Target(
    "cpu",
    "onnxruntime on a CPU with VNNI or AMX (x86 since 2019)",
    otherwise=_NO_KERNEL,
    onnxruntime=True,
    min_weight=512,
    placements=_CPU_PLACEMENTS,
)

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        _CPU,
        Target(
            "cpu-avx2",
            "onnxruntime on a CPU without VNNI: 7-bit weights, since u8 x s8 sums saturate there",
            otherwise=_NO_KERNEL,
            weight=INT8_REDUCED,
            onnxruntime=True,
            min_weight=512,
            placements=_CPU_PLACEMENTS,
        ),
        Target(
            "generic",
            "standard QuantizeLinear/DequantizeLinear that any runtime reads, on every op that has a form",
            otherwise=ALWAYS,
            linear_output=True,
            placements={
                **{r.op_type: INSIDE for r in OPS.values() if r.role in (Role.PASS, Role.EPILOGUE)},
                "Mul/square": _never("a square needs twice the bits of what is squared"),
                "Sub": _never("a difference of near equals keeps none of their 8 bits"),
                "ReduceSum": _never("a sum's range is far wider than its terms'"),
                "ReduceMean": _never("the norms that are built on it need more than 8 bits"),
                "Div": _never("a quotient's range is set by the smallest divisor"),
                "LayerNormalization": _never("no standard quantized form"),
                "InstanceNormalization": _never("no standard quantized form"),
                "BatchNormalization": _never("no standard quantized form"),
            },
        ),
    )
}
