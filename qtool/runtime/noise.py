"""Models whose random ops draw the same numbers in every run, to compare two of them.

The runtime's generators go on from run to run, so two models agree only where both run the same samples in
the same order. Here a random op reads a table of numbers, from a place that is an input of the model. The
distribution is the op's own. All ops of a model share one seed: they read from the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from qtool.tables.ops import RANDOM

PLACE = "qtool_noise_place"
"""The added input of the model: the index in the tables at which its random ops begin to read."""
PERIOD = 65521
"""Numbers in a table. A prime: no axis of a tensor divides it."""
Table = Callable[[], NDArray[np.float32]]
_CAST_LIKE = 15  # the opset that has CastLike
_FLOAT = TensorProto.FLOAT
# How a serialized node begins to tell its op: the field's tag, then the length of the name.
_MARKS = tuple(b"\x22" + bytes([len(op)]) + op.encode() for op in sorted(RANDOM))


class Noise(Enum):
    """The numbers that random ops draw."""

    SAME = "the same in every run"
    VARIED = "others in every run, and the same again in the next session"
    RUNTIME = "those of the runtime's generators: for timing"


def may_be_random(data: Any) -> bool:
    """Return whether serialized bytes may hold a random op."""
    return any(data.find(mark) >= 0 for mark in _MARKS)


def with_fixed_noise(data: bytes) -> bytes | None:
    """Return a serialized model with its random ops replaced and PLACE as an int64 scalar input.

    Returns:
        None where it has no random op. Tensors in files stay there.
    """
    model = onnx.ModelProto.FromString(data)
    if model.functions:
        model = inliner.inline_local_functions(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if not any(_is_random(node, opset) for graph in _graphs(model.graph) for node in graph.node):
        return None
    types = {} if opset >= _CAST_LIKE else _types(model)
    for graph in _graphs(model.graph):
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            graph.node.extend(_Writer(node, opset, types).nodes if _is_random(node, opset) else [node])
    model.graph.input.append(helper.make_tensor_value_info(PLACE, TensorProto.INT64, []))
    if not any(o.domain == "com.microsoft" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return bytes(model.SerializeToString())


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _is_random(node: onnx.NodeProto, opset: int) -> bool:
    """Return whether a node draws numbers. Dropout does in training only, which opset 12 brought."""
    if node.op_type not in RANDOM or node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type != "Dropout" or (opset >= 12 and len(node.input) > 2 and bool(node.input[2]))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of the values of a model, by name."""
    graphs = _graphs(onnx.shape_inference.infer_shapes(model).graph)
    return {
        v.name: v.type.tensor_type.elem_type for g in graphs for v in (*g.input, *g.output, *g.value_info)
    }


def _normal() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(PERIOD).astype(np.float32)


def _uniform() -> NDArray[np.float32]:
    return np.random.default_rng(1).random(PERIOD, np.float32)


def _gumbel() -> NDArray[np.float32]:
    return np.random.default_rng(2).gumbel(size=PERIOD).astype(np.float32)


