"""Idioms of real networks that tables of operators tend to forget, large enough to be worth int8."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.sweep.specimen import Specimen, array, floats, ints, scalar

_C = 16
_PADS = "pads = [1, 1, 1, 1]"
_WIDE = array("v", (_C, _C, 3, 3)) * 60


def _between(body: str, weights: dict[str, Any] | None = None, opset: int = 17) -> Specimen:
    """A piece of graph between two convolutions: from c to r."""
    text = f"""(float[N, {_C}, 10, 10] x) => (float[N, {_C}, A, B] y) {{
        c = Conv<{_PADS}>(x, w, b) {body} y = Conv<{_PADS}>(r, v, d)
    }}"""
    convolutions = {"w": (_C, _C, 3, 3), "b": (_C,), "v": (_C, _C, 3, 3), "d": (_C,)}
    return Specimen(text, convolutions | (weights or {}), opset=opset)


def _products(body: str, weights: dict[str, Any], x: str = "24, 96", y: str = "A, B") -> Specimen:
    return Specimen(f"(float[{x}] x) => (float[{y}] y) {{ {body} }}", weights)


_BRANCHES = """
    y = If(q) <
        then_branch = yes () => (float[24, 96] o) { c = MatMul(a, v) o = Relu(c) },
        else_branch = no () => (float[24, 96] p) { p = MatMul(a, u) }
    >
