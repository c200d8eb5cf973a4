"""The operators that a quantized node can be written as."""

from __future__ import annotations

from enum import Enum

from qtool.tables.forms import Form


class Operator(Enum):
    """What replaces a node of the prepared model.

    A node between QuantizeLinear and DequantizeLinear keeps its operator and has none of these.
    """

    # Activations are quantized at every run.
    DYNAMIC_QUANTIZE_MATMUL = "DynamicQuantizeMatMul"  # quantizes its activation itself
    MATMUL_INTEGER_TO_FLOAT = "MatMulIntegerToFloat"  # reads an activation that is quantized once for all
    MATMUL_INTEGER = "MatMulInteger"  # MatMulInteger -> Cast -> Mul
    CONV_INTEGER = "ConvInteger"  # ConvInteger -> Cast -> Mul
    DYNAMIC_QUANTIZE_LSTM = "DynamicQuantizeLSTM"
    # Weights are in blocks.
    MATMUL_NBITS = "MatMulNBits"


# Form -> op -> the operators that such a node can be written as.
WRITTEN_AS: dict[Form, dict[str, frozenset[Operator]]] = {
    Form.DYNAMIC: {
        **dict.fromkeys(
            ("MatMul", "Gemm"),
            frozenset(
                {
                    Operator.DYNAMIC_QUANTIZE_MATMUL,
                    Operator.MATMUL_INTEGER_TO_FLOAT,
                    Operator.MATMUL_INTEGER,
                }
            ),
        ),
        "Conv": frozenset({Operator.CONV_INTEGER}),
        "LSTM": frozenset({Operator.DYNAMIC_QUANTIZE_LSTM}),
    },
    Form.NBITS: dict.fromkeys(("MatMul", "Gemm"), frozenset({Operator.MATMUL_NBITS})),
}