class _Writer:
    """Writes the nodes that take the place of a random one. Its outputs keep their names.

    Constants are nodes, so that they can stand in any graph.
    """

    def __init__(self, node: onnx.NodeProto, opset: int, types: dict[str, int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._opset, self._types = opset, types
        self._inputs = list(node.input)
        self._outputs = list(node.output)
        self._name = next(o for o in node.output if o)
        _WRITERS[node.op_type](self)

    def op(
        self, op: str, inputs: Iterable[str], output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{self._name}_noise_{len(self.nodes)}"
        made = helper.make_node(op, list(inputs), [output], domain=domain, **attributes)
        made.name = f"{self._name}_noise_node_{len(self.nodes)}"
        self.nodes.append(made)
        return output

    def constant(self, array: Any, dtype: Any) -> str:
        return self.op("Constant", [], value=numpy_helper.from_array(np.asarray(array, dtype)))

    def drawn(self, table: Table, shape: str, count: str) -> str:
        """Return `count` float32 numbers of a table in a shape."""
        period = self.constant(PERIOD, np.int64)
        end = self.op("Add", [count, PLACE])
        places = self.op("Range", [PLACE, end, self.constant(1, np.int64)], domain="com.microsoft")
        periods = self.op("Mul", [self.op("Div", [places, period]), period])
        wrapped = self.op("Sub", [places, periods])
        numbers = self.op("Gather", [self.constant(table(), np.float32), wrapped], axis=0)
        return self.op("Reshape", [numbers, shape])

    def typed(self, value: str, like: str | None = None, output: str = "") -> str:
        """Return a value in the type of the node's attribute; without one in that of `like`, or float32."""
        dtype = self._attributes.get("dtype")
        if dtype is None and like is not None and self._opset >= _CAST_LIKE:
            return self.op("CastLike", [value, like], output)
        if dtype is None and like is not None:
            dtype = self._types.get(like)
        return self.op("Cast", [value], output, to=dtype or _FLOAT)

    def attribute(self, name: str, default: float) -> str:
        return self.constant(self._attributes.get(name, default), np.float32)

    def random(self, table: Table, scale: str, offset: str) -> None:
        """Write RandomNormal, RandomUniform, or either in the shape of a value."""
        like = self._inputs[0] if self._inputs else None
        if like is not None:
            shape, count = self.op("Shape", [like]), self.op("Size", [like])
        else:
            lengths = self._attributes["shape"]
            shape, count = self.constant(lengths, np.int64), self.constant(math.prod(lengths), np.int64)
        scaled = self.op("Mul", [self.drawn(table, shape, count), scale])
        self.typed(self.op("Add", [scaled, offset]), like, self._outputs[0])

    def normal(self) -> None:
        self.random(_normal, self.attribute("scale", 1.0), self.attribute("mean", 0.0))

    def uniform(self) -> None:
        low, high = self.attribute("low", 0.0), self.attribute("high", 1.0)
        self.random(_uniform, self.op("Sub", [high, low]), low)

    def above(self, probability: str, like: str) -> str:
        """Return the bools, in the shape of a value, that are false with a probability."""
        numbers = self.drawn(_uniform, self.op("Shape", [like]), self.op("Size", [like]))
        return self.op("Not", [self.op("Less", [numbers, self.op("Cast", [probability], to=_FLOAT)])])

    def bernoulli(self) -> None:
        """Write random > p, as the op's definition does, though its text says that p is that of a 1."""
        (p,) = self._inputs
        self.typed(self.above(p, p), p, self._outputs[0])

    def multinomial(self) -> None:
        """Write argmax(log p + Gumbel noise) for [batch, classes]: distributed as the op's own draws."""
        (logits,) = self._inputs
        size = self._attributes.get("sample_size", 1)
        draws, shape = self.constant([size], np.int64), self.op("Shape", [logits])
        count = self.op("Mul", [self.op("Size", [logits]), self.constant(size, np.int64)])
        batch, classes = (self.op("Gather", [shape, self.constant([i], np.int64)]) for i in (0, 1))
        noise = self.drawn(_gumbel, self.op("Concat", [batch, draws, classes], axis=0), count)
        each = self.op("Concat", [batch, self.constant([1], np.int64), classes], axis=0)
        floats = self.op("Cast", [self.op("Reshape", [logits, each])], to=_FLOAT)
        chosen = self.op("ArgMax", [self.op("Add", [floats, noise])], axis=2, keepdims=0)
        self.op("Cast", [chosen], self._outputs[0], to=self._attributes.get("dtype", TensorProto.INT32))

    def dropout(self) -> None:
        """Write a Dropout whose third input may say that it trains."""
        data, ratio, training = self._inputs
        ratio = self.op("Cast", [ratio], to=_FLOAT) if ratio else self.constant(0.5, np.float32)
        kept = self.op("Or", [self.above(ratio, data), self.op("Not", [training])])
        one = self.constant(1, np.float32)
        gain = self.op("Where", [training, self.op("Div", [one, self.op("Sub", [one, ratio])]), one])
        factors = self.typed(self.op("Mul", [self.op("Cast", [kept], to=_FLOAT), gain]), data)
        self.op("Mul", [data, factors], self._outputs[0])
        if len(self._outputs) > 1 and self._outputs[1]:
            self.op("Identity", [kept], self._outputs[1])


_WRITERS: dict[str, Callable[[_Writer], None]] = {
    "RandomNormal": _Writer.normal,
    "RandomNormalLike": _Writer.normal,
    "RandomUniform": _Writer.uniform,
    "RandomUniformLike": _Writer.uniform,
    "Bernoulli": _Writer.bernoulli,
    "Multinomial": _Writer.multinomial,
    "Dropout": _Writer.dropout,
}
