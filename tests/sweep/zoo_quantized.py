"""Models that are quantized already, by whatever tool, in whole or in part."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.sweep.specimen import ALL, Specimen, Weight, array, floats, scalar

_INT8 = np.clip(np.round(array("w", (64, 64)) * 100), -127, 127).astype(np.int8)
_SCALES = np.linspace(0.005, 0.02, 64).astype(np.float32)
_GRID: dict[str, Weight] = {
    "s": scalar(0.03),
    "z": np.asarray(128, np.uint8),
    "t": scalar(0.01),
    "n": np.asarray(0, np.int8),
}
_QDQ = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
_WIDE: dict[str, Any] = {"opset": 21, "ir": 10}
_CONV8 = np.clip(np.round(array("w", (8, 8, 3, 3)) * 300), -127, 127).astype(np.int8)

QUANTIZED: dict[str, Specimen] = {
    "qdq-per-tensor": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, t, n) a = MatMul(d, k) p = QuantizeLinear(a, s, z) y = DequantizeLinear(p, s, z) }}",
        {**_GRID, "w": _INT8},
        idle=ALL,
    ),
    "qdq-per-channel": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear<axis = 1>(w, c, m) a = MatMul(d, k) y = Relu(a) }}",
        {**_GRID, "w": _INT8, "c": _SCALES, "m": np.zeros(64, np.int8)},
        idle=ALL,
    ),
    "qdq-and-float-behind": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, t) a = MatMul(d, k) b = Tanh(a) y = MatMul(b, v) }}",
        {**_GRID, "w": _INT8, "v": (64, 64)},
    ),
    "qdq-conv": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 4, 4] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) k = DequantizeLinear<axis = 0>(w, c) e = DequantizeLinear(b, u) a = Conv(d, k, e) r = Relu(a) p = QuantizeLinear(r, s, h) y = DequantizeLinear(p, s, h) }",
        {
            **_GRID,
            "w": _CONV8,
            "c": _SCALES[:8],
            "b": np.arange(8, dtype=np.int32) * 100,
            "u": scalar(0.0003),
            "h": np.asarray(0, np.uint8),
        },
        idle=ALL,
    ),
    "qdq-16-bits": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, t, n) a = MatMul(d, k) y = MatMul(a, v) }}",
        {
            "s": scalar(0.0005),
            "z": np.asarray(30000, np.uint16),
            "t": scalar(0.0001),
            "n": np.asarray(0, np.int16),
            "w": np.round(array("w", (64, 64)) * 9000).astype(np.int16),
            "v": (64, 64),
        },
        **_WIDE,
    ),
    "qdq-4-bits-blocked": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = DequantizeLinear<axis = 0, block_size = 32>(w, t) a = MatMul(x, k) y = MatMul(a, v) }",
        {
            "t": np.abs(array("t", (2, 64))) + np.float32(0.01),
            "w": np.round(array("w", (64, 64)) * 9).clip(-8, 7).astype(ml_dtypes.int4),
            "v": (64, 64),
        },
        **_WIDE,
    ),
    "qdq-8-bit-floats": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = DequantizeLinear(w, t) a = MatMul(x, k) y = MatMul(a, v) }",
        {"t": scalar(0.5), "w": array("w", (64, 64)).astype(ml_dtypes.float8_e4m3fn), "v": (64, 64)},
        opset=19,
        ir=9,
    ),
    "qdq-opset-10": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, t, n) a = MatMul(d, k) y = MatMul(a, v) }}",
        {**_GRID, "w": _INT8, "v": (64, 64)},
        opset=10,
    ),
    "qdq-around-input-and-output": Specimen(
        f"(float[N, 64] x) => (float[N, 64] d, float[N, 64] y) {{ {_QDQ} y = MatMul(d, w) }}",
        {**_GRID, "w": (64, 64)},
    ),
    "qdq-right-through": Specimen(
        "(float[N, 64] x) => (float[N, 64] d) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) }",
        _GRID,
        idle=ALL,
    ),
    "qdq-of-one-element-scales": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, s, n) a = MatMul(d, k) y = MatMul(a, v) }}",
        {
            "s": floats(0.03),
            "z": np.asarray([128], np.uint8),
            "n": np.asarray([0], np.int8),
            "w": _INT8,
            "v": (64, 64),
        },
    ),
    "qdq-in-if": Specimen(
        f"(float[N, 64] x, bool c) => (float[N, 64] y) {{ {_QDQ} k = DequantizeLinear(w, t) y = If(c) <then_branch = o () => (float[M, 64] a) {{ a = MatMul(d, k) }}, else_branch = e () => (float[M, 64] b) {{ b = MatMul(d, v) }}> }}",
        {**_GRID, "w": _INT8, "v": (64, 64)},
    ),
    "integers-in-and-out": Specimen(
        "(uint8[N, 64] x) => (uint8[N, 64] y) { d = DequantizeLinear(x, s, z) a = MatMul(d, v) y = QuantizeLinear(a, s, z) }",
        {**_GRID, "v": (64, 64)},
    ),
    "qlinear-conv": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, A, B] y) { q = QuantizeLinear(x, s, z) c = QLinearConv(q, s, z, w, u, m, s, z, b) d = DequantizeLinear(c, s, z) y = Conv(d, v) }",
        {
            **_GRID,
            "w": _CONV8,
            "u": _SCALES[:8],
            "m": np.zeros(8, np.int8),
            "b": np.arange(8, dtype=np.int32) * 100,
            "v": (8, 8, 3, 3),
        },
    ),
    "qlinear-matmul": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { q = QuantizeLinear(x, s, z) c = QLinearMatMul(q, s, z, w, t, n, s, z) d = DequantizeLinear(c, s, z) r = Relu(d) y = MatMul(r, v) }",
        {**_GRID, "w": _INT8, "v": (64, 64)},
    ),
    "matmul-integer": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) c = Cast<to = 1>(i) m = Mul(s, t) a = Mul(c, m) y = MatMul(a, v) }",
        {"t": scalar(0.01), "w": _INT8, "v": (64, 64)},
    ),
    "conv-integer": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, A, B] y) { q, s, z = DynamicQuantizeLinear(x) i = ConvInteger(q, w, z, h) c = Cast<to = 1>(i) m = Mul(s, t) a = Mul(c, m) y = Conv(a, v) }",
        {
            "t": scalar(0.003),
            "w": (_CONV8.astype(np.int16) + 128).astype(np.uint8),
            "h": np.asarray(128, np.uint8),
            "v": (8, 8, 3, 3),
        },
    ),
    "contrib-dynamic": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = com.microsoft.DynamicQuantizeMatMul(x, w, t) y = MatMul(a, v) }",
        {"t": scalar(0.01), "w": _INT8, "v": (64, 64)},
        opsets={"com.microsoft": 1},
    ),
    "contrib-qlinear": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, A, B] y) { q = QuantizeLinear(x, s, z) a = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) g = com.microsoft.QLinearSigmoid(a, s, z, t, h) d = DequantizeLinear(g, t, h) y = Conv(d, v) }",
        {**_GRID, "h": np.asarray(0, np.uint8), "v": (8, 8, 3, 3)},
        opsets={"com.microsoft": 1},
    ),
    "contrib-qdq": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { q = com.microsoft.QuantizeLinear(x, s, z) d = com.microsoft.DequantizeLinear(q, s, z) y = MatMul(d, v) }",
        {"s": scalar(0.0005), "z": np.asarray(30000, np.uint16), "v": (64, 64)},
        opsets={"com.microsoft": 1},
    ),
    "contrib-nbits": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = com.microsoft.MatMulNBits<K = 64, N = 64, bits = 4, block_size = 32>(x, w, s) y = MatMul(a, v) }",
        {
            "w": np.arange(64 * 2 * 16, dtype=np.int64).astype(np.uint8).reshape(64, 2, 16),
            "s": np.full(128, 0.02, np.float32),
            "v": (64, 64),
        },
        opsets={"com.microsoft": 1},
    ),
    "stored-weight": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { c = Cast<to = 1>(w) k = Mul(c, t) a = MatMul(x, k) y = MatMul(a, v) }",
        {"t": _SCALES, "w": _INT8, "v": (64, 64)},
    ),
    "stored-table": Specimen(
        "(int64[T] i) => (float[T, 64] y) { g = Gather(w, i) c = Cast<to = 1>(g) a = Mul(c, t) y = MatMul(a, v) }",
        {"t": scalar(0.01), "w": _INT8, "v": (64, 64)},
        feeds={"i": lambda r: r.integers(0, 64, 5)},
    ),
    "quantizer-on-its-own": Specimen(
        "(float[N, 64] x) => (uint8[N, 64] q, float[N, 64] y) { q = QuantizeLinear(x, s, z) y = MatMul(x, v) }",
        {**_GRID, "v": (64, 64)},
    ),
    "computed-scale": Specimen(
        "(float[N, 64] x, float s) => (float[N, 64] y) { p = Abs(s) q = QuantizeLinear(x, p, z) d = DequantizeLinear(q, p, z) y = MatMul(d, v) }",
        {"z": np.asarray(128, np.uint8), "v": (64, 64)},
    ),
}
