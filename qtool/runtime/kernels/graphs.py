"""A model around one kernel, in each kind that it comes in: as qtool's own writers would leave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qtool.tables.kernels import BORDER, DEQUANTIZE, QUANTIZE, Kernel, Kind
from qtool.tables.sizes import Shape, Size

Array = NDArray[Any]

_CONTRIB = "com.microsoft"
OPSET, IR_VERSION = 17, 8
_BLOCK = 128
# A node on one value, which no row of the table is of: its time is the tracing itself.
IDLE = "Abs"
_SCALE, _ZERO = np.float32(0.04), np.uint8(128)


@dataclass
class Drawing:
    """A graph in the making.

    Args:
        nodes, constants: so far.
        inputs: of the graph, by name.
    """

    size: Size
    kind: Kind
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Shape] = field(default_factory=dict)

    def op(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node; the name of what it makes."""
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(op, inputs, [output], output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def activation(self, index: int, convolved: bool = False) -> str:
        """An operand: an input of the graph, or what a convolution makes of one; integers in Kind.INT8."""
        shape = self.size.data[index]
        name = f"x{index}"
        self.inputs[name] = shape
        name = self.quantized(name)
        if not convolved:
            return name
        channels = shape[1]
        weights = self.weights((channels, channels, 1, 1), f"before{index}")
        return self.quantized(self.op("Conv", [name, *weights], f"c{index}"))

    def quantized(self, name: str) -> str:
        """The value, between a Q and a DQ where the kind says so."""
        if self.kind is not Kind.INT8:
            return name
        args = [self.constant("scale", _SCALE), self.constant("zero", _ZERO)]
        return self.op(DEQUANTIZE, [self.op(QUANTIZE, [name, *args], f"{name}_q"), *args], f"{name}_d")

    def read(self, name: str) -> str:
        """Some of its values: outputs of a graph are in memory that is new every time, which takes as long to
        get as a small kernel to run. No Transpose moves behind a Flatten. Then comes what does nothing.
        """
        flat = self.op("Flatten", [name], f"{name}_flat")
        first = self.op("Gather", [flat, self.constant("first", np.int64(0))], f"{name}_read", axis=-1)
        return self.op("Neg", [self.op(IDLE, [first], f"{name}_idle")], f"{name}_out")

    def weights(self, shape: Shape, name: str) -> list[str]:
        """A convolution's weight [O, I, ..] and bias [O]."""
        w, b = _random(shape), np.ones(shape[0], np.float32)
        if self.kind is not Kind.INT8:
            return [self.constant(f"{name}_w", w), self.constant(f"{name}_b", b)]
        q, scale = _per_channel(w, 0)
        bias = np.round(b / (_SCALE * scale)).astype(np.int32)
        return [
            self.restored(f"{name}_w", q, scale, 0),
            self.restored(f"{name}_b", bias, (_SCALE * scale).astype(np.float32), 0),
        ]

    def restored(self, name: str, q: Array, scale: Array, axis: int) -> str:
        """Integers behind a DequantizeLinear."""
        args = [self.constant(f"{name}_q", q), self.constant(f"{name}_s", scale)]
        return self.op(DEQUANTIZE, args, name, axis=axis)


def draw(kernel: Kernel, size: Size, kind: Kind) -> onnx.ModelProto:
    """Return the model: float inputs x0 .., and an output per output of the kernel that reads some values."""
    drawing = Drawing(size, kind)
    node = _DRAWN.get(kernel.row) or _DRAWN.get(kernel.op) or partial(_plain, kernel)
    outputs = [drawing.read(name) for name in node(drawing)]
    graph = helper.make_graph(
        drawing.nodes,
        "kernel",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in drawing.inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in drawing.constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def feeds(size: Size) -> dict[str, NDArray[np.float32]]:
    """Samples of the model's inputs."""
    return {f"x{i}": _random(shape) for i, shape in enumerate(size.data)}


def _plain(kernel: Kernel, drawing: Drawing) -> list[str]:
    """Activations, constants behind them, attributes."""
    size = drawing.size
    inputs = [drawing.activation(i, kernel.convolved) for i in range(len(size.data))]
    inputs += [drawing.constant(f"i{n}", np.array(v, np.int64)) for n, v in enumerate(kernel.integers)]
    outputs = [f"y{i}" for i in range(kernel.outputs)]
    attributes: dict[str, Any] = dict(size.attributes)
    drawing.nodes.append(helper.make_node(kernel.op, inputs, outputs, "kernel", **attributes))
    return [drawing.quantized(name) for name in outputs]


def _conv(drawing: Drawing) -> list[str]:
    size = drawing.size
    inputs = [drawing.activation(0), *drawing.weights(size.weights[0], "kernel")]
    return [drawing.quantized(drawing.op("Conv", inputs, "y", **size.attributes))]


def _conv_transpose(drawing: Drawing) -> list[str]:
    w = drawing.constant("w", _random(drawing.size.weights[0]))
    return [drawing.op("ConvTranspose", [drawing.activation(0), w], "y", **drawing.size.attributes)]


def _product(drawing: Drawing) -> list[str]:
    """By a weight [K, N]; the result is in floats."""
    w, x = _random(drawing.size.weights[0]), drawing.activation(0)
    if drawing.kind is Kind.FLOAT:
        return [drawing.op("MatMul", [x, drawing.constant("w", w)], "y")]
    if drawing.kind in (Kind.NBITS8, Kind.NBITS4):
        return [_blocks(drawing, x, w, 8 if drawing.kind is Kind.NBITS8 else 4)]
    q, scale = _per_channel(w, 1)
    if drawing.kind is Kind.INT8:
        return [drawing.op("MatMul", [x, drawing.restored("w", q, scale, 1)], "y")]
    args = [drawing.constant("q", q), drawing.constant("s", scale)]
    return [drawing.op("DynamicQuantizeMatMul", [x, *args], "y", domain=_CONTRIB)]


def _blocks(drawing: Drawing, x: str, w: Array, bits: int) -> str:
    k, n = w.shape
    block = min(_BLOCK, k)
    packed = np.resize(np.arange(256, dtype=np.uint8), (n, k // block, block * bits // 8))
    args = [
        drawing.constant("q", packed),
        drawing.constant("s", np.full((n, k // block), 0.01, np.float32)),
    ]
    numbers = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 4}
    return drawing.op("MatMulNBits", [x, *args], "y", domain=_CONTRIB, **numbers)


def _lstm(drawing: Drawing) -> list[str]:
    """Weights [1, 4H, I] and [1, 4H, H]; the fused form has them the other way round."""
    x, hidden = drawing.activation(0), drawing.size.attributes
    arrays = [_random(shape) for shape in drawing.size.weights]
    if drawing.kind is Kind.FLOAT:
        inputs = [x, *(drawing.constant(f"w{i}", w) for i, w in enumerate(arrays))]
        return [drawing.op("LSTM", inputs, "y", **hidden)]
    inputs, scales = [x], []
    for i, w in enumerate(arrays):
        q, scale = _per_channel(w[0], 0)
        inputs.append(drawing.constant(f"w{i}", q.T[None].copy()))
        scales.append(drawing.constant(f"s{i}", scale[None]))
        scales.append(drawing.constant(f"z{i}", np.zeros((1, len(scale)), np.int8)))
    inputs += [""] * 5 + scales
    return [drawing.op("DynamicQuantizeLSTM", inputs, "y", domain=_CONTRIB, **hidden)]


def _silu(drawing: Drawing) -> list[str]:
    x = drawing.activation(0)
    gate = drawing.quantized(drawing.op("Sigmoid", [x], "s"))
    return [drawing.quantized(drawing.op("Mul", [x, gate], "y"))]


def _clip(drawing: Drawing) -> list[str]:
    ends = [drawing.constant(name, np.float32(v)) for name, v in (("low", 0), ("high", 6))]
    return [drawing.op("Clip", [drawing.activation(0), *ends], "y")]


def _resize(drawing: Drawing) -> list[str]:
    """To twice the side."""
    scales = drawing.constant("scales", np.array([1, 1, 2, 2], np.float32))
    inputs = [drawing.activation(0, convolved=True), "", scales]
    return [drawing.quantized(drawing.op("Resize", inputs, "y", **drawing.size.attributes))]


def _edge(drawing: Drawing) -> list[str]:
    """A Q and a DQ alone."""
    return [drawing.activation(0)]


def _border(drawing: Drawing) -> list[str]:
    """A convolution in floats, which wants another layout; of integers the change of layout itself."""
    if drawing.kind is Kind.FLOAT:
        return [drawing.activation(0, convolved=True)]
    return [drawing.quantized(drawing.op("Transpose", [drawing.activation(0)], "y", perm=[0, 2, 3, 1]))]


def _random(shape: Shape) -> NDArray[np.float32]:
    """Like weights and activations in size; the same every time."""
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(np.float32)


def _per_channel(w: Array, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = (np.abs(w).max(axis=others, keepdims=True) / 127).astype(np.float32)
    return np.round(w / scale).astype(np.int8), scale.reshape(-1)


# By row, else by op.
_DRAWN: dict[str, Callable[[Drawing], list[str]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul/1", "MatMul/few", "MatMul/many"), _product),
    "LSTM": _lstm,
    "Mul/silu": _silu,
    "Clip": _clip,
    "Resize": _resize,
    QUANTIZE: _edge,
    DEQUANTIZE: _edge,
    BORDER: _border,
}
