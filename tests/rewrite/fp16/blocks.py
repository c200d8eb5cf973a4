"""Random small networks of the patterns that real ones are made of, for tests of float16.

A block takes and gives a float32 value [2, 6, 8]; a network is a chain of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (2, 6, 8)
_B, _S, _C = SHAPE


@dataclass
class Network:
    """Nodes and constants so far; every name is new."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def const(self, array: object, dtype: type = np.float32) -> str:
        name = self.name("c")
        self.constants[name] = np.asarray(array, dtype)
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.random.standard_normal(shape) / np.sqrt(shape[0]))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, list(inputs), names, name=names[0] + "_node", **attributes)
        )
        return names[0]


def _linear(n: Network, x: str) -> str:
    return n.op("Add", n.op("MatMul", x, n.weight(_C, _C)), n.weight(_C))


def _matmul(n: Network, x: str) -> str:
    return n.op("MatMul", x, n.weight(_C, _C))


def _residual(n: Network, x: str) -> str:
    return n.op("Add", x, _linear(n, x))


def _layer_norm(n: Network, x: str) -> str:
    return n.op("LayerNormalization", x, n.weight(_C), n.weight(_C), axis=-1)


def _written_norm(n: Network, x: str) -> str:
    mean = n.op("ReduceMean", x, axes=[-1])
    d = n.op("Sub", x, mean)
    variance = n.op("ReduceMean", n.op("Pow", d, n.const(2)), axes=[-1])
    deviation = n.op("Sqrt", n.op("Add", variance, n.const(1e-5)))
    return n.op("Add", n.op("Mul", n.op("Div", d, deviation), n.weight(_C)), n.weight(_C))


def _rms_norm(n: Network, x: str) -> str:
    mean = n.op("ReduceMean", n.op("Pow", x, n.const(2)), axes=[-1])
    return n.op("Mul", n.op("Div", x, n.op("Sqrt", n.op("Add", mean, n.const(1e-6)))), n.weight(_C))


def _erf_gelu(n: Network, x: str) -> str:
    gate = n.op("Add", n.op("Erf", n.op("Div", x, n.const(np.sqrt(2)))), n.const(1))
    return n.op("Mul", n.op("Mul", x, gate), n.const(0.5))


def _tanh_gelu(n: Network, x: str) -> str:
    cube = n.op("Mul", n.op("Mul", n.op("Mul", x, x), x), n.const(0.044715))
    tanh = n.op("Tanh", n.op("Mul", n.op("Add", x, cube), n.const(np.sqrt(2 / np.pi))))
    return n.op("Mul", n.op("Mul", x, n.op("Add", tanh, n.const(1))), n.const(0.5))


def _silu(n: Network, x: str) -> str:
    return n.op("Mul", x, n.op("Sigmoid", x))


def _clip(n: Network, x: str) -> str:
    return n.op("Clip", x, n.const(-1.5), n.const(1.5))


def _endless_clip(n: Network, x: str) -> str:
    return n.op("Clip", x, n.const(-1), n.const(3.4e38))


def _attention(mask: float) -> Callable[[Network, str], str]:
    def block(n: Network, x: str) -> str:
        q, k, v = (_matmul(n, x) for _ in range(3))
        scores = n.op("Div", n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 1])), n.const(np.sqrt(_C)))
        if mask:
            scores = n.op("Add", scores, n.const(np.triu(np.full((_S, _S), mask), 1)))
        return n.op("MatMul", n.op("Softmax", scores, axis=-1), v)

    return block


def _convolution(n: Network, x: str) -> str:
    weight = n.const(n.random.standard_normal((_C, _C, 3)) / 5)
    y = n.op("Conv", n.op("Transpose", x, perm=[0, 2, 1]), weight, n.weight(_C), pads=[1, 1])
    return n.op("Transpose", n.op("Relu", y), perm=[0, 2, 1])


def _dynamic_reshape(n: Network, x: str) -> str:
    flat = n.op("Reshape", x, n.const([-1, _C], np.int64))
    return n.op("Reshape", n.op("Tanh", flat), n.op("Shape", x))


def _split_concat(n: Network, x: str) -> str:
    first = n.op("Split", x, n.const([3, 5], np.int64), outputs=2, axis=2)
    second = n.nodes[-1].output[1]
    return n.op("Concat", n.op("Relu", second), first, axis=2)


def _resize(n: Network, x: str) -> str:
    image = n.op("Unsqueeze", x, n.const([0], np.int64))
    grown = n.op("Resize", image, "", n.const([1, 1, 2, 2]), mode="nearest")
    return n.op(
        "Squeeze", n.op("AveragePool", grown, kernel_shape=[2, 2], strides=[2, 2]), n.const([0], np.int64)
    )


