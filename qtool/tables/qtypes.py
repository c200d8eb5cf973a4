"""Types to quantize to, and the granularity of their scales."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QType:
    """A type to store or compute in.

    Args:
        name: in options and plan files.
        dtype: numpy's name of the type that holds it in memory; the file packs types of 2 and 4 bits.
        bits: bits of information an element holds.
        qmin, qmax: the integers that may appear; a symmetric signed type of 8 bits or more leaves out
            its lowest value so that -x and x have the same precision. 0 for float types.
        pairs: the largest sum of two weights of one sign that a kernel adds in 16 bits; 0: no limit.
        since: the first opset whose QuantizeLinear, DequantizeLinear and Cast take it.
        packed: the type that holds it in the file; '' for its own name up to 4 bits, else its dtype.
        zero: 0 is among its values; else a value is rounded to its sign.
    """

    name: str
    dtype: str
    bits: int
    qmin: int
    qmax: int
    since: int = 10
    pairs: int = 0
    packed: str = ""
    zero: bool = True

    @property
    def in_file(self) -> str:
        """The name of the type that holds it in the file."""
        return self.packed or (self.name if self.bits < 5 else self.dtype)

    @property
    def file_bits(self) -> int:
        """Bits of an element in the file."""
        return -(-self.bits // 8) * 8 if self.bits > 4 else self.bits


UINT8 = QType("uint8", "uint8", 8, 0, 255)
INT8 = QType("int8", "int8", 8, -127, 127)
# 255 * 128 < 2**15: two products of u8 x s8 fit in the 16-bit lanes that AVX2's VPMADDUBSW saturates in, so a
# CPU without VNNI sums them exactly. Where the pairs are known their sum is limited, and else each weight.
INT8_PAIRED = QType("int8-paired", "int8", 8, -127, 127, pairs=128)
INT8_REDUCED = QType("int8-reduced", "int8", 7, -64, 64)
UINT16 = QType("uint16", "uint16", 16, 0, 2**16 - 1, since=21)
INT16 = QType("int16", "int16", 16, -(2**15) + 1, 2**15 - 1, since=21)
# Weights of integer products: the kernels read them as int8. Their scale is fitted, so both ends are of use.
INT4 = QType("int4", "int8", 4, -8, 7, since=21)
INT2 = QType("int2", "int8", 2, -2, 1, since=25)
# Ternary and binary weights (arXiv 1605.04711, 1603.05279). No type of 1 bit is in ONNX: both take 2.
TERNARY = QType("ternary", "int8", 2, -1, 1, since=25, packed="int2")
BINARY = QType("binary", "int8", 2, -1, 1, since=25, packed="int2", zero=False)
UINT4 = QType("uint4", "uint8", 4, 0, 15, since=21)
UINT2 = QType("uint2", "uint8", 2, 0, 3, since=25)
INT32 = QType("int32", "int32", 32, -(2**31) + 1, 2**31 - 1)
FLOAT16 = QType("float16", "float16", 16, 0, 0)
FLOAT32 = QType("float32", "float32", 32, 0, 0)

QTYPES = {
    t.name: t
    for t in (
        UINT8,
        INT8,
        INT8_PAIRED,
        INT8_REDUCED,
        UINT16,
        INT16,
        INT4,
        INT2,
        TERNARY,
        BINARY,
        UINT4,
        UINT2,
        INT32,
        FLOAT16,
        FLOAT32,
    )
}


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor: x [any] -> scale []."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index of an axis: w [.., C at axis, ..] -> scale [C]."""

    axis: int


@dataclass(frozen=True)
class PerRowOfLast:
    """One scale for each row of a stack of matrices: w [D, R, C] -> scale [D, R].

    Recurrent layers stack one matrix a direction; a row is one gate's output.
    """


@dataclass(frozen=True)
class PerBlock:
    """One scale for each run of `size` along an axis: w [.., K at axis, ..] -> scale [.., K/size, ..].

    K/size is rounded up: the last run may be shorter. Every other axis keeps its indices: w [K, N], axis 0 ->
    scale [K/size, N].
    """

    axis: int
    size: int


@dataclass(frozen=True)
class PerRun:
    """One scale for each run of `size` values of a channel: w [C, ..] -> scale [C, K/size].

    K is the number of values of a channel, all axes but the first taken together. K/size is rounded up: the
    last run may be shorter. A convolution has many axes, each too short for a block.
    """

    size: int


PER_TENSOR = PerTensor()

Granularity = PerTensor | PerChannel | PerRowOfLast | PerBlock | PerRun


@dataclass(frozen=True)
class TensorSpec:
    """The type, granularity and symmetry of a quantized tensor."""

    qtype: QType
    granularity: Granularity
    symmetric: bool
