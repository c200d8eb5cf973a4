"""The kernels of the cost table: a row a kernel, timed in each of its types at a few sizes.

A row is an op type, or `op/class` where one op has several speeds; plan/work.py maps nodes to rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qtool.tables.forms import Form
from qtool.tables.sizes import (
    ELEMENTS,
    IMAGES,
    WORDS,
    Size,
    attention,
    convolutions,
    convolutions_1d,
    lstms,
    products,
    sizes,
    transposed,
)


class Kind(Enum):
    """The types of a kernel's operands."""

    FLOAT = "float32"
    INT8 = "int8"  # u8 activations, s8 weights with a scale a channel, int32 bias
    DYNAMIC = "int8-dynamic"  # activations quantized at run time
    NBITS8 = "nbits8"  # float activations, weights in blocks of 128
    NBITS4 = "nbits4"


def kind_of(form: Form | None, bits: int = 8) -> Kind | None:
    """Return the operand types of a node in a form; None where the table has no times of them.

    Args:
        form: None for float.
        bits: of a weight in blocks.
    """
    if form is Form.NBITS:
        return Kind.NBITS8 if bits == 8 else Kind.NBITS4 if bits == 4 else None
    kinds = {None: Kind.FLOAT, Form.INT8: Kind.INT8, Form.DYNAMIC: Kind.DYNAMIC}
    return kinds.get(form)


@dataclass(frozen=True)
class Kernel:
    """A row of the cost table.

    Args:
        row: its name.
        runs: for each kind, alternative ops; the runtime's trace must show one.
        sizes: from the least work to the most.
        integers: constant inputs behind the weights: axes, indices, sizes.
        convolved: whether to time it behind a convolution, whose layout it then has.
        outputs: the count of outputs.
    """

    row: str
    runs: Mapping[Kind, tuple[str, ...]]
    sizes: tuple[Size, ...]
    integers: tuple[tuple[int, ...], ...] = ()
    convolved: bool = False
    outputs: int = 1

    @property
    def op(self) -> str:
        """The op type in ONNX."""
        return self.row.split("/")[0]


QUANTIZE, DEQUANTIZE, BORDER = "QuantizeLinear", "DequantizeLinear", "Border"

# Ops that cost the same as another, and use its times.
SAME_AS = {
    "Gemm": "MatMul",
    "Flatten": "Reshape",
    "Squeeze": "Reshape",
    "Unsqueeze": "Reshape",
    "GlobalMaxPool": "GlobalAveragePool",
}

# Ops that the runtime fuses into the kernel before them, where they are its only consumer (1.31).
FUSED_IN_FLOAT: dict[str, frozenset[str]] = {
    "Conv": frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Add"}),
    "Gemm": frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu"}),
    # An Add is fused into a Conv where both operands have its layout (plan/work.py); so is a clamp behind.
    "Add": frozenset({"Relu"}),
}
# In float their result has the layout of convolutions.
POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
# Clamps are part of the QuantizeLinear behind them.
FUSED_IN_INT8 = frozenset({"Relu", "Clip"})


def _both(op: str, *fused: str) -> Mapping[Kind, tuple[str, ...]]:
    return {Kind.FLOAT: (op,), Kind.INT8: fused or (op,)}


_CONV = _both("Conv", "QLinearConv")
_PRODUCT = {
    Kind.FLOAT: ("MatMul",),
    Kind.INT8: ("MatMulIntegerToFloat",),
    Kind.DYNAMIC: ("DynamicQuantizeMatMul",),
    Kind.NBITS8: ("MatMulNBits",),
    Kind.NBITS4: ("MatMulNBits",),
}
_POOL: dict[str, Any] = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
_NEAREST: dict[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}

