"""The three sample networks: each as a torch module, with a `to_onnx` that builds the same network in ONNX.

The ONNX graphs are built node by node from the trained weights: names and operators are ours to choose.
`to_onnx(graph, x)` takes the name of the input tensor and ends in the output `logits`.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn


class Graph:
    """Collects the nodes and initializers of one ONNX graph. Tensors are handled by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def const(self, name: str, value: Tensor | np.ndarray) -> str:
        """Add an initializer, unless one of this name is there already, and return its name."""
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(
        self, op: str, name: str, inputs: list[str], outputs: list[str] | None = None, **attributes: object
    ) -> str:
        """Add the node `name`, which ends in its operator, and return the name of its last output."""
        outputs = outputs or [f"{name}_output"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs[-1]

    def linear(self, prefix: str, x: str, layer: nn.Linear, output: str | None = None) -> str:
        """x [..., in] -> MatMul with a weight [in, out] -> Add of a bias [out]."""
        x = self.node("MatMul", f"{prefix}/MatMul", [x, self.const(f"{prefix}/weight", layer.weight.T)])
        bias = self.const(f"{prefix}/bias", layer.bias)
        return self.node("Add", f"{prefix}/Add", [x, bias], [output] if output else None)

    def gemm(self, prefix: str, x: str, layer: nn.Linear, output: str) -> str:
        """x [N, in] -> Gemm with a weight [out, in] (transB=1) and a bias [out]."""
        weight = self.const(f"{prefix}/weight", layer.weight)
        bias = self.const(f"{prefix}/bias", layer.bias)
        return self.node("Gemm", f"{prefix}/Gemm", [x, weight, bias], [output], transB=1)


class ConvBn(nn.Module):
    """Conv without bias, BatchNorm, ReLU6 where `act`: [N, cin, H, W] -> [N, cout, H/stride, W/stride]."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu6(x) if self.act else x

    def to_onnx(self, g: Graph, prefix: str, x: str) -> str:
        conv, bn = self.conv, self.bn
        x = g.node(
            "Conv",
            f"{prefix}/Conv",
            [x, g.const(f"{prefix}/conv_weight", conv.weight)],
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=conv.padding * 2,  # (height, width) at the beginning, then at the end
            dilations=conv.dilation,
            group=conv.groups,
        )
        bn_params = {"scale": bn.weight, "bias": bn.bias, "mean": bn.running_mean, "var": bn.running_var}
        params = [g.const(f"{prefix}/bn_{key}", value) for key, value in bn_params.items()]
        x = g.node("BatchNormalization", f"{prefix}/BatchNormalization", [x, *params], epsilon=bn.eps)
        if not self.act:
            return x
        low, high = g.const("relu6/min", np.float32(0)), g.const("relu6/max", np.float32(6))
        return g.node("Clip", f"{prefix}/Clip", [x, low, high])


class InvertedResidual(nn.Module):
    """MobileNetV2 block: expand 1x1, depthwise 3x3, project 1x1, plus the input where the shape stays."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int):
        super().__init__()
        self.expand = ConvBn(cin, hidden, 1)
        self.depthwise = ConvBn(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvBn(hidden, cout, 1, act=False)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y

    def to_onnx(self, g: Graph, prefix: str, x: str) -> str:
        y = x
        for part in ("expand", "depthwise", "project"):
            y = getattr(self, part).to_onnx(g, f"{prefix}/{part}", y)
        return g.node("Add", f"{prefix}/Add", [x, y]) if self.residual else y


class Cnn(nn.Module):
    """A small MobileNetV2: image [N, 1, 32, 32] -> logits [N, 10]."""

    BLOCKS = (  # in, expanded, out, stride
        (16, 64, 24, 2), (24, 96, 24, 1), (24, 96, 24, 1),  # 32x32 -> 16x16
        (24, 96, 40, 2), (40, 128, 40, 1), (40, 128, 40, 1), (40, 128, 40, 1),  # 16x16 -> 8x8
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(1, 16, 3)
        self.blocks = nn.Sequential(*(InvertedResidual(*block) for block in self.BLOCKS))
        self.last = ConvBn(40, 96, 1)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))

    def to_onnx(self, g: Graph, x: str) -> None:
        x = self.stem.to_onnx(g, "stem", x)
        for i, block in enumerate(self.blocks, 1):
            x = block.to_onnx(g, f"block{i}", x)
        x = self.last.to_onnx(g, "last", x)
        x = g.node("GlobalAveragePool", "pool/GlobalAveragePool", [x])
        x = g.node("Flatten", "pool/Flatten", [x], axis=1)
        g.gemm("head", x, self.head, "logits")


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: [N, 16, 64] -> [N, 16, 64]."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.dim, self.heads = dim, heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (  # each [N, heads, 16, dim / heads]
            f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(self.dim / self.heads)  # [N, heads, 16, 16]
        x = x + self.dropout(self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))

    def to_onnx(self, g: Graph, prefix: str, x: str) -> str:
        attn, ffn = f"{prefix}/attention", f"{prefix}/ffn"
        split = g.const("attention/split_shape", np.array([0, 0, self.heads, -1], np.int64))
        merge = g.const("attention/merge_shape", np.array([0, 0, -1], np.int64))
        scale = g.const("attention/scale", np.float32(1 / math.sqrt(self.dim / self.heads)))
        y = norm_to_onnx(g, f"{prefix}/norm1", x, self.norm1)
        heads = []
        for name, layer in (("query", self.query), ("key", self.key), ("value", self.value)):
            z = g.linear(f"{attn}/{name}", y, layer)
            z = g.node("Reshape", f"{attn}/{name}/Reshape", [z, split])  # [N, 16, heads, dim / heads]
            perm = (0, 2, 3, 1) if name == "key" else (0, 2, 1, 3)
            heads.append(g.node("Transpose", f"{attn}/{name}/Transpose", [z], perm=perm))
        q, k, v = heads
        y = g.node("MatMul", f"{attn}/scores/MatMul", [q, k])
        y = g.node("Mul", f"{attn}/scores/Mul", [y, scale])
        y = g.node("Softmax", f"{attn}/Softmax", [y], axis=-1)
        y = g.node("MatMul", f"{attn}/context/MatMul", [y, v])
        y = g.node("Transpose", f"{attn}/context/Transpose", [y], perm=(0, 2, 1, 3))
        y = g.node("Reshape", f"{attn}/context/Reshape", [y, merge])
        x = g.node("Add", f"{attn}/Add", [x, g.linear(f"{attn}/out", y, self.out)])
        y = norm_to_onnx(g, f"{prefix}/norm2", x, self.norm2)
        y = g.node("Gelu", f"{ffn}/Gelu", [g.linear(f"{ffn}/up", y, self.up)])
        return g.node("Add", f"{ffn}/Add", [x, g.linear(f"{ffn}/down", y, self.down)])


