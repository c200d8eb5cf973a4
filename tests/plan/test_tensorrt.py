"""The rules of explicit quantization in TensorRT's documentation, each held against a written model."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper

from tests.graphs import model, node, samples, weights
from tests.rewrite.flow import run, sqnr, write

_FED = samples(4, x=(1, 8, 8, 8))


def net() -> onnx.ModelProto:
    """A residual block, and another whose two branches are convolutions; a pool, a product and a Softmax."""
    constants = {f"k{i}": weights(8, 8, 3, 3, seed=i) for i in range(5)}
    constants |= {f"b{i}": weights(8, seed=10 + i) for i in range(5)}

    def conv(source: str, index: int, output: str) -> onnx.NodeProto:
        return node("Conv", [source, f"k{index}", f"b{index}"], [output], pads=[1, 1, 1, 1])

    nodes = [
        conv("x", 0, "c0"),
        node("Relu", ["c0"], ["r0"]),
        conv("r0", 1, "c1"),
        node("Relu", ["c1"], ["r1"]),
        conv("r1", 2, "c2"),
        node("Add", ["c2", "r0"], ["a0"]),
        node("Relu", ["a0"], ["r2"]),
        conv("r2", 3, "c3"),
        conv("r2", 4, "c4"),
        node("Add", ["c3", "c4"], ["a1"]),
        node("MaxPool", ["a1"], ["p"], kernel_shape=[8, 8]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w"], ["m"]),
        node("Add", ["m", "b"], ["n"]),
        node("Softmax", ["n"], ["y"]),
    ]
    constants |= {"w": weights(8, 16, seed=20), "b": weights(16, seed=21)}
    return model(nodes, {"x": (1, 8, 8, 8)}, ["y"], constants)


class Graph:
    """A written model, with the questions that the rules ask."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = proto.graph.node
        self.arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.producer = {name: n for n in self.nodes for name in n.output}

    def of(self, op: str) -> list[onnx.NodeProto]:
        return [n for n in self.nodes if n.op_type == op]

    def before(self, name: str) -> str:
        return self.producer[name].op_type if name in self.producer else ""

    def behind(self, name: str) -> set[str]:
        return {n.op_type for n in self.nodes if name in n.input}


@cache
def graph() -> Graph:
    return Graph(write(net(), _FED, "tensorrt").proto)


def test_all_quantization_is_s8_around_zero() -> None:
    for quantizer in (*graph().of("QuantizeLinear"), *graph().of("DequantizeLinear")):
        zero = graph().arrays[quantizer.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()


def test_every_product_reads_two_dequantized_operands() -> None:
    products = [*graph().of("Conv"), *graph().of("MatMul")]
    assert len(products) == 6
    assert all(graph().before(name) == "DequantizeLinear" for n in products for name in n.input[:2])


def test_weights_have_a_scale_for_each_output_channel() -> None:
    for product, axis in (*((n, 0) for n in graph().of("Conv")), (graph().of("MatMul")[0], 1)):
        restored = graph().producer[product.input[1]]
        assert [a.i for a in restored.attribute if a.name == "axis"] == [axis]
        assert graph().arrays[restored.input[1]].shape == (graph().arrays[restored.input[0]].shape[axis],)


def test_biases_stay_float() -> None:
    assert all(graph().arrays[n.input[2]].dtype == np.float32 for n in graph().of("Conv"))
    added = graph().of("Add")[-1]
    assert any(name in graph().arrays and graph().arrays[name].dtype == np.float32 for name in added.input)


def test_nothing_lies_between_a_conv_and_what_fuses_with_it() -> None:
    behind = [graph().behind(n.output[0]) for n in graph().of("Conv")]
    # Of two convolutions that one Add joins, it fuses with the first.
    assert behind == [{"Relu"}, {"Relu"}, {"Add"}, {"Add"}, {"QuantizeLinear"}]


def test_the_other_operand_of_a_residual_add_is_quantized() -> None:
    adds = graph().of("Add")[:2]
    assert [[graph().before(name) for name in n.input] for n in adds] == [["Conv", "DequantizeLinear"]] * 2


def test_nothing_else_is_quantized() -> None:
    others = [n for op in ("MaxPool", "Flatten", "Softmax") for n in graph().of(op)]
    assert all(graph().before(n.input[0]) != "DequantizeLinear" for n in others)


def test_the_result_is_near_that_in_float() -> None:
    done = write(net(), _FED, "tensorrt")
    assert sqnr(run(net(), _FED), run(done.data, _FED, optimize=False)) > 25


def test_weights_of_4_bits_are_int4_in_blocks_without_zero_points() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (4, 64)}, ["y"], {"w": weights(64, 64)})
    fed = samples(4, x=(4, 64))
    done = write(proto, fed, "tensorrt", mode="weight-only", bits=4)
    made = onnx.load_from_string(done.data)
    restore, _ = made.graph.node
    stored = {t.name: t.data_type for t in made.graph.initializer}
    assert (restore.op_type, stored[restore.input[0]]) == ("DequantizeLinear", onnx.TensorProto.INT4)
    assert len(restore.input) == 2
    assert sqnr(run(proto, fed), run(done.data, fed)) > 15
