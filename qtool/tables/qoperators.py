"""Integer operators, of ONNX and of com.microsoft: what each stands for, and which types it takes.

The types are those that onnxruntime 1.31's CPU kernels take, which are the same with and without its
graph optimizations. ONNX allows any pair of 8-bit types in QLinearConv and QLinearMatMul.
"""

from __future__ import annotations

from dataclasses import dataclass

MICROSOFT = "com.microsoft"

EIGHT_BITS = frozenset({"uint8", "int8"})


@dataclass(frozen=True)
class Product:
    """An operator that multiplies and sums integers.

    Args:
        pairs: the types of (activation, weight) that it takes; a result in integers has the
            activation's type.
    """

    op_type: str
    domain: str
    pairs: frozenset[tuple[str, str]]


_REQUANTIZED = frozenset({("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")})

QLINEAR_CONV = Product("QLinearConv", "", _REQUANTIZED)
QLINEAR_MATMUL = Product("QLinearMatMul", "", _REQUANTIZED)
MATMUL_INTEGER = Product("MatMulInteger", "", _REQUANTIZED | {("int8", "uint8")})
Q_GEMM = Product("QGemm", MICROSOFT, _REQUANTIZED)
MATMUL_INTEGER_TO_FLOAT = Product("MatMulIntegerToFloat", MICROSOFT, _REQUANTIZED)


@dataclass(frozen=True)
class Elementwise:
    """The operator of com.microsoft for a float op without weights; operands and result have one type.

    Its inputs are the other inputs of the op, (x, x_scale, x_zero_point) for each operand, and
    (y_scale, y_zero_point).

    Args:
        op_type: its name.
        operands: indices of the float op's operands; None means all inputs.
        attributes: those that both have, with the float op's defaults since opset 13.
        result_first: the result's scale and zero point come first.
        names_opset: it has an attribute `opset` for the version of the float op.
    """

    op_type: str
    operands: tuple[int, ...] | None = (0,)
    attributes: tuple[str, ...] = ()
    result_first: bool = False
    names_opset: bool = False


ELEMENTWISE: dict[str, Elementwise] = {
    "Add": Elementwise("QLinearAdd", (0, 1)),
    "Mul": Elementwise("QLinearMul", (0, 1)),
    "Sigmoid": Elementwise("QLinearSigmoid"),
    "LeakyRelu": Elementwise("QLinearLeakyRelu", attributes=("alpha",)),
    "Softmax": Elementwise("QLinearSoftmax", attributes=("axis",), names_opset=True),
    "GlobalAveragePool": Elementwise("QLinearGlobalAveragePool"),
    "AveragePool": Elementwise(
        "QLinearAveragePool",
        attributes=("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"),
    ),
    "Concat": Elementwise("QLinearConcat", None, attributes=("axis",), result_first=True),
    "Where": Elementwise("QLinearWhere", (1, 2)),
}

# Ops that move or select values, and so take integers, too: op -> indices of the operands that must share one
# scale, None for all inputs. GlobalMaxPool is missing: ONNX has it for floats only.
MOVES: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        (
            "MaxPool",
            "Transpose",
            "Reshape",
            "Flatten",
            "Squeeze",
            "Unsqueeze",
            "Slice",
            "Split",
            "Gather",
            "Expand",
            "Tile",
            "DepthToSpace",
            "SpaceToDepth",
            "Identity",
            "Pad",
            "Resize",
        ),
        (0,),
    ),
    "Concat": None,
    "Where": (1, 2),
}


@dataclass(frozen=True)
class Layout:
    """The inputs of an integer operator, by the inputs of the float op that it computes.

    Args:
        inputs: input of the float op -> (tensor, scale, zero point) of the operator; None: it has no such
            input. Without a scale the tensor is quantized at run time, or its scale is behind the operator.
        bias: the input with the int32 bias, at scale input * weight; None: it has none.
    """

    inputs: dict[int, tuple[int, int | None, int | None]]
    bias: int | None = None


LAYOUTS: dict[str, Layout] = {
    "QLinearConv": Layout({0: (0, 1, 2), 1: (3, 4, 5)}, bias=8),
    "QLinearMatMul": Layout({0: (0, 1, 2), 1: (3, 4, 5)}),
    "QGemm": Layout({0: (0, 1, 2), 1: (3, 4, 5)}, bias=6),
    "MatMulInteger": Layout({0: (0, None, 2), 1: (1, None, 3)}),
    "ConvInteger": Layout({0: (0, None, 2), 1: (1, None, 3)}),
    "DynamicQuantizeMatMul": Layout({0: (0, None, None), 1: (1, 2, 3)}),
    "MatMulIntegerToFloat": Layout({0: (0, 2, 4), 1: (1, 3, 5)}),
    "DynamicQuantizeLSTM": Layout({1: (1, 8, 9), 2: (2, 10, 11)}),
    "QAttention": Layout({0: (0, 3, 6), 1: (1, 4, 7)}),
}
# Operators of ELEMENTWISE by their own name: the float op's row.
FLOAT_OP: dict[str, tuple[str, Elementwise]] = {
    row.op_type: (op, row)
    for op, row in (*ELEMENTWISE.items(), ("ReduceMean", Elementwise("QLinearReduceMean")))
}
