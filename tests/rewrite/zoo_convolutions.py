"""The zoo's tiny graphs of convolutions, each with a trap or an idiom of real exporters in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto

from tests.graphs import node, rng, weights
from tests.plan.build import model

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
CLAMP = {"zero": np.float32(0), "six": np.float32(6)}


def _norm(prefix: str, channels: int, seed: int) -> dict[str, np.ndarray]:
    random = rng(seed)
    return {
        f"{prefix}_gamma": random.uniform(0.5, 1.5, channels).astype(np.float32),
        f"{prefix}_beta": random.standard_normal(channels).astype(np.float32) * 0.2,
        f"{prefix}_mean": random.standard_normal(channels).astype(np.float32) * 0.1,
        f"{prefix}_var": random.uniform(0.5, 1.5, channels).astype(np.float32),
    }


def _bn(prefix: str, source: str, result: str) -> onnx.NodeProto:
    stats = [f"{prefix}_{k}" for k in ("gamma", "beta", "mean", "var")]
    return node("BatchNormalization", [source, *stats], [result])


def conv_bn_relu6() -> onnx.ModelProto:
    """Stem, BatchNormalization, ReLU6, a pointwise convolution, a pool and a Gemm."""
    return model(
        [
            node("Conv", ["x", "w0"], ["c0"], **CONV3),
            _bn("n0", "c0", "b0"),
            node("Clip", ["b0", "zero", "six"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], **CONV3),
            _bn("n1", "c1", "b1"),
            node("Clip", ["b1", "zero", "six"], ["r1"]),
            node("GlobalAveragePool", ["r1"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
        ],
        {"x": [1, 3, 8, 8]},
        ["y"],
        {
            "w0": weights(16, 3, 3, 3) * 2,
            "w1": weights(32, 16, 3, 3, seed=1),
            "w2": weights(24, 32, seed=2),
            "b2": weights(24, seed=3),
            **_norm("n0", 16, 4),
            **_norm("n1", 32, 5),
            **CLAMP,
        },
    )


def residual() -> onnx.ModelProto:
    """The body of a ResNet: conv relu conv add relu conv."""
    return model(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], **CONV3),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b0"], ["c1"], **CONV3),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"], **CONV3),
            node("Add", ["c2", "r0"], ["a"]),
            node("Relu", ["a"], ["r2"]),
            node("Conv", ["r2", "w3"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(4)} | {"b0": weights(16, seed=9)},
    )


def mobile_block() -> onnx.ModelProto:
    """MobileNetV2: expand, depthwise, project, with BatchNormalization, ReLU6 and a residual Add."""
    shapes = {"w0": (32, 16, 1, 1), "w1": (32, 1, 3, 3), "w2": (16, 32, 1, 1), "w3": (32, 16, 1, 1)}
    return model(
        [
            node("Conv", ["x", "w0"], ["c0"]),
            _bn("n0", "c0", "b0"),
            node("Clip", ["b0", "zero", "six"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], group=32, **CONV3),
            _bn("n1", "c1", "b1"),
            node("Clip", ["b1", "zero", "six"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"]),
            _bn("n2", "c2", "b2"),
            node("Add", ["b2", "x"], ["a"]),
            node("Conv", ["a", "w3"], ["c3"]),
            _bn("n3", "c3", "y"),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {
            **{k: weights(*s, seed=i) * 2 for i, (k, s) in enumerate(shapes.items())},
            **{k: v for i, c in enumerate((32, 32, 16, 32)) for k, v in _norm(f"n{i}", c, 20 + i).items()},
            **CLAMP,
        },
    )


def shared_weights() -> onnx.ModelProto:
    """Two convolutions that share weight and bias but not their input."""
    return model(
        [
            node("Conv", ["x", "w", "b"], ["c0"], **CONV3),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w", "b"], ["c1"], **CONV3),
            node("Relu", ["c1"], ["y"]),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {"w": weights(16, 16, 3, 3), "b": weights(16, seed=1)},
    )


def dead_channels() -> onnx.ModelProto:
    """BatchNormalization with gamma 0 on some channels: weight 0, and a bias that is live."""
    norm = _norm("n", 16, 7)
    norm["n_gamma"][::3] = 0
    norm["n_gamma"][1::3] *= 1e-12
    norm["n_beta"][:] = np.linspace(-2, 3, 16)
    return model(
        [
            node("Conv", ["x", "w"], ["c"], **CONV3),
            _bn("n", "c", "b"),
            node("Relu", ["b"], ["r"]),
            node("Conv", ["r", "v"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {"w": weights(16, 16, 3, 3), "v": weights(16, 16, 3, 3, seed=1), **norm},
    )


def all_dead() -> onnx.ModelProto:
    """A convolution whose weight is all zero: its bias is all there is."""
    return model(
        [
            node("Conv", ["x", "w", "b"], ["c"], **CONV3),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "v"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {"w": np.zeros((16, 16, 3, 3), np.float32), "b": np.linspace(-1, 2, 16, dtype=np.float32),
         "v": weights(16, 16, 3, 3, seed=1)},
    )  # fmt: skip


def odd_names() -> onnx.ModelProto:
    """Names with slashes, brackets, blanks and letters beyond ASCII."""
    return model(
        [
            node("Conv", ["x", "w [0]"], ["/a/b:0"], name="/conv[0]/Conv {x}", **CONV3),
            node("Relu", ["/a/b:0"], ["größe 層"], name="größe*?"),
            node("Conv", ["größe 層", "w%2F\\"], ["y.0"], name="a\tb", **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y.0"],
        {"w [0]": weights(16, 16, 3, 3), "w%2F\\": weights(16, 16, 3, 3, seed=1)},
    )


def colliding_names() -> onnx.ModelProto:
    """The names that the writer would like to use are taken, and mean something else."""
    suffixes = ("scale", "zero_point", "quantized", "dequantized", "raw")
    first = [node("Add", ["x", "half"], ["x_scale"], name="x_QuantizeLinear")]
    chain = [*(f"x_{s}" for s in suffixes), "w_scale", "w_quantized", "w_dequantized", "y_raw"]
    for before, after in pairwise(chain):
        first.append(node("Neg", [before], [after], name=f"{after}_DequantizeLinear"))
    return model(
        [
            *first,
            node("Conv", ["x", "w"], ["c"], name="x_quantized", **CONV3),
            node("Add", ["c", chain[-1]], ["a"]),
            node("Conv", ["a", "v"], ["y"], name="y_raw", **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {"w": weights(16, 16, 3, 3), "v": weights(16, 16, 3, 3, seed=1), "half": np.float32(0.5)},
    )


def output_feeds_on() -> onnx.ModelProto:
    """A convolution's result is a graph output and goes on into a Relu."""
    return model(
        [
            node("Conv", ["x", "w"], ["y"], **CONV3),
            node("Relu", ["y"], ["r"]),
            node("Conv", ["r", "v"], ["z"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y", "z"],
        {"w": weights(16, 16, 3, 3), "v": weights(16, 16, 3, 3, seed=1)},
    )


def pass_through() -> onnx.ModelProto:
    """Concat, MaxPool, Transpose, Reshape and Split between convolutions."""
    return model(
        [
            node("Conv", ["x", "w0"], ["a"], **CONV3),
            node("Conv", ["x", "w1"], ["b"], **CONV3),
            node("Concat", ["a", "b"], ["ab"], axis=1),
            node("MaxPool", ["ab"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Split", ["m"], ["s0", "s1"], axis=1),
            node("Transpose", ["s0"], ["t"], perm=[0, 1, 3, 2]),
            node("Reshape", ["s1", "shape"], ["q"]),
            node("Concat", ["t", "q"], ["tq"], axis=1),
            node("Conv", ["tq", "w2"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {
            "w0": weights(16, 16, 3, 3),
            "w1": weights(16, 16, 3, 3, seed=1) * 2,
            "w2": weights(16, 32, 3, 3, seed=2),
            "shape": np.array([1, 16, 4, 4]),
        },
    )


def silu() -> onnx.ModelProto:
    """x * Sigmoid(x) between convolutions, as in YOLO."""
    return model(
        [
            node("Conv", ["x", "w0"], ["c"], **CONV3),
            node("Sigmoid", ["c"], ["s"]),
            node("Mul", ["c", "s"], ["m"]),
            node("Conv", ["m", "w1"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {"w0": weights(16, 16, 3, 3), "w1": weights(16, 16, 3, 3, seed=1)},
    )


def pool_indices() -> onnx.ModelProto:
    """MaxPool with its second output, the indices, in use."""
    return model(
        [
            node("Conv", ["x", "w0"], ["c"], **CONV3),
            node("MaxPool", ["c"], ["m", "indices"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Cast", ["indices"], ["where"], to=TensorProto.FLOAT),
            node("Conv", ["m", "w1"], ["y"], **CONV3),
        ],
        {"x": [1, 16, 8, 8]},
        ["y", "where"],
        {"w0": weights(16, 16, 3, 3), "w1": weights(16, 16, 3, 3, seed=1)},
    )


def float_between() -> onnx.ModelProto:
    """A grouped convolution and a pool, which stay float on cpu, between int8 convolutions that fork."""
    return model(
        [
            node("Conv", ["x", "w0"], ["c0"], **CONV3),
            node("Conv", ["c0", "w1"], ["c1"], name="grouped", group=4, **CONV3),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"], **CONV3),
            node("Conv", ["r1", "w3"], ["c3"], **CONV3),
            node("Add", ["c2", "c3"], ["y"]),
        ],
        {"x": [1, 16, 8, 8]},
        ["y"],
        {
            "w0": weights(16, 16, 3, 3),
            "w1": weights(16, 4, 3, 3, seed=1) * 2,
            "w2": weights(16, 16, 3, 3, seed=2),
            "w3": weights(16, 16, 3, 3, seed=3),
        },
    )
