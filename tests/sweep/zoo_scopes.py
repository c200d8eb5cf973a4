"""Graphs in graphs: If, Loop and Scan with weights from outside, model-local functions; and old opsets."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from tests.sweep.specimen import Specimen, all_graphs, array, floats, ints, scalar

_IMAGE = {"w": (8, 8, 3, 3), "b": (8,)}
_UPSAMPLED = (
    "(float[N, 8, 6, 6] x) => (float[N, 8, 12, 12] y) {{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b) {} }}"
)


def _only_in_branches(model: ModelProto) -> None:
    """Each branch has a weight of its own under the same name, as the two copies of a trained layer."""
    for index, graph in enumerate(all_graphs(model.graph)[1:]):
        graph.initializer.append(numpy_helper.from_array(array(f"w{index}", (64, 64)), "u"))


def _nodes_alike(model: ModelProto) -> None:
    for graph in all_graphs(model.graph):
        for node in graph.node:
            node.name = f"{node.op_type}_0"


def _at_least_inlined(model: ModelProto) -> None:
    """Weights of a function lie in Constant nodes of it."""
    made = onnx.helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(array("w", (64, 64))))
    model.functions[0].node.insert(0, made)


SCOPES: dict[str, Specimen] = {
    "if-outer-weights": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            y = If(c) <then_branch = t () => (float[M, 64] a) { a = MatMul(x, w) }, else_branch = e () => (float[M, 64] b) { d = MatMul(x, v) b = Relu(d) }>
        }""",
        {"w": (64, 64), "v": (64, 64)},
    ),
    "if-shares-weight-with-main": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            m = MatMul(x, w)
            z = If(c) <then_branch = t () => (float[M, 64] a) { a = MatMul(m, w) }, else_branch = e () => (float[M, 64] b) { b = Identity(m) }>
            y = MatMul(z, w)
        }""",
        {"w": (64, 64)},
    ),
    "if-inner-weights-of-one-name": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            y = If(c) <then_branch = t () => (float[M, 64] a) { a = MatMul(x, u) }, else_branch = e () => (float[M, 64] a) { a = MatMul(x, u) }>
        }""",
        edit=_only_in_branches,
    ),
    "if-always-one-way": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) {
            y = If(c) <then_branch = t () => (float[M, 64] a) { a = MatMul(x, w) }, else_branch = e () => (float[M, 64] b) { b = MatMul(x, v) }>
        }""",
        {"w": (64, 64), "v": (64, 64), "c": np.asarray(True)},
    ),
    "if-in-if": Specimen(
        """(float[N, 64] x, bool c, bool d) => (float[N, 64] y) {
            y = If(c) <
                then_branch = t () => (float[M, 64] a) {
                    a = If(d) <then_branch = tt () => (float[M, 64] k) { k = MatMul(x, w) }, else_branch = te () => (float[M, 64] l) { l = MatMul(x, v) }>
                },
                else_branch = e () => (float[M, 64] b) { f = MatMul(x, w) b = Sigmoid(f) }>
        }""",
        {"w": (64, 64), "v": (64, 64)},
        edit=_nodes_alike,
    ),
    "if-passes-outer-value": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y, float[N, 64] m) {
            m = MatMul(x, w)
            y = If(c) <then_branch = t () => (float[M, 64] a) { a = Add(m, m) }, else_branch = e () => (float[M, 64] b) { b = Relu(m) }>
        }""",
        {"w": (64, 64)},
    ),
    "if-shadowed-names": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            y = If(c) <then_branch = t () => (float[M, 64] z) { q = MatMul(x, w) z = Relu(q) }, else_branch = e () => (float[M, 64] z) { q = MatMul(x, v) z = Abs(q) }>
        }""",
        {"w": (64, 64), "v": (64, 64)},
    ),
    "loop-outer-weights": Specimen(
        """(float[N, 64] x, int64 n) => (float[N, 64] y) {
            y = Loop(n, , x) <body = b (int64 i, bool c, float[M, 64] s) => (bool d, float[M, 64] r) { d = Identity(c) a = MatMul(s, w) r = Tanh(a) }>
        }""",
        {"w": (64, 64)},
        feeds={"n": lambda r: np.asarray(r.integers(1, 4))},
    ),
    "loop-that-never-runs": Specimen(
        """(float[N, 64] x, int64 n) => (float[N, 64] y, float[K, N, 64] all) {
            y, all = Loop(n, , x) <body = b (int64 i, bool c, float[M, 64] s) => (bool d, float[M, 64] r, float[M, 64] o) { d = Identity(c) a = MatMul(s, w) r = Tanh(a) o = MatMul(r, v) }>
        }""",
        {"w": (64, 64), "v": (64, 64)},
        feeds={"n": lambda r: np.asarray(0)},
    ),
    "loop-stacks-and-main-goes-on": Specimen(
        """(float[4, 64] x) => (float[3, 4, 64] y) {
            e, all = Loop(n, t, x) <body = b (int64 i, bool c, float[4, 64] s) => (bool d, float[4, 64] r, float[4, 64] o) { d = Identity(c) a = MatMul(s, w) r = Tanh(a) o = MatMul(r, v) }>
            q = MatMul(all, w)
            y = Relu(q)
        }""",
        {"w": (64, 64), "v": (64, 64), "n": np.asarray(3), "t": np.asarray(True)},
    ),
    "loop-in-if": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            y = If(c) <
                then_branch = t () => (float[M, 64] a) {
                    a = Loop(n, , x) <body = b (int64 i, bool k, float[M, 64] s) => (bool d, float[M, 64] r) { d = Identity(k) m = MatMul(s, w) r = Tanh(m) }>
                },
                else_branch = e () => (float[M, 64] b) { b = Gemm(x, w, bias) }>
        }""",
        {"w": (64, 64), "n": np.asarray(2), "bias": (64,)},
    ),
    "scan-outer-weights": Specimen(
        """(float[T, 4, 64] x, float[4, 64] h) => (float[4, 64] last, float[T, 4, 64] y) {
            last, y = Scan(h, x) <num_scan_inputs = 1, body = b (float[4, 64] s, float[4, 64] i) => (float[4, 64] r, float[4, 64] o) { a = MatMul(i, w) c = MatMul(s, v) d = Add(a, c) r = Tanh(d) o = Identity(r) }>
        }""",
        {"w": (64, 64), "v": (64, 64)},
    ),
    "scan-backwards-along-1": Specimen(
        """(float[4, T, 64] x, float[4, 64] h) => (float[4, 64] last, float[4, T, 64] y) {
            last, y = Scan(h, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], scan_input_directions = [1], body = b (float[4, 64] s, float[4, 64] i) => (float[4, 64] r, float[4, 64] o) { a = Gemm(i, w, q) d = Add(a, s) r = Tanh(d) o = Relu(a) }>
        }""",
        {"w": (64, 64), "q": (64,)},
    ),
    "function": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { a = local.Linear(x, w, b) y = local.Linear(a, v, b) }
        <domain: "local", opset_import: ["" : 17]> Linear (x, w, b) => (y) { m = MatMul(x, w) s = Add(m, b) y = Relu(s) }""",
        {"w": (64, 64), "v": (64, 64), "b": (64,)},
        opsets={"local": 1},
    ),
    "function-in-function": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { y = local.Twice(x, w) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> Twice (x, w) => (y) { a = local.Once(x, w) y = local.Once(a, w) }
        <domain: "local", opset_import: ["" : 17]> Once (x, w) => (y) { m = MatMul(x, w) y = Tanh(m) }""",
        {"w": (64, 64)},
        opsets={"local": 1},
    ),
    "function-with-attributes": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { a = local.Dense<scale = 0.5, t = 1>(x, w, b) y = local.Dense(a, w, b) }
        <domain: "local", opset_import: ["" : 17]> Dense <t: int = 0, scale: float = 2.0> (x, w, b) => (y) { m = Gemm<alpha: float = @scale, transB: int = @t>(x, w, b) y = LeakyRelu<alpha: float = @scale>(m) }""",
        {"w": (64, 64), "b": (64,)},
        opsets={"local": 1},
    ),
    "function-with-its-own-weight": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { a = local.F(x) y = local.F(a) }
        <domain: "local", opset_import: ["" : 17]> F (x) => (y) { m = MatMul(x, w) y = Tanh(m) }""",
        opsets={"local": 1},
        edit=_at_least_inlined,
    ),
    "function-in-if": Specimen(
        """(float[N, 64] x, bool c) => (float[N, 64] y) {
            y = If(c) <then_branch = t () => (float[M, 64] a) { a = local.F(x, w) }, else_branch = e () => (float[M, 64] b) { b = local.F(x, v) }>
        }
        <domain: "local", opset_import: ["" : 17]> F (x, w) => (y) { m = MatMul(x, w) y = Tanh(m) }""",
        {"w": (64, 64), "v": (64, 64)},
        opsets={"local": 1},
    ),
    "function-that-is-not-called": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }
        <domain: "local", opset_import: ["" : 17]> F (x, w) => (y) { m = MatMul(x, w) y = Tanh(m) }""",
        {"w": (64, 64)},
        opsets={"local": 1},
    ),
    "function-skips-an-input": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { y = local.F(x, , w) }
        <domain: "local", opset_import: ["" : 17]> F (x, n, w) => (y) { m = MatMul(x, w) y = Clip(m, n) }""",
        {"w": (64, 64)},
        opsets={"local": 1},
    ),
    "function-named-as-an-op": Specimen(
        """(float[N, 64] x) => (float[N, 64] y) { a = local.Relu(x, w) y = Relu(a) }
        <domain: "local", opset_import: ["" : 17]> Relu (x, w) => (y) { m = MatMul(x, w) y = Neg(m) }""",
        {"w": (64, 64)},
        opsets={"local": 1},
    ),
}