def _through_integers(n: Network, x: str) -> str:
    integers = n.op("Cast", n.op("Floor", n.op("Mul", x, n.const(4))), to=TensorProto.INT64)
    return n.op("Add", x, n.op("Cast", integers, to=TensorProto.FLOAT))


def _where(n: Network, x: str) -> str:
    return n.op("Where", n.op("Greater", x, n.const(0.3)), x, n.op("Neg", x))


def _filled(n: Network, x: str) -> str:
    fill = helper.make_tensor("fill", TensorProto.FLOAT, [1], [0.75])
    return n.op("Mul", x, n.op("ConstantOfShape", n.op("Shape", x), value=fill))


def _embedded(n: Network, x: str) -> str:
    indices = n.const(n.random.integers(0, 40, (_S,)), np.int64)
    return n.op("Add", x, n.op("Gather", n.weight(40, _C), indices))


def _softmax_of_logs(n: Network, x: str) -> str:
    return n.op("Log", n.op("Softmax", x, axis=-1))


def _wide(n: Network, x: str) -> str:
    """Beyond float16 on the way, and back."""
    return n.op("Div", n.op("Mul", x, n.const(3e5)), n.const(3e5))


def _fp16_island(n: Network, x: str) -> str:
    y = n.op("Relu", n.op("Cast", x, to=TensorProto.FLOAT16))
    return n.op("Cast", y, to=TensorProto.FLOAT)


def _branch(n: Network, x: str) -> str:
    """An If whose branches read x from outside."""
    name, weight = n.name("If"), n.weight(_C, _C)
    then = [helper.make_node("MatMul", [x, weight], [name + "_t"], name=name + "_then_node")]
    other = [helper.make_node("Tanh", [x], [name + "_e"], name=name + "_else_node")]
    bodies = [
        helper.make_graph(
            nodes, name + tag, [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, SHAPE)]
        )
        for nodes, tag, out in ((then, "then", name + "_t"), (other, "else", name + "_e"))
    ]
    return n.op("If", n.const(True, np.bool_), then_branch=bodies[0], else_branch=bodies[1])


def _loop(n: Network, x: str) -> str:
    """A Loop that carries a state through a MatMul twice."""
    name, weight = n.name("Loop"), n.weight(_C, _C)
    nodes = [
        helper.make_node("MatMul", [name + "_s", weight], [name + "_m"], name=name + "_MatMul"),
        helper.make_node("Tanh", [name + "_m"], [name + "_o"], name=name + "_Tanh"),
        helper.make_node("Identity", [name + "_c"], [name + "_k"], name=name + "_Identity"),
    ]
    info = helper.make_tensor_value_info
    inputs = [info(name + "_i", TensorProto.INT64, []), info(name + "_c", TensorProto.BOOL, [])]
    inputs.append(info(name + "_s", TensorProto.FLOAT, SHAPE))
    outputs = [info(name + "_k", TensorProto.BOOL, []), info(name + "_o", TensorProto.FLOAT, SHAPE)]
    body = helper.make_graph(nodes, name + "_body", inputs, outputs)
    return n.op("Loop", n.const(2, np.int64), n.const(True, np.bool_), x, body=body)


BLOCKS: dict[str, Callable[[Network, str], str]] = {
    "linear": _linear,
    "matmul": _matmul,
    "residual": _residual,
    "layer-norm": _layer_norm,
    "written-norm": _written_norm,
    "rms-norm": _rms_norm,
    "erf-gelu": _erf_gelu,
    "tanh-gelu": _tanh_gelu,
    "silu": _silu,
    "clip": _clip,
    "endless-clip": _endless_clip,
    "attention": _attention(0.0),
    "attention-10000": _attention(-10000.0),
    "attention-flt-max": _attention(float(np.finfo(np.float32).min)),
    "attention-inf": _attention(-np.inf),
    "convolution": _convolution,
    "dynamic-reshape": _dynamic_reshape,
    "split-concat": _split_concat,
    "resize": _resize,
    "integers": _through_integers,
    "where": _where,
    "filled": _filled,
    "embedded": _embedded,
    "log-softmax": _softmax_of_logs,
    "wide": _wide,
    "fp16-island": _fp16_island,
    "branch": _branch,
    "loop": _loop,
}


def network(blocks: Sequence[str], seed: int = 0, *, extra_output: bool = False) -> onnx.ModelProto:
    """A checked chain of blocks from `x` to `y`; with extra_output, the value halfway is an output too."""
    n = Network(np.random.default_rng(seed))
    value, outputs = "x", ["y"]
    for index, block in enumerate(blocks):
        value = BLOCKS[block](n, value)
        if extra_output and index == len(blocks) // 2 and value != "x":
            outputs.append(value)
    n.nodes.append(helper.make_node("Identity", [value], ["y"], name="end"))
    graph = helper.make_graph(
        n.nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, SHAPE) for k in outputs],
        [numpy_helper.from_array(v, k) for k, v in n.constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made