def norm_to_onnx(g: Graph, prefix: str, x: str, norm: nn.LayerNorm) -> str:
    """LayerNormalization over the last axis of x."""
    scale, bias = g.const(f"{prefix}/scale", norm.weight), g.const(f"{prefix}/bias", norm.bias)
    name = f"{prefix}/LayerNormalization"
    return g.node("LayerNormalization", name, [x, scale, bias], axis=-1, epsilon=norm.eps)


class Transformer(nn.Module):
    """Two encoder layers over 16 patches: pixels [N, 16, 4] -> logits [N, 10]."""

    def __init__(self, dim: int = 64, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(4, dim)
        self.position = nn.Parameter(torch.randn(1, 16, dim) * 0.1)
        self.layers = nn.Sequential(*(EncoderLayer(dim, heads, hidden) for _ in range(2)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.position)).mean(1))

    def to_onnx(self, g: Graph, x: str) -> None:
        x = g.linear("embed", x, self.embed)
        x = g.node("Add", "position/Add", [x, g.const("position/embedding", self.position)])
        for i, layer in enumerate(self.layers, 1):
            x = layer.to_onnx(g, f"layer{i}", x)
        x = norm_to_onnx(g, "norm", x, self.norm)
        axes = g.const("pool/axes", np.array([1], np.int64))
        x = g.node("ReduceMean", "pool/ReduceMean", [x, axes], keepdims=0)
        g.gemm("head", x, self.head, "logits")


class Lstm(nn.Module):
    """One LSTM that reads a digit row by row: rows [N, 8, 8] -> logits [N, 10]."""

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.lstm(x.transpose(0, 1))  # last: [1, N, hidden]
        return self.head(last[0])

    def to_onnx(self, g: Graph, x: str) -> None:
        def reorder(value: Tensor) -> Tensor:
            """Four gates along the first axis: torch's i, f, g, o become ONNX's i, o, f, c (c is g)."""
            i, f, c, o = value.chunk(4)
            return torch.cat([i, o, f, c])

        m = self.lstm
        bias = torch.cat([reorder(m.bias_ih_l0), reorder(m.bias_hh_l0)])
        weights = [  # each with a leading axis of one direction
            g.const("lstm/W", reorder(m.weight_ih_l0)[None]),
            g.const("lstm/R", reorder(m.weight_hh_l0)[None]),
            g.const("lstm/B", bias[None]),
        ]
        x = g.node("Transpose", "rows/Transpose", [x], perm=(1, 0, 2))  # [8, N, 8]
        x = g.node("LSTM", "lstm/LSTM", [x, *weights], ["", "lstm/Y_h"], hidden_size=m.hidden_size)
        axes = g.const("lstm/squeeze_axes", np.array([0], np.int64))
        x = g.node("Squeeze", "lstm/Squeeze", [x, axes])  # Y_h [1, N, hidden] -> [N, hidden]
        g.linear("head", x, self.head, "logits")
