"""The notation of a specimen of the zoo: the model in ONNX's own text, its weights by shape, its samples.

`https://onnx.ai/onnx/repo-docs/Syntax.html` is the grammar. What it can't express (odd names, stale shapes)
an `edit` does to the parsed model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

Sample = dict[str, Any]
Weight = np.ndarray | tuple[int, ...]
Edit = Callable[[ModelProto], None]
Feed = Callable[[np.random.Generator], Any]

SAMPLES = 6
# What axes without a number are, sample by sample: no two alike, and one of them 1.
_LENGTHS = (3, 5, 1, 4, 2, 6)
ALL = frozenset({"static", "dynamic", "weight-only", "fp16"})


@dataclass(frozen=True)
class Specimen:
    """A legal but awkward model, and what is known of it.

    Args:
        text: `(float[N, 64] x) => (float[N, 64] y) { .. }`, and functions behind it.
        weights: initializers: arrays, or shapes to be filled.
        opset, ir, opsets: of the standard domain, of the format, of other domains.
        edit: what is done to the parsed model.
        feeds: input -> how to make one array of it; the others are random, of the declared shape.
        lengths: named axis -> its length, where the named axes of one sample must not be all the same.
        idle: modes in which nothing of it can be quantized.
        refused: words of the one error that it ends in, in every mode; in some of them, if `quantized` is set.
        file: it comes as a file with its weights beside it.
    """

    text: str
    weights: Mapping[str, Weight] = field(default_factory=dict)
    opset: int = 17
    ir: int = 8
    opsets: Mapping[str, int] = field(default_factory=dict)
    edit: Edit | None = None
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()
    refused: str = ""
    quantized: bool = False
    file: bool = False

    def model(self) -> ModelProto:
        """The model, made anew."""
        imports = ", ".join(f'"{k}" : {v}' for k, v in {"": self.opset, **self.opsets}.items())
        model = onnx.parser.parse_model(f"<ir_version: {self.ir}, opset_import: [{imports}]> zoo {self.text}")
        graph = model.graph
        graph.initializer.extend(numpy_helper.from_array(array(n, w), n) for n, w in self.weights.items())
        if self.ir < 4:  # an initializer is an input, too
            graph.input.extend(
                helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer
            )
        if self.edit is not None:
            self.edit(model)
        return model

    def samples(self) -> list[Sample]:
        """The inputs of the model: six samples, whose free axes differ."""
        graph = self.model().graph
        own = {t.name for t in graph.initializer}
        inputs = [i for i in graph.input if i.name not in own]
        return [self._sample(inputs, index) for index in range(SAMPLES)]

    def _sample(self, inputs: Sequence[onnx.ValueInfoProto], index: int) -> Sample:
        random = np.random.default_rng([7, index])
        made: Sample = {}
        for value in inputs:
            if value.name in self.feeds:
                made[value.name] = self.feeds[value.name](random)
                continue
            tensor = value.type.tensor_type
            shape = [
                d.dim_value if d.HasField("dim_value") else self.lengths.get(d.dim_param, _LENGTHS[index])
                for d in tensor.shape.dim
            ]
            made[value.name] = _random(random, shape, tensor.elem_type)
        return made


def array(name: str, weight: Weight) -> np.ndarray:
    """A weight as it is, or of a shape: values of the size that training leaves, always the same ones."""
    if isinstance(weight, np.ndarray):
        return weight
    random = np.random.default_rng(zlib.crc32(name.encode()))
    fan_in = max(1, int(np.prod(weight)) // max(weight, default=1)) if weight else 1
    return np.asarray(random.standard_normal(weight) / np.sqrt(max(fan_in, 4)), np.float32)


def _random(random: np.random.Generator, shape: Sequence[int], dtype: int) -> np.ndarray:
    if dtype == TensorProto.STRING:
        return np.full(shape, "word", object)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if kind.kind == "b":
        return np.asarray(random.random(shape) < 0.5)
    if kind.kind in "iu":
        return random.integers(0, 4, shape).astype(kind)
    return np.asarray(random.standard_normal(shape)).astype(kind)


def ints(*values: int) -> np.ndarray:
    """int64 [n]."""
    return np.asarray(values, np.int64)


def floats(*values: float) -> np.ndarray:
    """float32 [n]."""
    return np.asarray(values, np.float32)


def scalar(value: float) -> np.ndarray:
    """float32 of rank 0."""
    return np.asarray(value, np.float32)


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and those nested in it."""
    graphs = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                graphs += all_graphs(inner)
    return graphs


def renamed(**names: str) -> Edit:
    """Call values and nodes otherwise; the node that makes `a` is `a_node`."""

    def edit(model: ModelProto) -> None:
        for graph in all_graphs(model.graph):
            for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                value.name = names.get(value.name, value.name)
            for node in graph.node:
                node.name = names.get(f"{node.output[0]}_node", node.name)
                for ends in (node.input, node.output):
                    ends[:] = [names.get(n, n) for n in ends]

    return edit


def shapeless(*values: str) -> Edit:
    """No shape, not even a rank, for inputs and outputs (all of them, unless named)."""

    def edit(model: ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            if not values or value.name in values:
                value.type.tensor_type.ClearField("shape")

    return edit


def edits(*several: Edit) -> Edit:
    """One after the other."""

    def edit(model: ModelProto) -> None:
        for one in several:
            one(model)

    return edit
