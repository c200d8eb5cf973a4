"""The forms that a quantized node can take, and the operators that it is written as in each."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """The form of a quantized node. A node in no form computes in the float type of the model."""

    INT8 = "int8"  # in integers; activations have scales from calibration
    DYNAMIC = "int8-dynamic"  # in integers; activations get their scales at every run
    NBITS = "nbits"  # on blocks of integer weights that the kernel unpacks (MatMulNBits, QMoE)
    FLOAT16 = "float16"  # in float16


# Their names in a report, in the order of its columns.
HEADINGS: dict[Form, str] = {
    Form.INT8: "int8",
    Form.DYNAMIC: "int8 at run time",
    Form.NBITS: "blocked weights",
    Form.FLOAT16: "float16",
}


class Operator(Enum):
    """The operator that replaces a node of the prepared model.

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
    QMOE = "QMoE"


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
    Form.NBITS: {
        **dict.fromkeys(("MatMul", "Gemm"), frozenset({Operator.MATMUL_NBITS})),
        "MoE": frozenset({Operator.QMOE}),
    },
}
