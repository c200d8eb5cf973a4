"""Quantized types and how finely their scales are laid over a tensor: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QType:
    """An integer type to quantize to.

    Args:
        name: what users and plan files call it.
        dtype: numpy's name of the type that stores it.
        bits: bits of information an element holds.
        qmin, qmax: the integers that may appear; a symmetric signed type leaves out its lowest
            value so that -x and x have the same precision.
    """

    name: str
    dtype: str
    bits: int
    qmin: int
    qmax: int


UINT8 = QType("uint8", "uint8", 8, 0, 255)
INT8 = QType("int8", "int8", 8, -127, 127)
# 255 * 64 * 2 < 2**15: two products of u8 x s8 fit in the 16-bit lanes that AVX2's VPMADDUBSW
# saturates in, so a CPU without VNNI sums them exactly.
INT8_REDUCED = QType("int8-reduced", "int8", 7, -64, 64)
INT32 = QType("int32", "int32", 32, -(2**31) + 1, 2**31 - 1)
# What stays float, where a site needs a spec all the same.
FLOAT32 = QType("float32", "float32", 32, 0, 0)

QTYPES = {t.name: t for t in (UINT8, INT8, INT8_REDUCED, INT32, FLOAT32)}


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

    size divides K. Every other axis keeps its indices: w [K, N], axis 0 -> scale [K/size, N].
    """

    axis: int
    size: int


PER_TENSOR = PerTensor()

Granularity = PerTensor | PerChannel | PerRowOfLast | PerBlock


@dataclass(frozen=True)
class TensorSpec:
    """How a tensor is to be quantized; which one is another matter."""

    qtype: QType
    granularity: Granularity
    symmetric: bool
