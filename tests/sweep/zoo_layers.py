"""Convolutions, pools and what stands around them: every attribute that a kernel may not know."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.sweep.specimen import ALL, Specimen, array, floats, ints, scalar

_IMAGE = "float[N, 8, 9, 9] x"


def _conv(
    attributes: str, weight: tuple[int, ...] = (8, 8, 3, 3), bias: bool = True, image: str = _IMAGE
) -> Specimen:
    ending = (
        f", {weight[0]}, A, B"
        if len(weight) == 4
        else f", {weight[0]}, A"
        if len(weight) == 3
        else f", {weight[0]}, A, B, C"
    )
    text = f"({image}) => (float[N{ending}] y) {{ c = Conv<{attributes}>(x, w{', b' if bias else ''}) y = Relu(c) }}"
    return Specimen(text, {"w": weight, **({"b": (weight[0],)} if bias else {})})


def _deconv(attributes: str, weight: tuple[int, ...], bias: int = 0) -> Specimen:
    text = f"({_IMAGE}) => (float[N, K, A, B] y) {{ c = ConvTranspose<{attributes}>(x, w{', b' if bias else ''}) y = Relu(c) }}"
    return Specimen(text, {"w": weight, **({"b": (bias,)} if bias else {})})


def _behind(
    tail: str,
    outputs: str = "float[N, A, B, C] y",
    weights: dict[str, np.ndarray | tuple[int, ...]] | None = None,
    opset: int = 17,
    **other: Any,
) -> Specimen:
    """An op behind a convolution and before another."""
    text = f"({_IMAGE}) => ({outputs}) {{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b) {tail} }}"
    return Specimen(
        text, {"w": (8, 8, 3, 3), "b": (8,), "v": (8, 8, 3, 3), **(weights or {})}, opset=opset, **other
    )


LAYERS: dict[str, Specimen] = {
    "conv-1d": _conv("pads = [1, 1]", (8, 8, 3), image="float[N, 8, 16] x"),
    "conv-3d": _conv("pads = [1, 1, 1, 1, 1, 1]", (8, 4, 3, 3, 3), image="float[N, 4, 5, 5, 5] x"),
    "conv-3d-no-bias": _conv(
        "strides = [2, 1, 1]", (8, 4, 2, 3, 1), bias=False, image="float[N, 4, 5, 5, 5] x"
    ),
    "conv-1x1": _conv("kernel_shape = [1, 1]", (16, 8, 1, 1)),
    "conv-grouped": _conv("group = 2, pads = [1, 1, 1, 1]", (8, 4, 3, 3)),
    "conv-depthwise": _conv("group = 8, pads = [1, 1, 1, 1]", (8, 1, 3, 3)),
    "conv-depthwise-multiplied": _conv("group = 8", (16, 1, 3, 3)),
    "conv-depthwise-1d-no-bias": _conv(
        "group = 8, dilations = [2]", (8, 1, 3), bias=False, image="float[N, 8, 16] x"
    ),
    "conv-dilated": _conv("dilations = [2, 3]"),
    "conv-asymmetric-pads": _conv("pads = [0, 2, 1, 0]"),
    "conv-same-upper-strided": _conv('auto_pad = "SAME_UPPER", strides = [2, 2]'),
    "conv-same-lower-even-kernel": _conv('auto_pad = "SAME_LOWER"', (8, 8, 2, 4)),
    "conv-valid": _conv('auto_pad = "VALID", strides = [3, 2]'),
    "conv-one-channel": _conv("pads = [1, 1, 1, 1]", (1, 8, 3, 3)),
    "conv-whole-map": _conv("group = 1", (8, 8, 9, 9)),
    "conv-1d-same-upper": _conv(
        'auto_pad = "SAME_UPPER", strides = [3]', (8, 8, 4), image="float[N, 8, 16] x"
    ),
    "conv-stride-over-kernel": _conv("strides = [4, 4]", (8, 8, 1, 1)),
    "conv-bias-used-twice": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w, b) d = Conv(c, v, b) y = Relu(d) }}",
        {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3), "b": (8,)},
    ),
    "conv-weight-used-twice": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w, b) y = Conv<dilations = [2, 2]>(c, w) }}",
        {"w": (8, 8, 3, 3), "b": (8,)},
    ),
    "conv-weight-forth-and-back": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w) y = ConvTranspose(c, w) }}",
        {"w": (8, 8, 3, 3)},
    ),
    "conv-computed-weight": Specimen(
        f"({_IMAGE}, float[8, 8, 3, 3] k) => (float[N, 8, A, B] y) {{ v = Mul(k, w) c = Conv(x, v) y = Conv(c, w) }}",
        {"w": (8, 8, 3, 3)},
    ),
    "conv-computed-bias": Specimen(
        f"({_IMAGE}, float[8] k) => (float[N, 8, A, B] y) {{ y = Conv(x, w, k) }}", {"w": (8, 8, 3, 3)}
    ),
    "conv-empty-batch-of-weights": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w) d = Conv<strides = [9, 9]>(c, v) y = Relu(d) }}",
        {"w": (8, 8, 3, 3), "v": (8, 8, 1, 1)},
    ),
    "deconv": _deconv("strides = [2, 2]", (8, 4, 3, 3), 4),
    "deconv-grouped": _deconv("group = 2, strides = [2, 2], output_padding = [1, 1]", (8, 2, 3, 3), 4),
    "deconv-depthwise": _deconv("group = 8, pads = [1, 1, 1, 1]", (8, 1, 3, 3)),
    "deconv-output-shape": _deconv("strides = [2, 2], output_shape = [18, 18]", (8, 4, 3, 3)),
    "deconv-dilated-same": _deconv('auto_pad = "SAME_UPPER", strides = [2, 2]', (8, 4, 3, 3), 4),
    "deconv-and-batchnorm": Specimen(
        f"({_IMAGE}) => (float[N, 4, A, B] y) {{ c = ConvTranspose<group = 2, strides = [2, 2]>(x, w, b) n = BatchNormalization(c, g, h, m, s) y = Relu(n) }}",
        {"w": (8, 2, 3, 3), "b": (4,), "g": (4,), "h": (4,), "m": (4,), "s": np.ones(4, np.float32)},
    ),
    "batchnorm-of-zero-variance": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w, b) y = BatchNormalization<epsilon = 1e-5>(c, g, b, b, z) }}",
        {"w": (8, 8, 3, 3), "b": (8,), "g": (8,), "z": np.zeros(8, np.float32)},
    ),
    "batchnorm-on-its-own": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ n = BatchNormalization(x, g, b, b, o) y = Conv(n, w, b) }}",
        {"w": (8, 8, 3, 3), "b": (8,), "g": (8,), "o": np.ones(8, np.float32)},
    ),
    "batchnorm-read-twice": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ c = Conv(x, w, b) n = BatchNormalization(c, g, b, b, o) s = Sigmoid(c) y = Mul(n, s) }}",
        {"w": (8, 8, 3, 3), "b": (8,), "g": (8,), "o": np.ones(8, np.float32)},
    ),
    "groupnorm-by-hand": Specimen(
        f"({_IMAGE}) => (float[N, 8, 9, 9] y) {{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Reshape(c, k) n = InstanceNormalization(r, o, z) s = Shape(c) t = Reshape(n, s) m = Mul(t, g) y = Add(m, g) }}",
        {
            "w": (8, 8, 3, 3),
            "b": (8,),
            "k": ints(0, 2, -1),
            "o": floats(1, 1),
            "z": floats(0, 0),
            "g": (8, 1, 1),
        },
    ),
    "maxpool-indices": _behind(
        "y, i = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(c)",
        "float[N, 8, A, B] y, int64[N, 8, A, B] i",
    ),
    "maxpool-indices-unpooled": _behind(
        "p, i = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(c) u = MaxUnpool<kernel_shape = [3, 3], strides = [3, 3]>(p, i) y = Conv(u, v)"
    ),
    "maxpool-dilated-ceil": _behind(
        "p = MaxPool<kernel_shape = [2, 2], dilations = [2, 2], strides = [2, 2], ceil_mode = 1>(c) y = Conv(p, v)"
    ),
    "maxpool-same-lower": _behind(
        'p = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_LOWER">(c) y = Conv(p, v)'
    ),
    "avgpool-count-pads": _behind(
        "p = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(c) y = Conv(p, v)"
    ),
    "avgpool-ceil": _behind(
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(c) y = Conv(p, v)"
    ),
    "avgpool-dilated-19": _behind(
        "p = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(c) y = Conv(p, v)", opset=19
    ),
    "avgpool-whole-map": _behind("p = AveragePool<kernel_shape = [9, 9]>(c) y = Flatten(p)", "float[N, 8] y"),
    "lppool": _behind("p = LpPool<kernel_shape = [2, 2], p = 2>(c) y = Conv(p, v)"),
    "global-pools": _behind(
        "p = GlobalAveragePool(c) q = GlobalMaxPool(c) r = Concat<axis = 1>(p, q) y = Flatten(r)",
        "float[N, 16] y",
    ),
    "concat-of-other-scales": _behind(
        "k = Mul(c, h) t = Sigmoid(c) r = Concat<axis = 1>(k, c, t) y = Conv(r, u)",
        weights={"h": scalar(1000.0), "u": (8, 24, 1, 1)},
    ),
    "concat-with-itself": _behind(
        "r = Concat<axis = 1>(c, c, x) y = Conv(r, u)", weights={"u": (8, 24, 1, 1)}
    ),
    "concat-with-a-constant": _behind(
        "m = GlobalAveragePool(c) s = Shape(m) e = ConstantOfShape<value = float[1] {0.25}>(s) r = Concat<axis = 1>(m, e) y = Conv(r, u)",
        weights={"u": (8, 16, 1, 1)},
    ),
    "concat-of-one": _behind("r = Concat<axis = 1>(c) y = Conv(r, v)"),
    "diamond": _behind(
        "a = Relu(c) d = Conv<pads = [1, 1, 1, 1]>(a, v) e = Sigmoid(a) f = Mul(d, e) g = Add(f, c) y = Conv(g, v)"
    ),
    "split-and-back": _behind(
        "p, q = Split<axis = 1>(c, k) r = Concat<axis = 1>(q, p) y = Conv(r, v)", weights={"k": ints(2, 6)}
    ),
    "split-uneven-outputs-unused": _behind(
        "p, unused, q = Split<axis = 1>(c, k) y = Concat<axis = 1>(q, p)", weights={"k": ints(1, 3, 4)}
    ),
    "slice-backwards": _behind(
        "s = Slice(c, a, e, d, t) y = Conv(s, v)",
        weights={"a": ints(-1, 0), "e": ints(-99, 99), "d": ints(-1, 2), "t": ints(-1, 2)},
    ),
    "pad-with-the-edge": _behind(
        'p = Pad<mode = "edge">(c, k) y = Conv(p, v)', weights={"k": ints(0, 0, 1, 0, 0, 0, 0, 2)}
    ),
    "pad-with-minus-infinity": _behind(
        "p = Pad(c, k, m) y = MaxPool<kernel_shape = [3, 3]>(p)",
        weights={"k": ints(0, 0, 1, 1, 0, 0, 1, 1), "m": scalar(-np.inf)},
    ),
    "pad-that-crops": _behind("p = Pad(c, k) y = Conv(p, v)", weights={"k": ints(0, 0, -1, 1, 0, 0, 1, -2)}),
    "pad-wraps-19": _behind(
        'p = Pad<mode = "wrap">(c, k) y = Conv(p, v)', weights={"k": ints(0, 0, 1, 1, 0, 0, 1, 1)}, opset=19
    ),
    "resize-nearest": _behind(
        'r = Resize<mode = "nearest">(c, , k) y = Conv(r, v)', weights={"k": floats(1, 1, 2, 1.5)}
    ),
    "resize-roi": _behind(
        'y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(c, q, k)',
        weights={"q": floats(0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9), "k": floats(1, 1, 0.6, 0.6)},
    ),
    "resize-antialias-18": _behind(
        'y = Resize<mode = "linear", antialias = 1, axes = [2, 3]>(c, , k)',
        weights={"k": floats(0.5, 0.5)},
        opset=18,
    ),
    "depth-to-space": _behind(
        'd = DepthToSpace<blocksize = 2, mode = "CRD">(c) y = SpaceToDepth<blocksize = 3>(d)'
    ),
    "gather-channels": _behind(
        "g = Gather<axis = 1>(c, k) y = Conv(g, v)", weights={"k": ints(7, 6, 5, 4, 3, 2, 1, 0)}
    ),
    "gather-a-scalar": _behind(
        "g = Gather<axis = 1>(c, k) y = Softmax(g)", "float[N, A, B] y", {"k": np.asarray(3)}
    ),
    "transpose-to-last": _behind(
        "t = Transpose<perm = [0, 2, 3, 1]>(c) m = MatMul(t, u) s = Transpose<perm = [0, 3, 1, 2]>(m) y = Conv(s, v)",
        weights={"u": (8, 8)},
    ),
    "prelu-one-slope": _behind("p = PRelu(c, k) y = Conv(p, v)", weights={"k": floats(0.1)}),
    "clip-without-limits": _behind("p = Clip(c) y = Conv(p, v)"),
    "clip-with-one-limit": _behind("p = Clip(c, , k) y = Conv(p, v)", weights={"k": scalar(0.5)}),
    "clip-to-one-value": _behind("p = Clip(c, k, k) y = Conv(p, v)", weights={"k": scalar(0.5)}),
    "clip-inside-out": _behind(
        "p = Clip(c, k, l) y = Conv(p, v)", weights={"k": scalar(0.5), "l": scalar(-0.5)}
    ),
    "clip-by-an-input": Specimen(
        f"({_IMAGE}, float k) => (float[N, 8, A, B] y) {{ c = Conv(x, w) p = Clip(c, k) y = Conv(p, w) }}",
        {"w": (8, 8, 3, 3)},
    ),
    "relu-relu-clip": _behind(
        "p = Relu(c) q = Relu(p) r = Clip(q, k, l) y = Conv(r, v)",
        weights={"k": scalar(0.0), "l": scalar(6.0)},
    ),
    "hard-swish-by-hand": _behind(
        "a = Add(c, k) d = Clip(a, z, l) e = Mul(c, d) f = Div(e, l) y = Conv(f, v)",
        weights={"k": scalar(3.0), "z": scalar(0.0), "l": scalar(6.0)},
    ),
    "squeeze-excite": _behind(
        "p = GlobalAveragePool(c) q = Conv(p, u) r = Relu(q) s = Conv(r, t) h = HardSigmoid(s) m = Mul(c, h) y = Conv(m, v)",
        weights={"u": (4, 8, 1, 1), "t": (8, 4, 1, 1)},
    ),
    "shuffle": _behind(
        "r = Reshape(c, k) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) q = Reshape(t, l) y = Conv(q, v)",
        weights={"k": ints(0, 2, 4, 9, 9), "l": ints(0, -1, 9, 9)},
    ),
    "empty-map": Specimen(
        "(float[N, 8, H, 9] x) => (float[N, 8, A, B] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) s = Slice(c, z, z, t) y = Relu(s) }",
        {"w": (8, 8, 3, 3), "z": ints(0), "t": ints(2)},
        lengths={"H": 9},
    ),
    "roi-align": _behind(
        "y = RoiAlign<output_height = 3, output_width = 3>(c, k, l)",
        weights={"k": np.asarray([[0, 0, 5, 5], [1, 1, 8, 8]], np.float32), "l": ints(0, 0)},
        refused="opset 17 can't be raised to 25",  # onnxruntime has no such RoiAlign
        quantized=True,
    ),
    "grid-sample": Specimen(
        f"({_IMAGE}, float[N, 4, 4, 2] g) => (float[N, 8, 4, 4] y) {{ c = Conv<pads = [1, 1, 1, 1]>(x, w) y = GridSample(c, g) }}",
        {"w": (8, 8, 3, 3)},
    ),
    "non-max-suppression": Specimen(
        "(float[1, 20, 64] x) => (int64[A, 3] y) { f = MatMul(x, w) s = MatMul(x, v) t = Transpose<perm = [0, 2, 1]>(s) y = NonMaxSuppression(f, t, k, o, o) }",
        {"w": (64, 4), "v": (64, 3), "k": ints(3), "o": floats(0.4)},
    ),
    "arg-max": Specimen(
        "(float[N, 64] x) => (int64[N] y) { a = MatMul(x, w) y = ArgMax<axis = -1, keepdims = 0>(a) }",
        {"w": (64, 64)},
    ),
    "scatter-tail": Specimen(
        "(float[4, 64] x) => (float[4, 64] y) { a = MatMul(x, w) y = ScatterND(a, i, u) }",
        {"w": (64, 64), "i": np.asarray([[0], [2]]), "u": (2, 64)},
    ),
    "gather-nd-tail": Specimen(
        "(float[4, 64] x) => (float[A] y) { a = MatMul(x, w) p = Greater(a, z) i = NonZero(p) t = Transpose(i) y = GatherND(a, t) }",
        {"w": (64, 64), "z": scalar(0.0)},
    ),
    "compress-by-value": Specimen(
        "(float[4, 64] x) => (float[A, 64] y) { a = MatMul(x, w) m = ReduceMax<axes = [1], keepdims = 0>(a) p = Greater(m, z) y = Compress<axis = 0>(a, p) }",
        {"w": (64, 64), "z": scalar(0.0)},
    ),
    "unique-tail": Specimen(
        "(float[4, 64] x) => (float[A] y) { a = MatMul(x, w) r = Round(a) y = Unique(r) }", {"w": (64, 64)}
    ),
    "no-weights": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ p = MaxPool<kernel_shape = [2, 2]>(x) y = Softmax(p) }}",
        idle=ALL,
    ),
    "weight-through-identity": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ k = Identity(w) y = Conv(x, k) }}", {"w": (8, 8, 3, 3)}
    ),
    "weight-through-reshape": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ k = Reshape(w, s) y = Conv(x, k) }}",
        {"w": (72, 8), "s": ints(8, 8, 3, -1)},
    ),
    "weight-through-unsqueeze": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ k = Unsqueeze(w, s) y = Conv(x, k) }}",
        {"w": (8, 8), "s": ints(2, 3)},
    ),
    "weight-through-cast": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ k = Cast<to = 1>(w) y = Conv(x, k) }}",
        {"w": array("w", (8, 8, 3, 3)).astype(np.float64)},
        idle=frozenset({"dynamic", "static", "weight-only"}),
    ),
    "weight-standardized": Specimen(
        f"({_IMAGE}) => (float[N, 8, A, B] y) {{ m = ReduceMean<axes = [1, 2, 3]>(w) d = Sub(w, m) y = Conv(x, d) }}",
        {"w": (8, 8, 3, 3)},
    ),
}