"""

IDIOMS: dict[str, Specimen] = {
    "idiom-conv-1d": Specimen(
        f"(float[N, {_C}, 40] x) => (float[N, {_C}, A] y) {{ c = Conv<pads = [1, 1]>(x, w, b) r = Relu(c) y = Conv<pads = [2, 2], dilations = [2]>(r, v, b) }}",
        {"w": (_C, _C, 3), "v": (_C, _C, 3), "b": (_C,)},
    ),
    "idiom-conv-3d": Specimen(
        f"(float[N, {_C}, 4, 5, 6] x) => (float[N, {_C}, A, B, C] y) {{ c = Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w, b) r = Relu(c) y = Conv(r, v, b) }}",
        {"w": (_C, _C, 3, 3, 3), "v": (_C, _C, 3, 3, 3), "b": (_C,)},
    ),
    "idiom-conv-transpose": _between(
        "t = ConvTranspose<strides = [2, 2]>(c, k, b) r = Relu(t)", {"k": (_C, _C, 2, 2)}
    ),
    "idiom-conv-grouped": _between(
        f"e = Relu(c) g = Conv<{_PADS}, group = 4>(e, k, b) r = Relu(g)", {"k": (_C, _C // 4, 3, 3)}
    ),
    "idiom-conv-dilated": _between(
        "g = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(c, k, b) r = Relu(g)", {"k": (_C, _C, 3, 3)}
    ),
    "idiom-conv-auto-pad": _between(
        'g = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(c, k, b) h = Conv<auto_pad = "SAME_LOWER">(g, k, b) r = Relu(h)',
        {"k": (_C, _C, 3, 3)},
    ),
    "idiom-gemm-alpha-beta": _products(
        "a = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) r = Relu(a) y = Gemm<alpha = 0.25, transB = 1>(r, v, b)",
        {"w": (96, 96), "v": (96, 96), "b": (96,)},
    ),
    "idiom-gemm-trans-a": _products(
        "a = Gemm<transA = 1>(x, w, b) r = Relu(a) y = Gemm<transA = 1, transB = 1>(r, v, b)",
        {"w": (96, 96), "v": (96, 24), "b": (96,)},
        x="96, 24",
    ),
    "idiom-gemm-any-c": _products(
        "a = Gemm(x, w, s) r = Relu(a) e = Gemm<beta = 0.5>(r, v, f) g = Tanh(e) y = Gemm<beta = 0.0>(g, w, f)",
        {"w": (96, 96), "v": (96, 96), "s": scalar(0.5), "f": (24, 96)},
    ),
    "idiom-matmul-stack": _products(
        "a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, v)",
        {"w": (4, 96, 96), "b": (96,), "v": (1, 96, 96)},
        x="4, 24, 96",
        y="A, B, C",
    ),
    "idiom-matmul-two-activations": _products(
        "q = MatMul(x, w) k = MatMul(x, v) t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) d = Mul(s, e) p = Softmax(d) m = MatMul(p, q) y = MatMul(m, w)",
        {"w": (96, 96), "v": (96, 96), "e": scalar(0.1)},
        x="2, 24, 96",
        y="A, B, C",
    ),
    "idiom-mlp-with-a-float-head": _products(
        "a = Gemm(x, w, b) r = Relu(a) e = Gemm(r, v, b) s = Add(e, r) n = Relu(s) g = Gemm(n, w, b) h = Relu(g) y = Softmax(h)",
        {"w": (96, 96), "v": (96, 96), "b": (96,)},
    ),
    "idiom-prelu": _between("r = PRelu(c, k)", {"k": np.abs(array("k", (_C, 1, 1)))}),
    "idiom-prelu-one-slope": _between("r = PRelu(c, k)", {"k": floats(0.25)}),
    "idiom-silu": _between("g = Sigmoid(c) r = Mul(c, g)"),
    "idiom-hard-swish": _between("r = HardSwish(c)"),
    "idiom-tanh": _between("r = Tanh(c)"),
    "idiom-gelu": _between(
        "h = Div(c, k) e = Erf(h) o = Add(e, l) m = Mul(c, o) r = Mul(m, n)",
        {"k": scalar(2**0.5), "l": scalar(1.0), "n": scalar(0.5)},
    ),
    "idiom-channel-shuffle": _between(
        "e = Relu(c) p = Reshape(e, k) t = Transpose<perm = [0, 2, 1, 3, 4]>(p) r = Reshape(t, l)",
        {"k": ints(0, 2, _C // 2, 10, 10), "l": ints(0, _C, 10, 10)},
    ),
    "idiom-depth-to-space": _between(
        f'e = Relu(c) s = Conv<{_PADS}>(e, k) r = DepthToSpace<blocksize = 2, mode = "CRD">(s)',
        {"k": (4 * _C, _C, 3, 3)},
    ),
    "idiom-squeeze-excite": _between(
        "e = Relu(c) p = GlobalAveragePool(e) q = Conv(p, k) s = Relu(q) t = Conv(s, l, d) h = Sigmoid(t) r = Mul(e, h)",
        {"k": (8, _C, 1, 1), "l": (_C, 8, 1, 1)},
    ),
    "idiom-squeeze-excite-hard": _between(
        "e = Relu(c) p = GlobalAveragePool(e) q = Conv(p, k) s = Relu(q) t = Conv(s, l, d) h = HardSigmoid(t) r = Mul(e, h)",
        {"k": (8, _C, 1, 1), "l": (_C, 8, 1, 1)},
    ),
    "idiom-concat-heads": Specimen(
        f"""(float[N, {_C}, 10, 10] x) => (float[N, {2 * _C}, 100] y) {{
            c = Conv<{_PADS}>(x, w, b) e = Relu(c) p = Conv<{_PADS}>(e, v) q = Conv<{_PADS}>(e, u)
            s = Sigmoid(p) r = Concat<axis = 1>(s, q) y = Reshape(r, k)
        }}""",
        {"w": (_C, _C, 3, 3), "b": (_C,), "v": (_C, _C, 3, 3), "u": _WIDE, "k": ints(0, 2 * _C, -1)},
    ),
    "idiom-concat-unlike": _between(
        f"e = Relu(c) p = Conv<{_PADS}>(e, v) q = Conv<{_PADS}>(e, u) s = Concat<axis = 1>(p, q) r = Conv(s, k)",
        {"u": _WIDE, "k": (_C, 2 * _C, 1, 1)},
    ),
    "idiom-concat-clamped": _between(
        f"e = Relu(c) p = Conv<{_PADS}>(e, v) s = Concat<axis = 1>(e, p) r = Conv(s, k)",
        {"k": (_C, 2 * _C, 1, 1)},
    ),
    "idiom-residuals": _between(
        f"e = Relu(c) p = Conv<{_PADS}>(e, v, b) s = Add(p, e) g = Relu(s) q = Conv<{_PADS}>(g, w, b) t = Add(g, q) r = Relu(t)"
    ),
    "idiom-residuals-before-relu": _between(
        f"e = Relu(c) p = Conv<{_PADS}>(e, v, b) s = Add(p, c) g = Relu(s) q = Conv<{_PADS}>(g, w, b) t = Add(s, q) r = Relu(t)"
    ),
    "idiom-average-pool": _between(f"e = Relu(c) r = AveragePool<kernel_shape = [3, 3], {_PADS}>(e)"),
    "idiom-average-pool-dilated": _between(
        "e = Relu(c) r = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(e)", opset=19
    ),
    "idiom-max-pool": _between("e = Relu(c) r = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)"),
    "idiom-spatial-attention": _between("m = Softmax<axis = 1>(c) r = Mul(c, m)"),
    "idiom-lstm": Specimen(
        "(float[12, 1, 96] x) => (float[12, 1, 96] y) { l, = LSTM<hidden_size = 96>(x, w, r, b) s = Squeeze(l, k) y = MatMul(s, u) }",
        {"w": (1, 384, 96), "r": (1, 384, 96), "b": (1, 768), "k": ints(1), "u": (96, 96)},
    ),
    "idiom-gru": Specimen(
        "(float[12, 1, 96] x) => (float[12, 1, 96] y) { l, = GRU<hidden_size = 96>(x, w, r, b) s = Squeeze(l, k) y = MatMul(s, u) }",
        {"w": (1, 288, 96), "r": (1, 288, 96), "b": (1, 576), "k": ints(1), "u": (96, 96)},
    ),
    "idiom-if": Specimen(
        f"(float[24, 96] x, bool q) => (float[24, 96] y) {{ a = MatMul(x, w) {_BRANCHES} }}",
        {"w": (96, 96), "v": (96, 96), "u": (96, 96)},
        feeds={"q": lambda r: np.asarray(r.random() < 0.5)},
    ),
}
