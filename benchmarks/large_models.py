"""Transformer-like models of any size, with random weights of realistic statistics, for benchmarks/scale.py.

Decoder blocks (attention over the whole sequence, a gated feed-forward part, layer norms) between a token
table and an output projection of its own; opset 17, float32, external data. The side file is written
tensor by tensor through a memory map, so that a model larger than the memory can be made.

Weights have the standard deviation 0.02, scaled by the factors of their input channels: log-normal, and
eight times as large in one channel of 200, as trained transformers have them (LLM.int8(), arXiv 2208.07339).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

_STD, _OUTLIERS, _OUTLIER = 0.02, 200, 8.0
_ALIGNMENT = 4096
_MOST_WIDTH = 1792
_DRAWN = 1 << 22  # numbers that are drawn at once


@dataclass(frozen=True)
class Shape:
    """The width, the blocks and the vocabulary of a model."""

    width: int
    blocks: int
    vocabulary: int = 32000

    @property
    def weights(self) -> int:
        """Elements of all matrices: 4 of attention, 3 of width x 8/3 width, and two tables."""
        return (
            self.blocks * (4 * self.width**2 + 3 * self.width * self.hidden)
            + 2 * self.vocabulary * self.width
        )

    @property
    def hidden(self) -> int:
        """Width of the feed-forward part: 8/3 of the model's, a multiple of 256."""
        return -(-self.width * 8 // 3 // 256) * 256


def shape_of(size: int) -> Shape:
    """Return the shape of a model of about `size` bytes in float32: as wide as 16 blocks allow, up to 1,792.

    Larger ones have more blocks, so that their largest tensors are alike.
    """
    width = 512
    while width < _MOST_WIDTH and Shape(width + 256, 16).weights * 4 <= size:
        width += 256
    blocks = 16
    while Shape(width, blocks + 1).weights * 4 <= size:
        blocks += 1
    return Shape(width, blocks)


def make(path: Path, shape: Shape, seed: int = 0) -> None:
    """Write a model and its side file."""
    tensors = list(_tensors(shape))
    side = path.with_name(path.name + ".data")
    places, end = {}, 0
    for name, dims in tensors:
        places[name] = end
        end += -(-int(np.prod(dims)) * 4 // _ALIGNMENT) * _ALIGNMENT
    with side.open("wb") as stream:
        stream.truncate(end)
    rng = np.random.default_rng(seed)
    for name, dims in tensors:
        array = np.memmap(side, np.float32, "r+", places[name], dims)
        _fill(array, rng)
        array.flush()
        del array
    onnx.save(_model(shape, tensors, places, side.name), path)


def _fill(array: NDArray[np.float32], rng: np.random.Generator) -> None:
    factors = np.exp(rng.normal(0, 0.3, array.shape[0])).astype(np.float32) * np.float32(_STD)
    factors[rng.integers(0, len(factors), max(1, len(factors) // _OUTLIERS))] *= np.float32(_OUTLIER)
    rows = max(1, _DRAWN // array[0].size)
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        part[:] = rng.standard_normal(part.shape, np.float32) * factors[start : start + rows, None]


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    d, hidden = shape.width, shape.hidden
    yield "embed.weight", (shape.vocabulary, d)
    for i in range(shape.blocks):
        for part in ("q", "k", "v", "o"):
            yield f"layers.{i}.attn.{part}_proj.weight", (d, d)
        yield f"layers.{i}.mlp.gate_proj.weight", (d, hidden)
        yield f"layers.{i}.mlp.up_proj.weight", (d, hidden)
        yield f"layers.{i}.mlp.down_proj.weight", (hidden, d)
    yield "lm_head.weight", (d, shape.vocabulary)


def _model(
    shape: Shape, tensors: list[tuple[str, tuple[int, int]]], places: dict[str, int], side: str
) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    small = {
        "norm.scale": np.ones(shape.width, np.float32),
        "attn.factor": np.float32(shape.width**-0.5),
    }

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    x = add("Gather", ["embed.weight", "input_ids"], "embed")
    for i in range(shape.blocks):
        at = f"layers.{i}"
        h = add("LayerNormalization", [x, "norm.scale"], f"{at}.norm1", axis=-1)
        q, k, v = (add("MatMul", [h, f"{at}.attn.{p}_proj.weight"], f"{at}.attn.{p}") for p in "qkv")
        k = add("Transpose", [k], f"{at}.attn.kt", perm=[0, 2, 1])
        scores = add("Mul", [add("MatMul", [q, k], f"{at}.attn.qk"), "attn.factor"], f"{at}.attn.scores")
        mixed = add(
            "MatMul", [add("Softmax", [scores], f"{at}.attn.softmax", axis=-1), v], f"{at}.attn.mixed"
        )
        x = add(
            "Add", [x, add("MatMul", [mixed, f"{at}.attn.o_proj.weight"], f"{at}.attn.out")], f"{at}.add1"
        )
        h = add("LayerNormalization", [x, "norm.scale"], f"{at}.norm2", axis=-1)
        gate = add("MatMul", [h, f"{at}.mlp.gate_proj.weight"], f"{at}.mlp.gate")
        silu = add("Mul", [gate, add("Sigmoid", [gate], f"{at}.mlp.sigmoid")], f"{at}.mlp.silu")
        up = add("MatMul", [h, f"{at}.mlp.up_proj.weight"], f"{at}.mlp.up")
        down = add(
            "MatMul",
            [add("Mul", [silu, up], f"{at}.mlp.mul"), f"{at}.mlp.down_proj.weight"],
            f"{at}.mlp.down",
        )
        x = add("Add", [x, down], f"{at}.add2")
    h = add("LayerNormalization", [x, "norm.scale"], "norm", axis=-1)
    add("MatMul", [h, "lm_head.weight"], "logits")
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", shape.vocabulary])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in small.items()],
    )
    for name, dims in tensors:
        tensor = graph.initializer.add(name=name, dims=dims, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": side, "offset": places[name], "length": int(np.prod(dims)) * 4}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