OPSETS: dict[str, Specimen] = {
    "7-batchnorm-and-dropout": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w, b) n = BatchNormalization<epsilon = 0.001, momentum = 0.9, spatial = 1>(c, g, h, m, v) d = Dropout<ratio = 0.4>(n) y = Relu(d) }",
        {**_IMAGE, "g": (8,), "h": (8,), "m": (8,), "v": np.ones(8, np.float32)},
        opset=7,
    ),
    "7-upsample-nearest": Specimen(
        _UPSAMPLED.format('y = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]>(c)'), _IMAGE, opset=7
    ),
    "7-upsample-linear": Specimen(
        _UPSAMPLED.format('y = Upsample<mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]>(c)'), _IMAGE, opset=7
    ),
    "9-upsample-linear": Specimen(
        _UPSAMPLED.format('y = Upsample<mode = "linear">(c, s)'), {**_IMAGE, "s": floats(1, 1, 2, 2)}, opset=9
    ),
    "9-upsample-nearest": Specimen(
        _UPSAMPLED.format("y = Upsample(c, s)"), {**_IMAGE, "s": floats(1, 1, 2, 2)}, opset=9
    ),
    "10-resize-linear": Specimen(
        _UPSAMPLED.format('y = Resize<mode = "linear">(c, s)'), {**_IMAGE, "s": floats(1, 1, 2, 2)}, opset=10
    ),
    "10-resize-nearest": Specimen(
        _UPSAMPLED.format('y = Resize<mode = "nearest">(c, s)'), {**_IMAGE, "s": floats(1, 1, 2, 2)}, opset=10
    ),
    "10-resize-down": Specimen(
        '(float[N, 8, 9, 9] x) => (float[N, 8, A, B] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Resize<mode = "nearest">(c, s) }',
        {**_IMAGE, "s": floats(1, 1, 0.6, 0.6)},
        opset=10,
    ),
    "11-resize-align-corners": Specimen(
        _UPSAMPLED.format(
            'y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(c, r, s)'
        ),
        {**_IMAGE, "r": floats(), "s": floats(1, 1, 2, 2)},
        opset=11,
    ),
    "11-resize-cubic-to-sizes": Specimen(
        _UPSAMPLED.format('y = Resize<mode = "cubic", cubic_coeff_a = -0.5>(c, r, r, s)'),
        {**_IMAGE, "r": floats(), "s": ints(3, 8, 12, 12)},
        opset=11,
        lengths={"N": 3},
    ),
    "9-slice": Specimen(
        "(float[N, 64] x) => (float[N, 30] y) { a = MatMul(x, w) y = Slice<axes = [1], starts = [2], ends = [-32]>(a) }",
        {"w": (64, 64)},
        opset=9,
    ),
    "9-slice-without-axes": Specimen(
        "(float[4, 64] x) => (float[A, B] y) { s = Slice<starts = [1, 0], ends = [3, 9223372036854775807]>(x) y = MatMul(s, w) }",
        {"w": (64, 64)},
        opset=9,
    ),
    "8-squeeze-and-unsqueeze": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { u = Unsqueeze<axes = [0, 2]>(x) a = MatMul(u, w) s = Squeeze<axes = [0, 2]>(a) y = Relu(s) }",
        {"w": (64, 64)},
        opset=8,
    ),
    "11-squeeze-without-axes": Specimen(
        "(float[N, 64] x) => (float[A, 64] y) { u = Unsqueeze<axes = [0, 2]>(x) a = MatMul(u, w) s = Squeeze<axes = [-2]>(a) y = Squeeze<axes = [0]>(s) }",
        {"w": (64, 64)},
        opset=11,
    ),
    "12-softmax-over-the-rest": Specimen(
        "(float[N, 4, 16] x) => (float[N, 4, 16] y) { a = MatMul(x, w) y = Softmax<axis = 1>(a) }",
        {"w": (16, 16)},
        opset=12,
    ),
    "7-softmax-default-axis": Specimen(
        "(float[N, 4, 16] x) => (float[N, 4, 16] y, float[N, 4, 16] z) { a = MatMul(x, w) y = Softmax(a) z = LogSoftmax(a) }",
        {"w": (16, 16)},
        opset=7,
    ),
    "12-hardmax": Specimen(  # which the version converter forgets
        "(float[N, 4, 16] x) => (float[N, 4, 16] y) { a = MatMul(x, w) y = Hardmax<axis = 1>(a) }",
        {"w": (16, 16)},
        opset=12,
        refused="can't be raised to",
        quantized=True,
    ),
    "10-resize-both-ways": Specimen(  # no later opset has its like
        "(float[N, 8, 6, 6] x) => (float[N, 8, A, B] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Resize(c, s) }",
        {**_IMAGE, "s": floats(1, 1, 1.7, 0.6)},
        opset=10,
        refused="can't be raised to",
        quantized=True,
    ),
    "10-resize-by-1.7": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, A, B] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Resize(c, s) }",
        {**_IMAGE, "s": floats(1, 1, 1.7, 1.3)},
        opset=10,
    ),
    "10-resize-linear-in-if": Specimen(
        """(float[N, 8, 6, 6] x, bool k) => (float[N, 8, 12, 12] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
            y = If(k) <then_branch = t () => (float[A, B, C, D] a) { a = Resize<mode = "linear">(c, s) }, else_branch = e () => (float[A, B, C, D] d) { n = Neg(c) d = Resize<mode = "linear">(n, s) }>
        }""",
        {**_IMAGE, "s": floats(1, 1, 2, 2)},
        opset=10,
    ),
    "9-slice-in-if": Specimen(
        """(float[N, 64] x, bool k) => (float[A, B] y) {
            c = MatMul(x, w)
            y = If(k) <then_branch = t () => (float[A1, B1] a) { a = Slice<axes = [1], starts = [2], ends = [9]>(c) }, else_branch = e () => (float[A2, B2] d) { f = Slice<axes = [1], starts = [0], ends = [7]>(c) d = Clip<min = 0.0>(f) }>
        }""",
        {"w": (64, 64)},
        opset=9,
    ),
    "12-softmax-of-free-shape": Specimen(
        "(float[A, B, 16] x) => (float[A, B, 16] y) { a = MatMul(x, w) y = Softmax<axis = 0>(a) }",
        {"w": (16, 16)},
        opset=12,
    ),
    "6-clip": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = Clip<min = 0.0, max = 0.5>(a) }",
        {"w": (64, 64)},
        opset=10,
    ),
    "6-clip-one-side": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 4, 4] y) { a = Conv(x, w) y = Clip<min = 0.0>(a) }",
        {"w": (8, 8, 3, 3)},
        opset=9,
    ),
    "2-pad": Specimen(
        '(float[N, 8, 6, 6] x) => (float[N, 8, 6, 8] y) { p = Pad<pads = [0, 0, 1, 2, 0, 0, 1, 2], mode = "reflect">(x) y = Conv(p, w, b) }',
        _IMAGE,
        opset=9,
    ),
    "2-pad-constant": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) { p = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1], value = -2.5>(x) y = Conv(p, w, b) }",
        _IMAGE,
        opset=10,
    ),
    "7-gemm-broadcast": Specimen(
        "(float[4, 64] x) => (float[4, 64] y) { y = Gemm<alpha = 0.25, beta = 0.5, transB = 1>(x, w, b) }",
        {"w": (64, 64), "b": (4, 1)},
        opset=7,
    ),
    "11-reduce-sum": Specimen(
        "(float[N, 4, 16] x) => (float[N, 16] y) { a = MatMul(x, w) y = ReduceSum<axes = [1], keepdims = 0>(a) }",
        {"w": (16, 16)},
        opset=11,
    ),
    "10-topk": Specimen(
        "(float[N, 64] x) => (float[N, 3] y, int64[N, 3] i) { a = MatMul(x, w) y, i = TopK<axis = -1>(a, k) }",
        {"w": (64, 64), "k": ints(3)},
        opset=10,
    ),
    "9-topk-attribute": Specimen(
        "(float[N, 64] x) => (float[N, 3] y, int64[N, 3] i) { a = MatMul(x, w) y, i = TopK<axis = -1, k = 3>(a) }",
        {"w": (64, 64)},
        opset=9,
    ),
    "7-lstm": Specimen(
        "(float[T, 2, 16] x) => (float[T, 1, 2, 16] y) { y = LSTM<hidden_size = 16>(x, w, r, b) }",
        {"w": (1, 64, 16), "r": (1, 64, 16), "b": (1, 128)},
        opset=7,
    ),
    "11-split": Specimen(
        "(float[N, 64] x) => (float[N, 16] y, float[N, 48] z) { a = MatMul(x, w) y, z = Split<axis = 1, split = [16, 48]>(a) }",
        {"w": (64, 64)},
        opset=11,
    ),
    "11-negative-gather": Specimen(
        "(float[N, 64] x) => (float[N, 2] y) { a = MatMul(x, w) y = Gather<axis = 1>(a, k) }",
        {"w": (64, 64), "k": ints(-1, 0)},
        opset=11,
    ),
    "8-expand-and-sum": Specimen(
        "(float[1, 64] x) => (float[3, 64] y) { a = MatMul(x, w) e = Expand(a, k) m = Max(e, a) y = Sum(e, m, a) }",
        {"w": (64, 64), "k": ints(3, 64)},
        opset=8,
    ),
    "7-scaled-by-hand": Specimen(
        "(float[N, 3, 8, 8] x) => (float[N, 8, 6, 6] y) { a = Sub(x, m) s = Mul(a, k) c = Conv(s, w) y = PRelu(c, p) }",
        {"m": floats(0.4, 0.5, 0.6).reshape(3, 1, 1), "k": scalar(4.0), "w": (8, 3, 3, 3), "p": (8, 1, 1)},
        opset=7,
    ),
    "12-dropout-with-mask": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, bool[N, 64] m) { a = MatMul(x, w) y, m = Dropout(a) }",
        {"w": (64, 64)},
        opset=12,
    ),
    "13-everything-newer-22": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 4, 4] y) { c = Conv(x, w, b) d = HardSwish(c) y = Relu(d) }",
        _IMAGE,
        opset=22,
        ir=10,
    ),
    "opset-23": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) n = RMSNormalization(a, g) y = Gelu(n) }",
        {"w": (64, 64), "g": (64,)},
        opset=23,
        ir=11,
    ),
}
