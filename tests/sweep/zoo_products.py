"""MatMul, Gemm, Einsum and embeddings: every shape and place of a weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.sweep.specimen import ALL, Specimen, floats, ints, scalar

_UNQUANTIZABLE = ALL - {"fp16"}
_TABLE = (50, 64)


def _gemm(
    attributes: str, weights: dict[str, Any], x: str = "4, 64", y: str = "4, 64", **more: Any
) -> Specimen:
    c = ", c" if "c" in weights else ""
    return Specimen(
        f"(float[{x}] x) => (float[{y}] y) {{ g = Gemm<{attributes or 'alpha = 1.0'}>(x, w{c}) y = Relu(g) }}",
        weights,
        **more,
    )


def _ids(count: int = 7, high: int = 50) -> dict[str, Any]:
    return {"i": lambda r: r.integers(-high, high, (2, count))}


PRODUCTS: dict[str, Specimen] = {
    "gemm-scaled": _gemm("alpha = 0.5, beta = 2.0", {"w": (64, 64), "c": (64,)}),
    "gemm-alpha-0": _gemm("alpha = 0.0", {"w": (64, 64), "c": (64,)}),
    "gemm-beta-0": _gemm("beta = 0.0", {"w": (64, 64), "c": (64,)}),
    "gemm-negative-alpha": _gemm("alpha = -3.0, transB = 1", {"w": (64, 64)}),
    "gemm-trans-a": _gemm("transA = 1", {"w": (64, 64), "c": (64,)}, x="64, 4"),
    "gemm-trans-both": _gemm("transA = 1, transB = 1", {"w": (64, 64), "c": (64,)}, x="64, 4"),
    "gemm-scalar-c": _gemm("beta = 0.5", {"w": (64, 64), "c": scalar(2.0)}),
    "gemm-one-c": _gemm("", {"w": (64, 64), "c": floats(2.0)}),
    "gemm-row-c": _gemm("", {"w": (64, 64), "c": (1, 64)}),
    "gemm-column-c": _gemm("alpha = 2.0", {"w": (64, 64), "c": (4, 1)}),
    "gemm-full-c": _gemm("beta = 2.0", {"w": (64, 64), "c": (4, 64)}),
    "gemm-one-by-one-c": _gemm("", {"w": (64, 64), "c": (1, 1)}),
    "gemm-one-column": _gemm("", {"w": (64, 1), "c": (1,)}, y="4, 1"),
    "gemm-computed-c": Specimen(
        "(float[N, 64] x, float[64] c) => (float[N, 64] y) { y = Gemm(x, w, c) }", {"w": (64, 64)}
    ),
    "gemm-weight-on-the-left": Specimen(
        "(float[64, N] x) => (float[64, N] y) { y = Gemm(w, x) }", {"w": (64, 64)}
    ),
    "gemm-and-batchnorm": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { g = Gemm<transB = 1>(x, w, c) y = BatchNormalization(g, c, c, c, o) }",
        {"w": (64, 64), "c": (64,), "o": np.ones(64, np.float32)},
    ),
    "gemm-without-rows": Specimen(
        "(float[N, 64] x) => (float[A, 64] y) { s = Slice(x, z, z) y = Gemm(s, w) }",
        {"w": (64, 64), "z": ints(0)},
    ),
    "gemm-k-0": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { s = Slice(x, z, z, o) e = MatMul(s, w) m = MatMul(x, v) y = Add(e, m) }",
        {"w": (0, 64), "v": (64, 64), "z": ints(0), "o": ints(1)},
    ),
    "matmul-k-0-input": Specimen(
        "(float[3, 0] x) => (float[3, 64] y) { e = MatMul(x, w) y = Add(e, b) }",
        {"w": (0, 64), "b": (64,)},
        idle=_UNQUANTIZABLE,
    ),
    "matmul-n-0": Specimen(
        "(float[N, 64] x) => (float[N, 0] y, float[N, 64] z) { y = MatMul(x, w) z = MatMul(x, v) }",
        {"w": (64, 0), "v": (64, 64)},
    ),
    "matmul-k-1": Specimen("(float[N, 1] x) => (float[N, 64] y) { y = MatMul(x, w) }", {"w": (1, 64)}),
    "matmul-odd-sizes": Specimen(
        "(float[N, 37] x) => (float[N, 41] y) { y = MatMul(x, w) }", {"w": (37, 41)}
    ),
    "matmul-vectors": Specimen(
        "(float[64] x) => (float y) { y = MatMul(x, w) }", {"w": (64,)}, idle=_UNQUANTIZABLE
    ),
    "matmul-vector-input": Specimen(
        "(float[64] x) => (float[64] y) { a = MatMul(x, w) y = Relu(a) }", {"w": (64, 64)}
    ),
    "matmul-vector-input-with-bias": Specimen(
        "(float[64] x) => (float[1, 64] y) { a = MatMul(x, w) y = Add(a, b) }", {"w": (64, 64), "b": (1, 64)}
    ),
    "matmul-vector-weight": Specimen(
        "(float[N, 64] x) => (float[N] y) { a = MatMul(x, w) y = Relu(a) }", {"w": (64,)}, idle=_UNQUANTIZABLE
    ),
    "matmul-vector-weight-on-the-left": Specimen(
        "(float[64, N] x) => (float[N] y) { y = MatMul(w, x) }", {"w": (64,)}, idle=_UNQUANTIZABLE
    ),
    "matmul-batched-weight": Specimen(
        "(float[4, N, 64] x) => (float[4, N, 32] y) { y = MatMul(x, w) }", {"w": (4, 64, 32)}
    ),
    "matmul-weight-of-4-axes": Specimen(
        "(float[2, 3, N, 16] x) => (float[2, 3, N, 32] y) { y = MatMul(x, w) }", {"w": (2, 3, 16, 32)}
    ),
    "matmul-weight-of-one-batch": Specimen(
        "(float[B, N, 64] x) => (float[B, N, 32] y) { y = MatMul(x, w) }", {"w": (1, 64, 32)}
    ),
    "matmul-weight-has-more-axes": Specimen(
        "(float[N, 64] x) => (float[3, N, 32] y) { y = MatMul(x, w) }", {"w": (3, 64, 32)}
    ),
    "matmul-weight-on-the-left": Specimen(
        "(float[64, N] x) => (float[64, N] y) { y = MatMul(w, x) }", {"w": (64, 64)}
    ),
    "matmul-weights-only": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = MatMul(w, v) y = MatMul(x, k) }",
        {"w": (64, 64), "v": (64, 64)},
    ),
    "matmul-behind-transpose": Specimen(
        "(float[N, 64] x) => (float[N, 32] y) { t = Transpose(w) y = MatMul(x, t) }", {"w": (32, 64)}
    ),
    "matmul-both-ways-round": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { t = Transpose(w) a = MatMul(x, t) b = Relu(a) y = MatMul(b, w) }",
        {"w": (64, 64)},
    ),
    "matmul-bias-has-more-axes": Specimen(
        "(float[N, 64] x) => (float[1, N, 64] y) { a = MatMul(x, w) y = Add(a, b) }",
        {"w": (64, 64), "b": (1, 1, 64)},
    ),
    "matmul-bias-has-more-axes-left": Specimen(
        "(float[N, 64] x) => (float[1, 1, N, 64] y) { a = MatMul(x, w) s = Add(b, a) y = Relu(s) }",
        {"w": (64, 64), "b": (1, 1, 1, 64)},
    ),
    "matmul-bias-of-batch": Specimen(
        "(float[N, 64] x) => (float[3, N, 64] y) { a = MatMul(x, w) y = Add(a, b) }",
        {"w": (64, 64), "b": (3, 1, 64)},
    ),
    "matmul-bias-scalar": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = Add(a, b) }",
        {"w": (64, 64), "b": scalar(0.5)},
    ),
    "matmul-bias-full": Specimen(
        "(float[4, 64] x) => (float[4, 64] y) { a = MatMul(x, w) y = Add(a, b) }",
        {"w": (64, 64), "b": (4, 64)},
    ),
    "matmul-bias-widens": Specimen(
        "(float[N, 64] x) => (float[N, 8] y) { a = MatMul(x, w) y = Add(a, b) }", {"w": (64, 1), "b": (8,)}
    ),
    "matmul-bias-twice": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) c = Add(a, b) y = Add(c, b) }",
        {"w": (64, 64), "b": (64,)},
    ),
    "matmul-then-mul": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) c = Mul(a, s) d = Add(c, b) y = Div(d, s) }",
        {"w": (64, 64), "b": (64,), "s": scalar(8.0)},
    ),
    "matmul-three-axes": Specimen(
        "(float[B, T, 64] x) => (float[B, T, 64] y) { a = MatMul(x, w) c = Add(a, b) d = Relu(c) e = MatMul(d, w) y = Add(b, e) }",
        {"w": (64, 64), "b": (64,)},
    ),
    "matmul-large-k": Specimen(
        "(float[N, 1536] x) => (float[N, 16] y) { a = MatMul(x, w) y = Add(a, b) }",
        {"w": (1536, 16), "b": (16,)},
    ),
    "matmul-two-readers": Specimen(
        "(float[B, T, 64] x) => (float[1, B, T, 64] y) { q = MatMul(x, w) k = MatMul(x, v) c = Add(q, b) d = Add(k, e) y = Mul(c, d) }",
        {"w": (64, 64), "v": (64, 64), "b": (1, 1, 64), "e": (1, 1, 1, 64)},
    ),
    "einsum": Specimen(
        '(float[B, T, 64] x) => (float[B, T, 4, 16] y) { y = Einsum<equation = "btc,chd->bthd">(x, w) }',
        {"w": (64, 4, 16)},
        idle=frozenset({"static", "dynamic", "weight-only"}),
    ),
    "einsum-plain": Specimen(
        '(float[N, 64] x) => (float[N, 64] y) { a = Einsum<equation = "ij,jk->ik">(x, w) y = Relu(a) }',
        {"w": (64, 64)},
        idle=frozenset({"static", "dynamic", "weight-only"}),
    ),
    "tied-embeddings": Specimen(
        "(int64[2, T] i) => (float[2, T, 50] y) { e = Gather(w, i) t = Transpose(w) y = MatMul(e, t) }",
        {"w": _TABLE},
        feeds=_ids(),
    ),
    "tied-embeddings-gemm": Specimen(
        "(int64[T] i) => (float[T, 50] y) { e = Gather(w, i) y = Gemm<transB = 1>(e, w) }",
        {"w": _TABLE},
        feeds={"i": lambda r: r.integers(0, 50, 7)},
    ),
    "tied-across-columns": Specimen(
        "(int64[T] i, float[N, 50] x) => (float[N, 64] y, float[50, T] z) { z = Gather<axis = 1>(w, i) y = MatMul(x, w) }",
        {"w": _TABLE},
        feeds={"i": lambda r: r.integers(0, 64, 7)},
    ),
    "embedding-one-id": Specimen(
        "(int64 i) => (float[64] y) { y = Gather(w, i) }",
        {"w": (64, 64)},
        feeds={"i": lambda r: np.asarray(r.integers(0, 64))},
    ),
    "embedding-int32": Specimen(
        "(int32[2, T] i) => (float[2, T, 64] y) { e = Gather(w, i) p = GatherElements<axis = 1>(e, k) y = Add(e, p) }",
        {"w": (64, 64), "k": np.zeros((2, 1, 64), np.int64)},
        feeds={"i": lambda r: r.integers(0, 64, (2, 5)).astype(np.int32)},
    ),
    "embedding-along-2": Specimen(
        "(int64[T] i) => (float[4, 4, T] y) { y = Gather<axis = -1>(w, i) }",
        {"w": (4, 4, 256)},
        feeds={"i": lambda r: r.integers(0, 256, 7)},
    ),
    "embedding-vector": Specimen(
        "(int64[T] i) => (float[T] y) { y = Gather(w, i) }",
        {"w": (2048,)},
        idle=_UNQUANTIZABLE,
        feeds={"i": lambda r: r.integers(0, 2048, 7)},
    ),
    "embedding-of-nothing": Specimen(
        "(int64[T] i, float[N, 64] x) => (float[A, 64] y) { s = Slice(i, z, z) e = Gather(w, s) m = MatMul(x, w) y = Concat<axis = 0>(e, m) }",
        {"w": (64, 64), "z": ints(0)},
    ),
    "two-tables-added": Specimen(
        "(int64[2, 7] i) => (float[2, 7, 64] y) { a = Gather(w, i) p = Gather(v, k) s = Add(a, p) y = LayerNormalization(s, g, b) }",
        {"w": _TABLE, "v": (16, 64), "k": ints(0, 1, 2, 3, 4, 5, 6), "g": (64,), "b": (64,)},
        feeds=_ids(),
    ),
    "gather-nd-table": Specimen(
        "(int64[T, 1] i) => (float[T, 64] y) { y = GatherND(w, i) }",
        {"w": _TABLE},
        idle=frozenset({"static", "dynamic", "weight-only"}),
        feeds={"i": lambda r: r.integers(0, 50, (7, 1))},
    ),
    "one-hot-product": Specimen(
        "(int64[T] i) => (float[T, 64] y) { h = OneHot(i, d, v) y = MatMul(h, w) }",
        {"w": _TABLE, "d": np.asarray(50), "v": floats(0, 1)},
    ),
}
