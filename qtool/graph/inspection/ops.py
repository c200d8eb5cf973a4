"""The ops of quantized graphs: which inputs are weights, and what they compute in. A row an op.

Input slots are those of the ONNX operators and of onnxruntime's docs/ContribOperators.md (1.31).
"""

from __future__ import annotations

from dataclasses import dataclass

MICROSOFT = "com.microsoft::"


@dataclass(frozen=True)
class QuantizedOp:
    """An op that reads or returns quantized tensors.

    Args:
        op: as `op_key` writes it.
        form: the way of quantizing that it shows. '': none; or, for an op that computes in integers, that of
            its activations.
        sums: whether it returns sums of integer products, not yet scaled to floats.
        weights: slots that may hold a constant weight; any other constant is a scale, a zero point or a
            setting.
        wide: those slots where integers of more than 8 bits are weights too (int32 biases).
        integers: whether it computes in integers; None: no arithmetic at all, a conversion.
        typed_by: slots whose type the output has; the first present one counts.
        packed: the attribute with the bits of a weight that is packed into bytes, '' for none.
        packed_as: the kind of the packed numbers, without their bits.
    """

    op: str
    form: str = ""
    sums: bool = False
    weights: tuple[int, ...] = (0,)
    wide: tuple[int, ...] = ()
    integers: bool | None = True
    typed_by: tuple[int, ...] = (0,)
    packed: str = ""
    packed_as: str = "uint"


def _rows() -> tuple[QuantizedOp, ...]:
    qoperator, dynamic, stored = "qoperator", "dynamic", "weight-only"
    m = MICROSOFT
    return (
        # From one format to another. A DequantizeLinear on a constant reads a weight (or a bias, int32).
        QuantizedOp("QuantizeLinear", integers=None, typed_by=(2,)),
        QuantizedOp("DequantizeLinear", wide=(0,), integers=None, typed_by=(1,)),
        QuantizedOp("DynamicQuantizeLinear", dynamic, integers=None, typed_by=()),
        QuantizedOp("Cast", integers=None, typed_by=()),
        QuantizedOp("CastLike", integers=None, typed_by=(1,)),
        QuantizedOp(m + "QuantizeLinear", integers=None, typed_by=(2,)),
        QuantizedOp(m + "DequantizeLinear", wide=(0,), integers=None, typed_by=(1,)),
        # Ops of the standard domain that compute in integers.
        QuantizedOp("QLinearConv", qoperator, weights=(3, 8), wide=(8,)),
        QuantizedOp("QLinearMatMul", qoperator, weights=(0, 3)),
        QuantizedOp("MatMulInteger", sums=True, weights=(0, 1), typed_by=()),
        QuantizedOp("ConvInteger", sums=True, weights=(0, 1), typed_by=()),
        # Those of onnxruntime.
        QuantizedOp(m + "QLinearConv", qoperator, weights=(3, 8), wide=(8,)),
        QuantizedOp(m + "QLinearAdd", qoperator, weights=(0, 3)),
        QuantizedOp(m + "QLinearMul", qoperator, weights=(0, 3)),
        QuantizedOp(m + "QLinearWhere", qoperator, weights=(1, 4), typed_by=(1,)),
        QuantizedOp(m + "QLinearAveragePool", qoperator),
        QuantizedOp(m + "QLinearGlobalAveragePool", qoperator),
        QuantizedOp(m + "QLinearLeakyRelu", qoperator),
        QuantizedOp(m + "QLinearReduceMean", qoperator),
        QuantizedOp(m + "QLinearSigmoid", qoperator),
        QuantizedOp(m + "QLinearSoftmax", qoperator),
        # Y_scale, Y_zero_point, then data, scale, zero_point of each input.
        QuantizedOp(m + "QLinearConcat", qoperator, weights=tuple(range(2, 300, 3)), typed_by=(1,)),
        # Without y_scale and y_zero_point its result is in floats.
        QuantizedOp(m + "QGemm", qoperator, weights=(0, 3, 6), wide=(6,), typed_by=(8, 1)),
        QuantizedOp(m + "QAttention", weights=(1, 2), typed_by=(3,)),
        QuantizedOp(m + "QEmbedLayerNormalization", qoperator, weights=(2, 3, 4, 5, 6), typed_by=(8,)),
        QuantizedOp(m + "MatMulIntegerToFloat", weights=(0, 1, 6), typed_by=(2,)),
        QuantizedOp(m + "MatMulInteger16", sums=True, weights=(0, 1), wide=(0, 1), typed_by=()),
        QuantizedOp(m + "DynamicQuantizeMatMul", dynamic, weights=(1, 4)),
        QuantizedOp(m + "DynamicQuantizeLSTM", dynamic, weights=(1, 2, 3, 7)),
        # Floats on weights that the kernel unpacks.
        QuantizedOp(m + "MatMulNBits", stored, weights=(1, 5), integers=False, packed="bits"),
        QuantizedOp(m + "MatMulBnb4", stored, weights=(1,), integers=False, packed="bits", packed_as="float"),
        QuantizedOp(
            m + "GatherBlockQuantized", stored, weights=(0,), integers=False, typed_by=(2,), packed="bits"
        ),
        QuantizedOp(
            m + "QMoE", stored, weights=(2, 4, 5, 7, 8, 10), integers=False, packed="expert_weight_bits"
        ),
    )


QUANTIZED_OPS: dict[str, QuantizedOp] = {row.op: row for row in _rows()}

PACKED_BITS = 4
"""Bits of a packed weight without the attribute."""
INT8_ACCURACY_LEVEL = 4
"""The accuracy_level of MatMulNBits at which activations are quantized to int8 at run time."""

# Inputs that are settings, however many numbers they have.
SETTINGS: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Clip": (1, 2),
    "Pad": (2,),
    "RoiAlign": (1,),
}

# Arithmetic that turns integers into floats: (q - zero_point) * scale.
RESTORING = ("Mul", "Div", "Sub")
# Ops that return numbers of their first input, with the same meaning.
PICKING = ("Gather", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity")
# The output of DynamicQuantizeLinear that is the scale.
DYNAMIC_SCALE = 1

# In QDQ form these compute in integers even where their result is not quantized.
FLOAT_RESULT = frozenset(["MatMul", "Gemm"])
