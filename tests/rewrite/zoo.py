"""Tiny graphs, each with a trap or an idiom of real exporters in it: the table that rewriting is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import node, rng, samples, weights
from tests.plan.build import model


@dataclass(frozen=True)
class Case:
    """A model and its samples.

    Args:
        floor: the least SQNR in dB against FP32; 8-bit layers have about 35 each, noise adds up.
    """

    build: Callable[[], onnx.ModelProto]
    samples: Callable[[], Sequence[dict[str, np.ndarray]]]
    floor: float = 25.0


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


def image(channels: int = 16, size: int = 8) -> Callable[[], Sequence[dict[str, np.ndarray]]]:
    """Six images named x."""
    return lambda: samples(6, x=(1, channels, size, size))


def vector(*shape: int) -> Callable[[], Sequence[dict[str, np.ndarray]]]:
    """Six arrays named x."""
    return lambda: samples(6, x=shape)


CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
CLAMP = {"zero": np.float32(0), "six": np.float32(6)}


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


def mlp_gemm() -> onnx.ModelProto:
    """Gemm with transB and without, alpha and beta."""
    return model(
        [
            node("Gemm", ["x", "w0", "b0"], ["h"], transB=1),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "w1", "b1"], ["g"], alpha=0.5, beta=2.0),
            node("Relu", ["g"], ["s"]),
            node("Gemm", ["s", "w2"], ["y"], transB=1),
        ],
        {"x": ["N", 32]},
        ["y"],
        {
            "w0": weights(48, 32),
            "b0": weights(48, seed=1),
            "w1": weights(48, 40, seed=2),
            "b1": weights(40, seed=3),
            "w2": weights(20, 40, seed=4),
        },
    )


def mlp_matmul() -> onnx.ModelProto:
    """2-D MatMul + Add, which runtimes turn into Gemm."""
    return model(
        [
            node("MatMul", ["x", "w0"], ["m0"]),
            node("Add", ["m0", "b0"], ["h"]),
            node("Tanh", ["h"], ["t"]),
            node("MatMul", ["t", "w1"], ["m1"]),
            node("Add", ["b1", "m1"], ["y"]),
        ],
        {"x": ["N", 32]},
        ["y"],
        {
            "w0": weights(32, 40),
            "b0": weights(40, seed=1),
            "w1": weights(40, 24, seed=2),
            "b1": weights(1, 24, seed=3),
        },
    )


def transformer() -> onnx.ModelProto:
    """One attention block on [N, T, 32]: biased linears, Softmax, LayerNormalization, residuals."""
    nodes = []
    constants: dict[str, np.ndarray] = {"perm_scale": np.float32(32**-0.5)}
    for index, name in enumerate(("q", "k", "v")):
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"m{name}"]),
            node("Add", [f"m{name}", f"b{name}"], [name]),
        ]
        constants |= {f"w{name}": weights(32, 32, seed=index), f"b{name}": weights(32, seed=10 + index)}
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Mul", ["scores", "perm_scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["probs"], axis=-1),
        node("MatMul", ["probs", "v"], ["mixed"]),
        node("MatMul", ["mixed", "wo"], ["mo"]),
        node("Add", ["bo", "mo"], ["o"]),
        node("Add", ["o", "x"], ["res"]),
        node("LayerNormalization", ["res", "gain", "shift"], ["ln"], axis=-1),
        node("MatMul", ["ln", "wf"], ["mf"]),
        node("Add", ["mf", "bf"], ["f"]),
        node("Relu", ["f"], ["fr"]),
        node("MatMul", ["fr", "wp"], ["y"]),
    ]
    constants |= {
        "wo": weights(32, 32, seed=4),
        "bo": weights(32, seed=14),
        "gain": np.ones(32, np.float32),
        "shift": np.zeros(32, np.float32),
        "wf": weights(32, 64, seed=5),
        "bf": weights(64, seed=15),
        "wp": weights(64, 32, seed=6),
    }
    return model(nodes, {"x": ["N", "T", 32]}, ["y"], constants)


def lstm(
    directions: int = 1, *, state: bool = False, hidden_only: bool = False, bias: bool = True
) -> onnx.ModelProto:
    """An LSTM of 16 inputs and 24 hidden units on [T, 1, 16], and a linear on its last state."""
    size = 24
    inputs = ["x", "W", "R", "B" if bias else ""]
    shapes: dict[str, Sequence[int | str]] = {"x": ["T", 1, 16]}
    if state:
        inputs += ["", "h0", "c0"]
        shapes |= {"h0": [directions, 1, size], "c0": [directions, 1, size]}
    while not inputs[-1]:
        inputs.pop()
    outputs = ["" if hidden_only else "Y", "Yh", "Yc"]
    return model(
        [
            node(
                "LSTM",
                inputs,
                outputs,
                name="lstm",
                hidden_size=size,
                direction="bidirectional" if directions == 2 else "forward",
            ),
            node("Transpose", ["Yh"], ["t"], perm=[1, 0, 2]),
            node("Flatten", ["t"], ["f"]),
            node("Gemm", ["f", "wg", "bg"], ["y"]),
        ],
        shapes,
        ["y", "Yc"] if hidden_only else ["y", "Y", "Yc"],
        {
            "W": weights(directions, 4 * size, 16) * 3,
            "R": weights(directions, 4 * size, size, seed=1) * 2,
            **({"B": weights(directions, 8 * size, seed=2)} if bias else {}),
            "wg": weights(directions * size, 32, seed=3),
            "bg": weights(32, seed=4),
        },
    )


def _lstm_samples(directions: int = 1, state: bool = False) -> Sequence[dict[str, np.ndarray]]:
    extra = {"h0": (directions, 1, 24), "c0": (directions, 1, 24)} if state else {}
    return samples(6, x=(5, 1, 16), **extra)


def two_lstms_one_weight() -> onnx.ModelProto:
    """Two LSTMs that share their weights."""
    return model(
        [
            node("LSTM", ["x", "W", "R"], ["", "h"], name="first", hidden_size=24),
            node("Neg", ["x"], ["minus"]),
            node("LSTM", ["minus", "W", "R"], ["", "g"], name="second", hidden_size=24),
            node("Add", ["h", "g"], ["y"]),
        ],
        {"x": ["T", 1, 16]},
        ["y"],
        {"W": weights(1, 96, 16) * 3, "R": weights(1, 96, 24, seed=1) * 2},
    )


def _tokens(size: int) -> Sequence[dict[str, np.ndarray]]:
    random = rng(3)
    return [{"ids": random.integers(0, size, (2, 7))} for _ in range(6)]


def embedding() -> onnx.ModelProto:
    """An embedding large enough to store as int8, and a linear behind it."""
    return model(
        [node("Gather", ["table", "ids"], ["e"]), node("MatMul", ["e", "w"], ["y"])],
        {"ids": ["N", "T"]},
        ["y"],
        {"table": weights(300, 32), "w": weights(32, 40, seed=1)},
        input_type=TensorProto.INT64,
    )


def tied_embedding() -> onnx.ModelProto:
    """The embedding table is also the weight of the last Gemm, as in most language models."""
    return model(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("ReduceSum", ["e", "one"], ["s"], keepdims=0),
            node("Gemm", ["s", "table", "bias"], ["y"], transB=1),
        ],
        {"ids": ["N", "T"]},
        ["y"],
        {
            "table": rng(5).standard_t(2.5, (300, 64)).astype(np.float32),
            "one": np.array([1]),
            "bias": weights(300, seed=1),
        },
        input_type=TensorProto.INT64,
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


def shared_both_ways() -> onnx.ModelProto:
    """One square weight read by a Gemm as it is and by another transposed: two granularities."""
    w = weights(32, 32) * np.geomspace(0.1, 5, 32, dtype=np.float32)
    return model(
        [
            node("Gemm", ["x", "w", "b"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "w", "c"], ["y"], transB=1),
        ],
        {"x": ["N", 32]},
        ["y"],
        {"w": w, "b": weights(32, seed=1), "c": weights(32, seed=2)},
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


def if_weights() -> onnx.ModelProto:
    """Weights in the branches of an If: an initializer in one, a Constant node in the other."""

    def branch(name: str, seed: int, constant: bool) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(weights(32, 40, seed=seed), f"{name}_w")
        made = [helper.make_node("Constant", [], [f"{name}_w"], value=tensor)] if constant else []
        made.append(helper.make_node("MatMul", ["h", f"{name}_w"], [f"{name}_y"], name=f"{name}_mm"))
        result = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph(made, name, [], [result], [] if constant else [tensor])

    return model(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=branch("yes", 1, False), else_branch=branch("no", 2, True)),
        ],
        {"x": ["N", 32]},
        ["y"],
        {"w": weights(32, 32), "zero": np.float32(0)},
    )  # fmt: skip


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


def gemm_row_bias() -> onnx.ModelProto:
    """A Gemm whose C is [M, 1]: a value a row, although there are as many rows as channels."""
    return model(
        [node("Gemm", ["x", "w", "c"], ["y"])],
        {"x": [24, 32]},
        ["y"],
        {"w": weights(32, 24), "c": np.linspace(-3, 3, 24, dtype=np.float32).reshape(24, 1)},
    )


def small_divisors() -> onnx.ModelProto:
    """A quotient whose divisor comes near zero: rounded to 0 it gives infinity."""
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["n"], ["d"]), node("Div", ["h", "d"], ["y"])],
        {"x": [4, 32], "n": [4, 32]},
        ["y"],
        {"w": weights(32, 32)},
    )


def _divisors() -> Sequence[dict[str, np.ndarray]]:
    norms = np.geomspace(1e-3, 1, 128, dtype=np.float32).reshape(4, 32)
    return [{**s, "n": norms} for s in samples(6, x=(4, 32))]


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


CASES: dict[str, Case] = {
    "conv-bn-relu6": Case(conv_bn_relu6, image(3)),
    "residual": Case(residual, image()),
    "mobile-block": Case(mobile_block, image()),
    "mlp-gemm": Case(mlp_gemm, vector(4, 32)),
    "mlp-matmul": Case(mlp_matmul, vector(4, 32)),
    "transformer": Case(transformer, vector(2, 6, 32)),
    "lstm": Case(lstm, _lstm_samples),
    "lstm-bidirectional": Case(lambda: lstm(2), lambda: _lstm_samples(2)),
    "lstm-initial-state": Case(lambda: lstm(state=True), lambda: _lstm_samples(1, True)),
    "lstm-bidirectional-state": Case(lambda: lstm(2, state=True), lambda: _lstm_samples(2, True)),
    "lstm-y-unused": Case(lambda: lstm(hidden_only=True), _lstm_samples),
    "lstm-no-bias": Case(lambda: lstm(bias=False), _lstm_samples),
    "two-lstms-one-weight": Case(two_lstms_one_weight, lambda: samples(6, x=(5, 1, 16))),
    "embedding": Case(embedding, lambda: _tokens(300)),
    "tied-embedding": Case(tied_embedding, lambda: _tokens(300)),
    "shared-weights": Case(shared_weights, image()),
    "shared-both-ways": Case(shared_both_ways, vector(4, 32)),
    "dead-channels": Case(dead_channels, image()),
    "all-dead": Case(all_dead, image()),
    "odd-names": Case(odd_names, image()),
    "colliding-names": Case(colliding_names, image()),
    "output-feeds-on": Case(output_feeds_on, image()),
    "if-weights": Case(if_weights, vector(4, 32)),
    "pass-through": Case(pass_through, image()),
    "silu": Case(silu, image()),
    "pool-indices": Case(pool_indices, image()),
    "gemm-row-bias": Case(gemm_row_bias, vector(24, 32)),
    "small-divisors": Case(small_divisors, _divisors),
    "float-between": Case(float_between, image()),
}
