"""The zoo's tiny graphs of matrix products, attention, embeddings and LSTMs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import node, rng, weights
from tests.plan.build import model


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
