"""Recurrent and attention layers, norms and what stands between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.sweep.specimen import Specimen, ints, scalar

_SIZE = 16


def _recurrent(
    op: str,
    gates: int,
    call: str = "x, w, r, b",
    attributes: str = "",
    directions: int = 1,
    outputs: str = "y, h",
    extra: dict[str, Any] | None = None,
    inputs: str = "",
    opset: int = 17,
    shape: str = "T, 2, 16",
    feeds: Any = None,
) -> Specimen:
    made = [o.strip() for o in outputs.split(",") if o.strip()]
    kinds = {"y": "float[T, D, B, 16] y", "h": "float[D, B, 16] h", "c": "float[D, B, 16] c"}
    declared = ", ".join(kinds[o] for o in made)
    text = f"(float[{shape}] x{inputs}) => ({declared}) {{ {outputs} = {op}<hidden_size = {_SIZE}{attributes}>({call}) }}"
    weights: dict[str, Any] = {
        "w": (directions, gates * _SIZE, 16),
        "r": (directions, gates * _SIZE, _SIZE),
        "b": (directions, 2 * gates * _SIZE),
        **(extra or {}),
    }
    names = {n.strip() for n in call.split(",")}
    return Specimen(text, {k: v for k, v in weights.items() if k in names}, opset=opset, feeds=feeds or {})


_TWO_WAYS = ', direction = "bidirectional"'

SEQUENCES: dict[str, Specimen] = {
    "lstm": _recurrent("LSTM", 4, outputs="y, h, c"),
    "lstm-bidirectional": _recurrent("LSTM", 4, attributes=_TWO_WAYS, directions=2, outputs="y, h, c"),
    "lstm-reverse-no-bias": _recurrent("LSTM", 4, "x, w, r", ', direction = "reverse"'),
    "lstm-last-state-only": _recurrent("LSTM", 4, outputs=", h"),
    "lstm-cell-only": _recurrent("LSTM", 4, outputs=", , c"),
    "lstm-lengths": _recurrent(
        "LSTM",
        4,
        "x, w, r, b, n",
        shape="5, 2, 16",
        inputs=", int32[2] n",
        feeds={"n": lambda r: r.integers(1, 6, 2).astype(np.int32)},
        outputs="y, h, c",
    ),
    "lstm-states": _recurrent(
        "LSTM", 4, "x, w, r, b, , i, j", inputs=", float[1, 2, 16] i, float[1, 2, 16] j", outputs="y, h, c"
    ),
    "lstm-constant-states": _recurrent(
        "LSTM", 4, "x, w, r, , , i, j", extra={"i": (1, 2, 16), "j": (1, 2, 16)}
    ),
    "lstm-peepholes": _recurrent("LSTM", 4, "x, w, r, b, , , , p", extra={"p": (1, 48)}),
    "lstm-peepholes-and-forgetting": _recurrent(
        "LSTM", 4, "x, w, r, , , , , p", ", input_forget = 1, clip = 0.5", extra={"p": (1, 48)}
    ),
    "lstm-other-activations": _recurrent(
        "LSTM",
        4,
        attributes=', activations = ["HardSigmoid", "Relu", "Tanh"], activation_alpha = [0.3], activation_beta = [0.4]',
    ),
    "lstm-layout-1": Specimen(
        "(float[2, T, 16] x) => (float[2, T, 16] y) { t = Transpose<perm = [1, 0, 2]>(x) l, = LSTM<hidden_size = 16>(t, w, r, b) s = Squeeze(l, k) y = Transpose<perm = [1, 0, 2]>(s) }",
        {"w": (1, 64, 16), "r": (1, 64, 16), "b": (1, 128), "k": ints(1)},
    ),
    "lstm-one-weight-for-both": Specimen(
        "(float[T, 2, 16] x) => (float[1, 2, 16] h) { , h = LSTM<hidden_size = 16>(x, w, w, b) }",
        {"w": (1, 64, 16), "b": (1, 128)},
    ),
    "lstm-stacked": Specimen(
        "(float[T, 2, 16] x) => (float[1, 2, 16] h) { y = LSTM<hidden_size = 16>(x, w, r, b) s = Squeeze(y, k) , h = LSTM<hidden_size = 16>(s, w, r, b) }",
        {"w": (1, 64, 16), "r": (1, 64, 16), "b": (1, 128), "k": ints(1)},
    ),
    "lstm-computed-weight": Specimen(
        "(float[T, 2, 16] x, float k) => (float[1, 2, 16] h) { v = Mul(w, k) , h = LSTM<hidden_size = 16>(x, v, r) }",
        {"w": (1, 64, 16), "r": (1, 64, 16)},
    ),
    "gru": _recurrent("GRU", 3),
    "gru-bidirectional-linear": _recurrent(
        "GRU", 3, attributes=_TWO_WAYS + ", linear_before_reset = 1", directions=2
    ),
    "gru-lengths-and-state": _recurrent(
        "GRU",
        3,
        "x, w, r, b, n, i",
        shape="5, 2, 16",
        inputs=", int32[2] n, float[1, 2, 16] i",
        feeds={"n": lambda r: r.integers(1, 6, 2).astype(np.int32)},
    ),
    "gru-last-state-only": _recurrent("GRU", 3, "x, w, r", outputs=", h"),
    "rnn": _recurrent("RNN", 1, attributes=', activations = ["Relu"]'),
    "rnn-bidirectional": _recurrent("RNN", 1, attributes=_TWO_WAYS, directions=2),
    "attention-written": Specimen(
        "(float[2, T, 64] x, bool[2, T] m) => (float[2, T, 64] y) { q = MatMul(x, w) k = MatMul(x, v) t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) d = Mul(s, c) n = Unsqueeze(m, a) e = Where(n, d, f) p = Softmax(e) o = MatMul(p, x) y = MatMul(o, u) }",
        {
            "w": (64, 64),
            "v": (64, 64),
            "u": (64, 64),
            "c": scalar(0.125),
            "a": ints(1),
            "f": scalar(np.finfo(np.float32).min),
        },
        feeds={"m": lambda r: np.asarray([[True]] * 2)},
        lengths={"T": 5},
    ),
    "mask-of-minus-infinity": Specimen(
        "(float[2, 5, 64] x) => (float[2, 5, 64] y) { q = MatMul(x, w) k = MatMul(x, v) t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) d = Add(s, c) p = Softmax(d) y = MatMul(p, x) }",
        {"w": (64, 64), "v": (64, 64), "c": np.triu(np.full((5, 5), -np.inf, np.float32), 1)},
    ),
    "mask-of-minus-infinity-shown": Specimen(
        "(float[2, 5, 64] x) => (float[2, 5, 5] d, float[2, 5, 64] y) { q = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(q) s = MatMul(x, t) d = Add(s, c) p = Softmax(d) y = MatMul(p, q) }",
        {"w": (64, 64), "c": np.triu(np.full((5, 5), -np.inf, np.float32), 1)},
    ),
    "mask-of-largest": Specimen(
        "(float[2, 5, 64] x, float[2, 1, 5] m) => (float[2, 5, 64] y) { q = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(q) s = MatMul(x, t) n = Sub(o, m) k = Mul(n, f) d = Add(s, k) p = Softmax(d) y = MatMul(p, q) }",
        {"w": (64, 64), "o": scalar(1.0), "f": scalar(np.finfo(np.float32).min)},
        feeds={"m": lambda r: np.asarray([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 0]]], np.float32)},
    ),
    "mask-of-ten-thousand": Specimen(
        "(float[2, 5, 64] x) => (float[2, 5, 64] y) { q = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(q) s = MatMul(x, t) d = Add(s, c) p = Softmax(d) y = MatMul(p, q) }",
        {"w": (64, 64), "c": np.triu(np.full((5, 5), -10000.0, np.float32), 1)},
    ),
    "attention-23": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { q = MatMul(x, w) k = MatMul(x, v) a = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, k, x) y = MatMul(a, u) }",
        {"w": (64, 64), "v": (64, 64), "u": (64, 64)},
        opset=23,
        ir=11,
    ),
    "attention-contrib": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { a = com.microsoft.Attention<num_heads = 4, unidirectional = 1>(x, w, b) y = MatMul(a, u) }",
        {"w": (64, 192), "b": (192,), "u": (64, 64)},
        opsets={"com.microsoft": 1},
    ),
    "skip-norm-contrib": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { a = MatMul(x, w) n = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(a, x, g, b) c = com.microsoft.BiasGelu(n, b) y = MatMul(c, w) }",
        {"w": (64, 64), "g": (64,), "b": (64,)},
        opsets={"com.microsoft": 1},
    ),
    "fused-contrib": Specimen(
        '(float[N, 64] x) => (float[N, 64] y) { a = com.microsoft.FusedGemm<activation = "Relu">(x, w, b) c = com.microsoft.FusedMatMul<alpha = 0.5, transB = 1>(a, w) d = com.microsoft.Gelu(c) y = MatMul(d, w) }',
        {"w": (64, 64), "b": (64,)},
        opsets={"com.microsoft": 1},
    ),
    "rotary-23": Specimen(
        "(float[2, 4, 5, 16] x) => (float[2, 4, 5, 16] y) { q = MatMul(x, w) y = RotaryEmbedding(q, c, s) }",
        {"w": (16, 16), "c": (2, 5, 8), "s": (2, 5, 8)},
        opset=23,
        ir=11,
    ),
    "rms-norm-23": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { n = RMSNormalization(x, g) y = MatMul(n, w) }",
        {"g": (64,), "w": (64, 64)},
        opset=23,
        ir=11,
    ),
    "layer-norm-all-outputs": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y, float[2, T, 1] m, float[2, T, 1] d) { a = MatMul(x, w) y, m, d = LayerNormalization(a, g) }",
        {"w": (64, 64), "g": (64,)},
    ),
    "residual-norms": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { a = MatMul(x, w) s = Add(x, a) n = LayerNormalization(s, g, b) c = MatMul(n, v) d = Add(s, c) y = LayerNormalization(d, g, b) }",
        {"w": (64, 64), "v": (64, 64), "g": (64,), "b": (64,)},
    ),
    "gelu-tanh-written": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) c = Mul(a, a) d = Mul(c, a) e = Mul(d, k) f = Add(a, e) g = Mul(f, q) t = Tanh(g) h = Add(t, o) m = Mul(a, h) n = Mul(m, z) y = MatMul(n, w) }",
        {"w": (64, 64), "k": scalar(0.044715), "q": scalar(0.7978845608), "o": scalar(1.0), "z": scalar(0.5)},
    ),
    "silu-gate": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { g = MatMul(x, w) s = Sigmoid(g) a = Mul(g, s) u = MatMul(x, v) m = Mul(a, u) y = MatMul(m, w) }",
        {"w": (64, 64), "v": (64, 64)},
    ),
    "experts-by-where": Specimen(
        "(float[2, T, 64] x) => (float[2, T, 64] y) { r = MatMul(x, k) g = Softmax(r) v, i = TopK(g, n) a = MatMul(x, w) b = MatMul(x, u) z = Equal(i, o) y = Where(z, a, b) }",
        {"k": (64, 2), "w": (64, 64), "u": (64, 64), "n": ints(1), "o": np.asarray(0)},
    ),
    "key-value-cache": Specimen(
        "(float[2, 1, 64] x, float[2, T, 64] p) => (float[2, 1, 64] y, float[2, A, 64] c) { k = MatMul(x, w) c = Concat<axis = 1>(p, k) t = Transpose<perm = [0, 2, 1]>(c) s = MatMul(x, t) q = Softmax(s) y = MatMul(q, c) }",
        {"w": (64, 64)},
    ),
    "empty-cache": Specimen(
        "(float[2, 1, 64] x, float[2, 0, 64] p) => (float[2, A, 64] c) { k = MatMul(x, w) c = Concat<axis = 1>(p, k) }",
        {"w": (64, 64)},
    ),
}
