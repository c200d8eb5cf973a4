"""The rules of each op: a row an op. Whether quantizing it is worthwhile is up to the target (targets.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from qtool.tables.forms import Form

INF = math.inf
Bounds = tuple[float, float]
ANY: Bounds = (-INF, INF)
_MICROSOFT = "com.microsoft::"


class Role(Enum):
    """The part of an op in quantization."""

    WEIGHTED = "multiplies an activation by a constant weight"
    ARITHMETIC = "computes new values: its output has a scale of its own"
    PASS = "moves or picks values: output and inputs share one scale"
    EPILOGUE = "clamps: folds into the Q that follows it"
    RECURRENT = "has weights and a state: quantized whole or not at all"


@dataclass(frozen=True)
class OpRule:
    """The rules of one op type.

    Args:
        op_type: `Conv`, or `com.microsoft::Attention` for an op of another domain.
        data: indices of the activation inputs; None means all of them (variadic ops).
        weight: indices of the inputs that may be constant weights.
        kept: indices of other inputs that may be constant: no integer kernel takes them as weights, so fewer
            bits save space in the file only.
        bias: index of the bias input.
        product: a matrix product, whose weight is its right operand.
        channel_axis: axis of the weight that runs over output channels; negative from the end.
        forms: those in which it can compute, beside float.
        bounds: limits of the output for any input.
        unless: attributes that no integer kernel has: a node with one of them stays float.
        room: the ratio of the output's range to the observed one, within its bounds.
        storage_bits: the least bits that its weights are stored in, unless --set asks for fewer.
        storage_min_elements: smaller constants stay float in the file: position tables are cheap, and every
            output depends on them.
    """

    op_type: str
    role: Role
    data: tuple[int, ...] | None = (0,)
    weight: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    bias: int | None = None
    product: bool = False
    channel_axis: int = 0
    forms: frozenset[Form] = frozenset({Form.INT8})
    bounds: Bounds = ANY
    room: float = 1.0
    unless: tuple[str, ...] = ()
    storage_bits: int = 2
    storage_min_elements: int = 0


def _rows() -> tuple[OpRule, ...]:
    weighted, arithmetic, passes = Role.WEIGHTED, Role.ARITHMETIC, Role.PASS
    linear = frozenset({Form.INT8, Form.DYNAMIC, Form.NBITS})
    conv = frozenset({Form.INT8, Form.DYNAMIC})
    dynamic, blocked, none = frozenset({Form.DYNAMIC}), frozenset({Form.NBITS}), frozenset[Form]()
    return (
        OpRule("Conv", weighted, weight=(1,), bias=2, channel_axis=0, forms=conv),
        OpRule("ConvTranspose", weighted, weight=(1,), bias=2, channel_axis=1),
        OpRule("MatMul", weighted, weight=(1,), kept=(0,), channel_axis=-1, forms=linear, product=True),
        OpRule("Gemm", weighted, weight=(1,), kept=(0,), bias=2, channel_axis=-1, forms=linear, product=True),
        OpRule("LSTM", Role.RECURRENT, weight=(1, 2), forms=dynamic),
        OpRule("GRU", Role.RECURRENT, weight=(1, 2), forms=none),
        OpRule("RNN", Role.RECURRENT, weight=(1, 2), forms=none),
        OpRule("Gather", passes, weight=(0,), storage_bits=8, storage_min_elements=8192),
        OpRule("Add", arithmetic, data=None),
        OpRule("Sub", arithmetic, data=None),
        OpRule("Mul", arithmetic, data=None),
        OpRule("Div", arithmetic, data=None),
        OpRule("Max", arithmetic, data=None),
        OpRule("Min", arithmetic, data=None),
        OpRule("Sum", arithmetic, data=None),
        OpRule("Mean", arithmetic, data=None),
        OpRule("Abs", arithmetic, bounds=(0, INF)),
        OpRule("Neg", arithmetic),
        OpRule("Sigmoid", arithmetic, bounds=(0, 1)),
        OpRule("HardSigmoid", arithmetic, bounds=(0, 1)),
        OpRule("Tanh", arithmetic, bounds=(-1, 1)),
        # onnxruntime's QLinearSoftmax (1.31) overflows, and gives zeros, where 1 / scale is beyond 148 times
        # the length of the axis. The largest of n values is at least 1 / n: twice that is enough room.
        OpRule("Softmax", arithmetic, bounds=(0, 1), room=2),
        OpRule("LeakyRelu", arithmetic),
        OpRule("PRelu", arithmetic),
        OpRule("Elu", arithmetic),
        OpRule("Celu", arithmetic),
        OpRule("Selu", arithmetic),
        OpRule("Softplus", arithmetic, bounds=(0, INF)),
        OpRule("Softsign", arithmetic, bounds=(-1, 1)),
        OpRule("Mish", arithmetic),
        OpRule("Swish", arithmetic),
        OpRule("Gelu", arithmetic),
        OpRule("HardSwish", arithmetic),
        OpRule("AveragePool", arithmetic, unless=("dilations",)),
        OpRule("GlobalAveragePool", arithmetic),
        OpRule("ReduceMean", arithmetic),
        OpRule("ReduceSum", arithmetic),
        OpRule("InstanceNormalization", arithmetic),
        OpRule("LayerNormalization", arithmetic),
        OpRule("BatchNormalization", arithmetic),
        OpRule("Pad", arithmetic),
        OpRule("Resize", arithmetic),
        OpRule("GridSample", arithmetic),
        OpRule("Relu", Role.EPILOGUE, bounds=(0, INF)),
        OpRule("Clip", Role.EPILOGUE),
        OpRule("MaxPool", passes),
        OpRule("GlobalMaxPool", passes),
        OpRule("Concat", passes, data=None),
        OpRule("Transpose", passes),
        OpRule("Reshape", passes),
        OpRule("Flatten", passes),
        OpRule("Squeeze", passes),
        OpRule("Unsqueeze", passes),
        OpRule("Slice", passes),
        OpRule("Split", passes),
        OpRule("Expand", passes),
        OpRule("Tile", passes),
        OpRule("DepthToSpace", passes),
        OpRule("SpaceToDepth", passes),
        # Made by onnxruntime's optimizers, or by genai: their weights are stored in fewer bits.
        OpRule(f"{_MICROSOFT}Attention", weighted, weight=(1,), bias=2, channel_axis=-1, forms=none),
        OpRule(f"{_MICROSOFT}MoE", weighted, weight=(2, 4, 6), channel_axis=1, forms=blocked),
        OpRule(f"{_MICROSOFT}FusedMatMul", weighted, weight=(1,), kept=(0,), channel_axis=-1, forms=none),
        OpRule(
            f"{_MICROSOFT}EmbedLayerNormalization",
            passes,
            weight=(2, 3, 4),
            forms=none,
            storage_bits=8,
            storage_min_elements=8192,
        ),
    )


OPS: dict[str, OpRule] = {row.op_type: row for row in _rows()}

# What graph/prepare/folding.py computes on constants. Moves, and choices of values: numpy and the runtime
# agree to the bit.
EXACT_ON_CONSTANTS = frozenset(
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Concat Identity Expand Tile Split Gather Where "
    "ConstantOfShape Shape Size Cast".split(" ")
)

# Arithmetic and comparisons that are exact on integers: they compute shapes and pads.
INTEGER_ON_CONSTANTS = frozenset(
    "Add Sub Mul Div Mod Neg Abs Min Max Range ReduceProd ReduceSum ReduceMin ReduceMax "
    "Equal Less LessOrEqual Greater GreaterOrEqual And Or Not".split(" ")
)

# Arithmetic on floats that makes a weight or a factor of a Resize: they agree to float rounding.
FLOAT_ON_CONSTANTS = frozenset(
    "Add Sub Mul Div Neg Sqrt Reciprocal Abs Pow Exp MatMul Sum Floor Ceil "
    "ReduceMean ReduceSum ReduceL2 ReduceMax ReduceSumSquare".split(" ")
)

# The runtime moves a QuantizeLinear up through these (QDQPropagationTransformer, 1.31).
Q_MOVES_UP_THROUGH = frozenset(["MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"])

# Between a DQ and a Q the runtime (QDQSelectorActionTransformer, 1.31) runs these in int8 on its
# own, at a fraction of their speed in float (docs/targets.md).
SLOW_BETWEEN_DQ_AND_Q = frozenset(["AveragePool", "Softmax"])
# Their fast integer kernel has the channels last, and runs behind an int8 kernel alone: behind a Q another
# takes 140 times as long (11 ms in place of 0.08 in a text recognizer, 2026-12-01).
FAST_BEHIND_INT8 = frozenset({"MaxPool"})
# Its integer kernels that are slower than the float ones. NhwcMaxPool, between int8 convolutions, is faster.
SLOW_KERNELS = frozenset(["QLinearAveragePool", "QLinearSoftmax", "MaxPool"])

# Their result differs from run to run, even without inputs.
RANDOM = frozenset(
    "RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial Dropout".split(" ")
)
