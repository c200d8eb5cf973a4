"""Unusual values: types other than float32, numbers that fit no grid."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, helper, numpy_helper

from tests.sweep.specimen import ALL, Specimen, array, floats, ints, scalar

_SQUARE = {"w": (64, 64)}
_FLOAT16 = array("w", (64, 64)).astype(np.float16)
_DOUBLE = array("w", (64, 64)).astype(np.float64)
_BRAIN = array("w", (64, 64)).astype(ml_dtypes.bfloat16)
_TINY = np.finfo(np.float32).smallest_subnormal


def _constant(**attribute: Any) -> Any:
    """The first weight in a Constant node, in one of its many forms."""

    def edit(model: ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], **attribute))

    return edit


def _sparse(model: ModelProto) -> None:
    dense = np.zeros((64, 64), np.float32)
    dense[::3, ::5] = 0.5
    where = np.flatnonzero(dense)
    values = helper.make_tensor("s", 1, [where.size], dense.ravel()[where])
    indices = helper.make_tensor("i", 7, [where.size], where)
    made = helper.make_sparse_tensor(values, indices, [64, 64])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], sparse_value=made))


def _sparse_initializer(model: ModelProto) -> None:
    made = model.graph.sparse_initializer.add()
    made.values.CopyFrom(numpy_helper.from_array(floats(1, 2), "w"))
    made.indices.CopyFrom(numpy_helper.from_array(ints(0, 5), "w_indices"))
    made.dims.extend([64, 64])


_TENSOR = numpy_helper.from_array(array("k", (64, 64)), "k")

TYPES: dict[str, Specimen] = {
    "constant-tensor": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, k) }", edit=_constant(value=_TENSOR)
    ),
    "constant-float": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = Mul(a, k) }",
        _SQUARE,
        edit=_constant(value_float=0.3),
    ),
    "constant-floats": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { y = Gemm(x, w, k) }",
        _SQUARE,
        edit=_constant(value_floats=[float(i) for i in range(64)]),
    ),
    "constant-int": Specimen(
        "(float[N, 64] x) => (float[N] y) { a = MatMul(x, w) y = Gather<axis = 1>(a, k) }",
        _SQUARE,
        edit=_constant(value_int=3),
    ),
    "constant-ints": Specimen(
        "(float[N, 64] x) => (float[A, 2, 32] y) { a = MatMul(x, w) y = Reshape(a, k) }",
        _SQUARE,
        edit=_constant(value_ints=[-1, 2, 32]),
    ),
    "constant-string": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, string t) { y = MatMul(x, w) t = Identity(k) }",
        _SQUARE,
        edit=_constant(value_string="a word"),
    ),
    "constant-strings": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, string[2] t) { y = MatMul(x, w) t = Identity(k) }",
        _SQUARE,
        edit=_constant(value_strings=["a", "ü"]),
    ),
    "constant-sparse": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, k) y = MatMul(a, w) }",
        _SQUARE,
        edit=_sparse,
        refused="sparse initializers",
    ),
    "sparse-initializer": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }",
        edit=_sparse_initializer,
        refused="sparse initializers",
    ),
    "constant-of-shape": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = ConstantOfShape<value = float[1] {0.25}>(s) a = MatMul(x, k) y = MatMul(a, w) }",
        {**_SQUARE, "s": ints(64, 64)},
    ),
    "eye-as-weight": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = EyeLike(w) a = MatMul(x, k) y = MatMul(a, w) }", _SQUARE
    ),
    "half": Specimen(
        "(float16[N, 64] x) => (float16[N, 64] y) { a = MatMul(x, w) y = Relu(a) }", {"w": _FLOAT16}
    ),
    "half-weights-cast": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = Cast<to = 1>(w) a = MatMul(x, k) y = Relu(a) }",
        {"w": _FLOAT16},
    ),
    "half-inside": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { h = Cast<to = 10>(x) a = MatMul(h, w) f = Cast<to = 1>(a) y = MatMul(f, v) }",
        {"w": _FLOAT16, "v": (64, 64)},
    ),
    "half-in-and-out": Specimen(
        "(float16[N, 64] x) => (float16[N, 64] y) { f = Cast<to = 1>(x) a = MatMul(f, w) y = Cast<to = 10>(a) }",
        _SQUARE,
    ),
    "double": Specimen(
        "(double[N, 64] x) => (double[N, 64] y) { a = MatMul(x, w) y = Relu(a) }", {"w": _DOUBLE}
    ),
    "double-inside": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { h = Cast<to = 11>(x) a = MatMul(h, w) f = Cast<to = 1>(a) y = MatMul(f, v) }",
        {"w": _DOUBLE, "v": (64, 64)},
    ),
    "brain-inside": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = Cast<to = 1>(w) a = MatMul(x, k) y = MatMul(a, v) }",
        {"w": _BRAIN, "v": (64, 64)},
    ),
    "brain-between": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) c = Cast<to = 16>(a) y = Cast<to = 1>(c) }",
        _SQUARE,
    ),
    "four-bits-cast": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = Cast<to = 1>(w) a = MatMul(x, k) y = MatMul(a, v) }",
        {"w": np.round(array("w", (64, 64)) * 9).clip(-8, 7).astype(ml_dtypes.int4), "v": (64, 64)},
        opset=21,
        ir=10,
    ),
    "eight-bit-floats-cast": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { k = Cast<to = 1>(w) a = MatMul(x, k) y = MatMul(a, v) }",
        {"w": array("w", (64, 64)).astype(ml_dtypes.float8_e4m3fn), "v": (64, 64)},
        opset=19,
        ir=9,
    ),
    "integers-only": Specimen(
        "(int64[N, 4] x) => (int64[N, 4] y) { a = MatMul(x, w) y = Add(a, w) }",
        {"w": np.arange(16).reshape(4, 4)[:4]},
        idle=ALL,
        lengths={"N": 4},
    ),
    "integer-product-32": Specimen(
        "(float[4, 64] x) => (int32[4, 64] y) { c = Cast<to = 6>(x) a = MatMul(c, w) y = Add(a, z) }",
        {"w": np.arange(4096, dtype=np.int32).reshape(64, 64), "z": np.arange(64, dtype=np.int32)},
        idle=ALL,
    ),
    "booleans": Specimen(
        "(float[N, 64] x, bool[N, 64] m) => (float[N, 64] y, bool[N, 64] n) { a = MatMul(x, w) n = Not(m) y = Where(n, a, x) }",
        _SQUARE,
    ),
    "strings-beside": Specimen(
        "(float[N, 64] x, string[N] s) => (float[N, 64] y, string[N] t) { y = MatMul(x, w) t = Identity(s) }",
        _SQUARE,
    ),
    "string-constants": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, string[2] t) { y = MatMul(x, w) t = Gather(s, k) }",
        {**_SQUARE, "s": np.asarray(["a", "b", ""], object), "k": ints(2, 0)},
    ),
    "sequence-inside": Specimen(
        "(float[4, 64] x) => (float[4, 64] y) { a = MatMul(x, w) s = SplitToSequence<axis = 0>(a) y = ConcatFromSequence<axis = 0>(s) }",
        _SQUARE,
    ),
    "sequence-split-by-sizes": Specimen(
        "(float[4, 64] x) => (float[2, 64] y) { a = MatMul(x, w) s = SplitToSequence<axis = 0>(a, k) e = SequenceAt(s, o) y = MatMul(e, w) }",
        {**_SQUARE, "k": ints(2, 2), "o": np.asarray(1)},
    ),
    "sequence-without-axis": Specimen(
        "(float[4, 64] x) => (float[64] y) { a = MatMul(x, w) s = SplitToSequence<keepdims = 0>(a) y = SequenceAt(s, o) }",
        {**_SQUARE, "o": np.asarray(-1)},
    ),
    "sequence-out": Specimen(
        "(float[N, 64] x) => (seq(float[A, 64]) y) { a = MatMul(x, w) y = SequenceConstruct(a, x) }", _SQUARE
    ),
    "sequence-inserted-and-erased": Specimen(
        "(float[N, 64] x) => (seq(float[A, 64]) y, int64 n) { a = MatMul(x, w) e = SequenceEmpty() s = SequenceInsert(e, a) t = SequenceInsert(s, x, z) y = SequenceErase(t, z) n = SequenceLength(y) }",
        {**_SQUARE, "z": np.asarray(0)},
    ),
    "sequence-through-loop": Specimen(
        """(float[4, 64] x) => (float[A, 64] y) {
            e = SequenceEmpty()
            s = Loop(n, , e) <body = b (int64 i, bool c, seq(float[4, 64]) q) => (bool d, seq(float[4, 64]) r) { d = Identity(c) a = MatMul(x, w) r = SequenceInsert(q, a) }>
            y = ConcatFromSequence<axis = 0>(s)
        }""",
        {**_SQUARE, "n": np.asarray(2)},
    ),
    "sequence-map": Specimen(
        "(float[4, 64] x) => (seq(float[A, B]) y) { s = SplitToSequence<axis = 0>(x, k) y = SequenceMap(s) <body = b (float[2, 64] i) => (float[2, 64] o) { a = MatMul(i, w) o = Relu(a) }> }",
        {**_SQUARE, "k": ints(2, 2)},
    ),
    "optional-inside": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, bool z) { a = MatMul(x, w) o = Optional(a) g = OptionalGetElement(o) z = OptionalHasElement(o) y = MatMul(g, w) }",
        _SQUARE,
    ),
    "optional-out": Specimen(
        "(float[N, 64] x) => (optional(float[N, 64]) y) { a = MatMul(x, w) y = Optional(a) }", _SQUARE
    ),
    "random-unused": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { r = RandomNormal<shape = [3]>() y = MatMul(x, w) }",
        _SQUARE,
        refused="opset 17 can't be raised to 25",  # onnxruntime has no such RandomNormal
        quantized=True,
    ),
    "shape-arithmetic": Specimen(
        "(float[N, 64] x) => (float[A, 16] y) { a = MatMul(x, w) s = Shape(a) n = Gather(s, z) c = Cast<to = 1>(n) m = Mul(c, f) i = Cast<to = 7>(m) t = Concat<axis = 0>(i, k) y = Reshape(a, t) }",
        {**_SQUARE, "z": np.asarray([0]), "f": scalar(4.0), "k": ints(16)},
    ),
    "bits-and-range": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { s = Shape(x) n = Gather(s, z) r = Range(o, n, e) c = Cast<to = 1>(r) u = Unsqueeze(c, k) a = Mul(x, u) y = MatMul(a, w) }",
        {**_SQUARE, "z": np.asarray(0), "o": np.asarray(0), "e": np.asarray(1), "k": ints(1)},
    ),
}


def _numbers(w: np.ndarray, b: np.ndarray | None = None, **more: Any) -> Specimen:
    text = "(float[N, 64] x) => (float[N, 64] y) { a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v) }"
    return Specimen(text, {"w": w, "b": floats(*[0.0] * 64) if b is None else b, "v": (64, 64)}, **more)


def _with(value: float, base: float = 1.0) -> np.ndarray:
    made = array("w", (64, 64)) * np.float32(base)
    made[3, 5] = value
    return made


def _fed(
    values: Any,
    text: str = "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
    **more: Any,
) -> Specimen:
    return Specimen(text, _SQUARE, feeds={"x": lambda r: np.asarray(values(r), np.float32)}, **more)


NUMBERS: dict[str, Specimen] = {
    "weights-all-0": _numbers(np.zeros((64, 64), np.float32)),
    "weights-all-alike": _numbers(np.full((64, 64), 0.1, np.float32)),
    "weights-of-one-channel-0": _numbers(array("w", (64, 64)) * (np.arange(64) != 7).astype(np.float32)),
    "weights-minus-0": _numbers(np.full((64, 64), -0.0, np.float32)),
    "weights-nan": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) i = IsNaN(a) b = Where(i, x, a) y = MatMul(b, v) }",
        {"w": _with(np.nan), "v": (64, 64)},
    ),
    "weights-nan-unused": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { d = MatMul(x, w) y = MatMul(x, v) }",
        {"w": _with(np.nan), "v": (64, 64)},
    ),
    "weights-infinite": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) r = Sigmoid(a) y = MatMul(r, v) }",
        {"w": _with(np.inf), "v": (64, 64)},
        refused="holds infinity",
        quantized=True,
    ),
    "weights-denormal": _numbers(array("w", (64, 64)) * np.float32(1e-39)),
    "weights-smallest": _numbers(np.full((64, 64), _TINY, np.float32)),
    "weights-one-denormal": _numbers(_with(_TINY)),
    "weights-1e38": _numbers(array("w", (64, 64)) * np.float32(1e36)),
    "weights-largest": _numbers(_with(np.finfo(np.float32).max), refused="holds", quantized=True),
    "weights-one-outlier": _numbers(_with(1000.0)),
    "weights-of-many-scales": _numbers(array("w", (64, 64)) * np.logspace(-20, 5, 64, dtype=np.float32)),
    "weights-beyond-half": _numbers(array("w", (64, 64)) * np.float32(1e6)),
    "weights-all-negative": _numbers(-np.abs(array("w", (64, 64)))),
    "weights-one-by-one": Specimen(
        "(float[N, 1] x) => (float[N, 1] y) { a = MatMul(x, w) y = Add(a, w) }",
        {"w": np.full((1, 1), -3.0, np.float32)},
    ),
    "weights-integers": _numbers(np.round(array("w", (64, 64)) * 100).astype(np.float32)),
    "bias-huge": _numbers(array("w", (64, 64)), np.full(64, 1e6, np.float32)),
    "bias-beyond-int32": _numbers(array("w", (64, 64)) * np.float32(1e-6), np.full(64, 1e8, np.float32)),
    "bias-infinite": _numbers(
        array("w", (64, 64)), np.full(64, np.inf, np.float32), refused="holds", quantized=True
    ),
    "bias-denormal": _numbers(array("w", (64, 64)), np.full(64, 1e-40, np.float32)),
    "activations-all-0": _fed(lambda r: np.zeros((4, 64))),
    "activations-constant": _fed(lambda r: np.full((4, 64), 3.25)),
    "activations-negative": _fed(lambda r: -np.abs(r.standard_normal((4, 64))) - 5),
    "activations-far-from-0": _fed(lambda r: r.standard_normal((4, 64)) * 0.01 + 100),
    "activations-denormal": _fed(lambda r: r.standard_normal((4, 64)) * 1e-40),
    "activations-1e30": _fed(lambda r: r.standard_normal((4, 64)) * 1e30),
    "activations-of-one-outlier": _fed(
        lambda r: np.where(np.arange(256).reshape(4, 64) == 77, 3000.0, r.standard_normal((4, 64)))
    ),
    "activations-differ-by-sample": _fed(lambda r: r.standard_normal((4, 64)) * 10.0 ** r.integers(-3, 4)),
    "activations-nan": _fed(lambda r: np.full((4, 64), np.nan), refused="holds NaN", quantized=True),
    "activations-become-nan": _fed(
        lambda r: r.standard_normal((4, 64)),
        "(float[N, 64] x) => (float[N, 64] y, float[N, 64] z) { a = MatMul(x, w) z = Sqrt(a) b = Relu(a) y = MatMul(b, w) }",
        refused="holds NaN",
        quantized=True,
    ),
    "activations-become-infinite": _fed(
        lambda r: np.round(r.standard_normal((4, 64))),
        "(float[N, 64] x) => (float[N, 64] y) { k = Reciprocal(x) n = Neg(k) e = Exp(n) p = Clip(e) a = MatMul(x, w) m = Min(a, k) c = Relu(m) y = MatMul(x, w) }",
    ),
    "activations-saturate": _fed(
        lambda r: r.standard_normal((4, 64)) * 1000,
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) s = Sigmoid(a) t = Tanh(a) m = Mul(s, t) y = MatMul(m, w) }",
    ),
    "output-constant": _fed(
        lambda r: r.standard_normal((4, 64)),
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) z = Sub(a, a) y = MatMul(z, w) }",
    ),
    "output-of-exponentials": _fed(
        lambda r: r.standard_normal((4, 64)) * 20,
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) e = Exp(a) s = Softplus(a) l = Log(s) y = Add(e, l) }",
    ),
    "softmax-of-extremes": _fed(
        lambda r: r.standard_normal((4, 64)) * 1e4,
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) s = Softmax(a) y = MatMul(s, w) }",
    ),
    "relu-always-0": _fed(
        lambda r: np.abs(r.standard_normal((4, 64))),
        "(float[N, 64] x) => (float[N, 64] y) { n = Neg(x) b = Relu(n) y = MatMul(b, w) }",
    ),
}