KERNELS: dict[str, Kernel] = {
    kernel.row: kernel
    for kernel in (
        Kernel(
            "Conv/1x1",
            _CONV,
            convolutions(
                (64, 64, 7, 1), (64, 64, 28, 1), (256, 256, 14, 1), (256, 256, 28, 1), (512, 512, 28, 1)
            ),
        ),
        Kernel(
            "Conv/1x1-thin",
            _CONV,
            convolutions(
                (16, 16, 8, 1), (24, 96, 14, 1), (96, 24, 28, 1), (24, 144, 56, 1), (16, 96, 112, 1)
            ),
        ),
        Kernel(
            "Conv/3x3",
            _CONV,
            convolutions(
                (32, 32, 8, 3), (64, 64, 14, 3), (64, 64, 28, 3), (64, 64, 56, 3), (256, 256, 28, 3)
            ),
        ),
        Kernel(
            "Conv/3x3-thin",
            _CONV,
            convolutions((8, 16, 14, 3), (16, 16, 32, 3), (16, 16, 64, 3), (16, 32, 112, 3)),
        ),
        Kernel(
            "Conv/3x3-strided",
            _CONV,
            convolutions((16, 32, 16, 3), (32, 64, 28, 3), (64, 128, 56, 3), (128, 256, 56, 3), stride=2),
        ),
        Kernel("Conv/larger", _CONV, convolutions((16, 16, 16, 5), (32, 64, 28, 5), (64, 64, 56, 5))),
        Kernel(
            "Conv/larger-stem",
            _CONV,
            convolutions((3, 16, 32, 5), (3, 64, 56, 7), (3, 64, 224, 7), stride=2),
        ),
        Kernel(
            "Conv/depthwise",
            _CONV,
            convolutions(
                (64, 64, 4, 3),
                (128, 128, 8, 3),
                (192, 192, 14, 3),
                (144, 144, 28, 3),
                (96, 96, 56, 3),
                (96, 96, 112, 3),
                group=0,
            ),
        ),
        Kernel(
            "Conv/grouped", _CONV, convolutions((32, 32, 14, 3), (64, 64, 28, 3), (128, 128, 56, 3), group=4)
        ),
        Kernel("Conv/stem", _CONV, convolutions((3, 16, 32, 3), (3, 32, 96, 3), (3, 32, 224, 3), stride=2)),
        Kernel("Conv/1d", _CONV, convolutions_1d((32, 32, 64, 3), (64, 64, 250, 3), (128, 128, 1000, 3))),
        Kernel(
            "Conv/1d-depthwise",
            _CONV,
            convolutions_1d((32, 32, 64, 3), (64, 64, 250, 3), (128, 128, 1000, 3), depthwise=True),
        ),
        Kernel("ConvTranspose", {Kind.FLOAT: ("ConvTranspose",)}, transposed((16, 8), (64, 28), (128, 56))),
        Kernel("MatMul/1", _PRODUCT, products(1, (128, 128), (384, 384), (384, 1536), (1024, 4096))),
        Kernel("MatMul/few", _PRODUCT, products(12, (128, 128), (384, 384), (384, 1536), (1024, 2048))),
        Kernel(
            "MatMul/many", _PRODUCT, products(128, (64, 64), (128, 384), (384, 384), (384, 1536), (768, 3072))
        ),
        Kernel("MatMul/activations", _both("MatMul", "QLinearMatMul"), attention(16, 64, 128, 384)),
        Kernel(
            "LSTM",
            {Kind.FLOAT: ("LSTM",), Kind.DYNAMIC: ("DynamicQuantizeLSTM",)},
            lstms((8, 32, 32), (32, 64, 128), (64, 256, 256)),
        ),
        Kernel("Add", _both("Add", "QLinearAdd"), sizes(*ELEMENTS, operands=2)),
        Kernel("Mul", _both("Mul", "QLinearMul"), sizes(*ELEMENTS, operands=2)),
        # In float one kernel with its Sigmoid; in int8 on its own.
        Kernel("Mul/silu", _both("QuickGelu", "QLinearMul"), sizes(*ELEMENTS)),
        Kernel("Sigmoid", _both("Sigmoid", "QLinearSigmoid"), sizes(*ELEMENTS)),
        Kernel("LeakyRelu", _both("LeakyRelu", "QLinearLeakyRelu"), sizes(*ELEMENTS, alpha=0.1)),
        Kernel("Relu", {Kind.FLOAT: ("Relu",)}, sizes(*ELEMENTS)),
        Kernel("Clip", {Kind.FLOAT: ("Clip",)}, sizes(*ELEMENTS)),
        Kernel("MaxPool", _both("MaxPool", "NhwcMaxPool"), sizes(*IMAGES, **_POOL), convolved=True),
        Kernel(
            "AveragePool", _both("AveragePool", "QLinearAveragePool"), sizes(*IMAGES, **_POOL), convolved=True
        ),
        Kernel(
            "GlobalAveragePool",
            _both("GlobalAveragePool", "QLinearGlobalAveragePool"),
            sizes((1, 64, 4, 4), (1, 128, 14, 14), (1, 64, 56, 56)),
            convolved=True,
        ),
        Kernel(
            "Concat", _both("Concat", "QLinearConcat"), sizes(*IMAGES, operands=2, axis=1), convolved=True
        ),
        Kernel(
            "Resize",
            {Kind.FLOAT: ("Resize", "Upsample"), Kind.INT8: ("Resize",)},
            sizes(*IMAGES[:3], **_NEAREST),
            convolved=True,
        ),
        Kernel(
            "Transpose",
            _both("Transpose"),
            sizes((1, 16, 12, 16), (1, 128, 12, 32), (1, 384, 12, 64), perm=(0, 2, 1, 3)),
        ),
        Kernel("Reshape", _both("Reshape"), sizes(*WORDS), integers=((0, -1, 32),)),
        Kernel("Slice", _both("Slice"), sizes(*WORDS), integers=((8,), (1 << 31,), (-1,))),
        Kernel("Split", _both("Split"), sizes(*WORDS, axis=-1), outputs=2),
        Kernel("Gather", _both("Gather"), sizes(*WORDS, axis=1), integers=(tuple(range(16)),)),
        Kernel(
            "Softmax",
            _both("Softmax", "QLinearSoftmax"),
            sizes((1, 12, 16, 16), (1, 12, 64, 64), (1, 12, 256, 256), axis=-1),
        ),
        Kernel(QUANTIZE, {Kind.INT8: (QUANTIZE,)}, sizes((1, 256), *ELEMENTS)),
        Kernel(DEQUANTIZE, {Kind.INT8: (DEQUANTIZE,)}, sizes((1, 256), *ELEMENTS)),
        # Around integers, NCHW to NHWC or back; around floats, either way between NCHW and NCHWc.
        Kernel(
            BORDER, {Kind.FLOAT: ("ReorderInput", "ReorderOutput"), Kind.INT8: ("Transpose",)}, sizes(*IMAGES)
        ),
    )
}
# Rows that every cost table must have.
EDGES = (QUANTIZE, DEQUANTIZE, BORDER)
