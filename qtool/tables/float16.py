"""The range of float16, and the ops that compute in it: the facts of --mode fp16.

Ops are named as `op_key` names them: `Conv`, `com.microsoft::FastGelu`.
"""

from __future__ import annotations

# The largest finite float16.
LARGEST = 65504.0
# Unseen samples may exceed the observed range: float16 must hold this multiple of it.
MARGIN = 2.0
# SQNR in dB below which float16 does not hold a constant. Rounding a normal value leaves at least 66 dB
# (|error| <= 2^-11 |x|); less than 60 means subnormals, or values that become 0.
FLOOR_DB = 60.0
# From this size on, the weights of float32 nodes are float16 in the file, and cast when it is loaded.
STORED_MIN_ELEMENTS = 1024

_MICROSOFT = "com.microsoft::"

# Enough work to pay for a Cast on every side. All other ops are in float16 only where that adds no Cast.
HEAVY = frozenset(
    "Conv ConvTranspose DeformConv MatMul Gemm Einsum LSTM GRU RNN Attention".split()
    + [_MICROSOFT + op for op in "FusedMatMul FusedGemm FusedConv Attention MultiHeadAttention".split()]
)

_SUM = "values normalized by it would keep its error"
_NORM = "its scale and bias would carry their rounding into every output"

# Ops that stay in float32 for precision or range, and why. The figures are SQNR in dB of the worst output on
# a model where it matters, with every value rounded to float16 (or, for norms, as onnxruntime runs it on a
# CPU): all in float16 -> with this op, and the rule of FOLLOWED, in float32.
PRECISE: dict[str, str] = {
    "Erf": "1 + erf(x) cancels where x is negative",  # a Gelu, written out: 52.9 -> 55.2
    "ReduceMean": _SUM,  # an RMS norm, written out: 53.7 -> 54.7
    "ReduceSum": _SUM,  # a layer norm, written out: 49.4 -> 64.7
    "ReduceSumSquare": _SUM,
    "ReduceL1": _SUM,
    "ReduceL2": _SUM,
    "ReduceLogSumExp": _SUM,
    "LayerNormalization": _NORM,  # 57.1 -> 64.7
    "RMSNormalization": _NORM,
    "GroupNormalization": _NORM,
    "InstanceNormalization": _NORM,
    _MICROSOFT + "SkipLayerNormalization": _NORM,
    _MICROSOFT + "SkipSimplifiedLayerNormalization": _NORM,
    "Pow": "a square leaves float16 at 256",  # a magnitude spectrum: 63.0 -> 67.6
    "Mul/square": "a square leaves float16 at 256",
    "ReduceProd": "a product soon leaves float16",
    "Exp": "e^x leaves float16 at x = 11",
    "CumSum": "a running sum adds up its rounding",
}

# Consumers of these stay in float32, too, up to one that combines them with other data (x - mean, x * erf).
FOLLOWED = frozenset(
    "Erf ReduceMean ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSumExp Gather".split()
)

# A Gather from a constant of fewer elements than the op table's storage_min_elements is one of these:
# a few kilobytes on which every output depends. 54.6 -> 56.9, and 56.2 -> 58.9.
SMALL_TABLE = "its table is small, and every output depends on it"

# Sums stay in float32 where that costs no Cast: a residual sum before a norm adds up its rounding.
SUMS = frozenset("Add Sum Sub".split())

# The inputs that an op adds to a sum of its own: small ones are lost in float32 sums, too.
BIASES: dict[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "LayerNormalization": (2,),
    "InstanceNormalization": (2,),
    "GroupNormalization": (2,),
    "BatchNormalization": (2, 3),
    "LSTM": (3,),
    "GRU": (3,),
    "RNN": (3,),
}

# Inputs near which 0 is no small number: a term of 1e-12 there keeps a quotient finite.
EXACT_NEAR_ZERO: dict[str, tuple[int, ...]] = {
    "Div": (1,),
    "Reciprocal": (0,),
    "Sqrt": (0,),
    "Log": (0,),
    "Pow": (0,),
}

# Their argument must be more exact than float16: the nodes that compute it stay in float32, too, back to a
# HEAVY op with weights, whose own rounding is larger.
EXACT_ARGUMENT = frozenset("Sin Cos Tan Floor Ceil Round Mod Log".split())

# The runtime's own fused ops that take float16 (onnxruntime docs/ContribOperators.md): all their float
# inputs and outputs share one type.
CONTRIB = frozenset(
    _MICROSOFT + op
    for op in (
        "FastGelu Gelu QuickGelu BiasGelu BiasAdd BiasSoftmax RotaryEmbedding "
        "FusedMatMul FusedGemm FusedConv "
        "Attention MultiHeadAttention SkipLayerNormalization "
        "SkipSimplifiedLayerNormalization"
    ).split()
)

# Quantizers: scales stay float32, and so do their neighbours, which the runtime fuses with them.
QUANTIZERS = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear".split())

# Ops with an attribute for the type of their output. Without it, those of `LIKE` follow their input.
TYPED_BY_ATTRIBUTE = {
    "Cast": "to",
    "Constant": "value",
    "ConstantOfShape": "value",
    "EyeLike": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype",
    "Bernoulli": "dtype",
}
LIKE = frozenset(["EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"])

# Ops whose first input may be of any float type whatever their output's: it needs no Cast.
TYPE_BLIND = frozenset("Cast CastLike Shape Size EyeLike RandomNormalLike RandomUniformLike".split())

# Inputs that stay float32 though the op's schema lets them be float16: coordinates and indices.
FLOAT32_INPUTS = {"Resize": (1, 2), "GridSample": (1,), "OneHot": (0, 1), "NonMaxSuppression": (3, 4)}

# Outputs beyond float16: statistics, and scores with masks of -FLT_MAX in them.
FLOAT32_OUTPUTS = {
    "Attention": (3,),
    _MICROSOFT + "SkipLayerNormalization": (1, 2),
    _MICROSOFT + "SkipSimplifiedLayerNormalization": (1, 2),
}

_PIXELS = "its boxes are in pixels, which float16 counts to 2048 only"
_NO_KERNEL = "onnxruntime has no float16 for its reductions"
# Where no input is float16, the runtime does not put a Cast behind the float32 kernel either.
_MADE_FLOAT32 = "onnxruntime makes its values in float32 only"

# Ops that can't be float16 whatever their schema says, or can't with an attribute: `Op/attribute=value`.
NEVER = {
    "BitCast": "it reads the bits of its input",
    "RoiAlign": _PIXELS,
    "MaxRoiPool": _PIXELS,
    **dict.fromkeys(
        "EyeLike RandomNormal RandomUniform RandomNormalLike RandomUniformLike".split(), _MADE_FLOAT32
    ),
    "MeanVarianceNormalization": "its definition holds float32 constants",
    "BatchNormalization/training_mode=1": "it makes statistics, which float16 is too coarse for",
    **{
        f"{op}/reduction={kind}": _NO_KERNEL
        for op in ("ScatterElements", "ScatterND")
        for kind in ("add", "mul", "max", "min")
    },
}
