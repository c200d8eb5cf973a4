"""The shape of the graph: who is an input, an output, both, or neither; names; what is recorded of values."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.sweep.specimen import ALL, Specimen, array, edits, floats, ints, renamed, scalar, shapeless

_MLP = """(float[N, 64] x) => (float[N, 64] y) {
    a = MatMul(x, w)
    b = Relu(a)
    y = MatMul(b, v)
}"""
_SQUARE = {"w": (64, 64), "v": (64, 64)}


def _weights_as_inputs(model: ModelProto) -> None:
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )


def _nameless(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def _all_nodes_alike(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = "node"


def _documented(model: ModelProto) -> None:
    model.doc_string, model.graph.doc_string = "of the model", "of the graph"
    model.producer_name, model.producer_version, model.domain, model.model_version = "zoo", "7", "org.zoo", 3
    helper.set_model_props(model, {"names": '{"0": "cat"}', "qtool.mode": "old", "": "an empty key"})
    for node in model.graph.node:
        node.doc_string = "of a node"
        node.metadata_props.add(key="k", value="v")
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = "of a value"


def _info(
    model: ModelProto, name: str, shape: list[int | str] | None, dtype: int = TensorProto.FLOAT
) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info(name, dtype, shape))


def _stale(model: ModelProto) -> None:
    """Shapes that somebody recorded before the graph was changed."""
    _info(model, "a", [7, 64])
    _info(model, "b", [9, "M"])


def _unused_info(model: ModelProto) -> None:
    _info(model, "nobody", [1])
    _info(model, "w", [64, 64])
    _info(model, "a", None)


def _swapped(model: ModelProto) -> None:
    """Outputs in another order than they are made."""
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(reversed(outputs))


def _many_imports(model: ModelProto) -> None:
    for domain in ("com.microsoft", "ai.onnx.ml", "org.unknown", "ai.onnx.preview.training"):
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _standard_by_its_long_name(model: ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))


def _twice(model: ModelProto) -> None:
    """A weight under two names, byte for byte."""
    model.graph.initializer.append(numpy_helper.from_array(array("w", (64, 64)), "w_copy"))
    model.graph.node[2].input[1] = "w_copy"


def _chain(count: int) -> str:
    ops = ("Neg", "Abs", "Relu", "Sigmoid", "Tanh")
    lines = [f"n{i} = {ops[i % len(ops)]}(n{i - 1})" for i in range(1, count)]
    return "\n".join(("n0 = MatMul(x, w)", *lines, f"y = MatMul(n{count - 1}, v)"))


def _wide(count: int) -> str:
    made = [f"n{i} = Add(x, c{i})" for i in range(count)]
    return "\n".join((*made, f"s = Sum({', '.join(f'n{i}' for i in range(count))})", "y = MatMul(s, w)"))


def _raw_and_typed(model: ModelProto) -> None:
    """One weight in raw bytes, the other in the field of its type, as some converters write."""
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.ravel()))


GRAPHS: dict[str, Specimen] = {
    "plain": Specimen(_MLP, _SQUARE),
    "ir3": Specimen(_MLP, _SQUARE, ir=3, opset=8),
    "ir3-conv": Specimen(
        """(float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
            n = BatchNormalization(c, gain, shift, mean, var)
            y = Relu(n)
        }""",
        {
            "w": (8, 8, 3, 3),
            "b": (8,),
            "gain": (8,),
            "shift": (8,),
            "mean": (8,),
            "var": np.ones(8, np.float32),
        },
        ir=3,
        opset=7,
    ),
    "ir8-weights-are-inputs": Specimen(_MLP, _SQUARE, edit=_weights_as_inputs),
    "nothing-in-it": Specimen("(float[N, 4] x) => (float[N, 4] x) { }", idle=ALL),
    "only-identity": Specimen("(float[N, 4] x) => (float[N, 4] y) { y = Identity(x) }", idle=ALL),
    "identity-chain": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = Identity(x) b = Identity(a) c = MatMul(b, w) y = Identity(c) }",
        {"w": (64, 64)},
    ),
    "identity-of-a-weight": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[64, 64] z) { y = MatMul(x, w) z = Identity(w) }",
        {"w": (64, 64)},
    ),
    "input-is-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[N, 64] x) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "input-is-output-only": Specimen(
        "(float[N, 64] x, float[2] z) => (float[2] z, float[N, 64] y) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "unused-input": Specimen(
        "(float[N, 64] x, float[M, 3] z) => (float[N, 64] y) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "no-inputs": Specimen("() => (float[2, 64] y) { y = MatMul(a, w) }", {"a": (2, 64), "w": (64, 64)}),
    "constant-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[2] c) { y = MatMul(x, w) c = Constant<value = float[2] {1.5, -2.0}>() }",
        {"w": (64, 64)},
    ),
    "computed-constant-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[64, 64] c) { y = MatMul(x, w) c = MatMul(w, w) }",
        {"w": (64, 64)},
    ),
    "weight-is-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[64, 64] w) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "bias-is-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[64] b) { y = Gemm(x, w, b) }", {"w": (64, 64), "b": (64,)}
    ),
    "conv-weight-is-output": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 4, 4] y, float[8, 8, 3, 3] w) { y = Conv(x, w) }",
        {"w": (8, 8, 3, 3)},
    ),
    "only-weight-is-output": Specimen(
        "(float[N, 64] x) => (float[64, 64] w) { y = MatMul(x, w) }", {"w": (64, 64)}, idle=ALL
    ),
    "output-feeds-relu": Specimen(
        "(float[N, 64] x) => (float[N, 64] a, float[N, 64] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }",
        _SQUARE,
    ),
    "conv-output-feeds-relu": Specimen(
        "(float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] c, float[N, 8, 6, 6] r, float[N, 8, 6, 6] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(r, v) }",
        {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3)},
    ),
    "add-output-feeds-two": Specimen(
        "(float[N, 64] x) => (float[N, 64] s, float[N, 64] y, float[N, 64] z) { a = MatMul(x, w) s = Add(a, b) y = Relu(s) z = MatMul(s, v) }",
        {**_SQUARE, "b": (64,)},
    ),
    "same-output-twice": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[N, 64] y) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "outputs-in-another-order": Specimen(
        "(float[N, 64] x) => (float[N, 64] a, float[N, 64] b, float[N, 64] c) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) }",
        _SQUARE,
        edit=_swapped,
    ),
    "every-value-is-output": Specimen(
        "(float[N, 64] x) => (float[N, 64] a, float[N, 64] b, float[N, 64] c, float[N, 64] d) { a = MatMul(x, w) b = Add(a, v) c = Relu(b) d = Add(c, a) }",
        {"w": (64, 64), "v": (64,)},
    ),
    "optional-outputs-missing": Specimen(
        "(float[N, 4, 8, 8] x) => (float[N, 4, 4, 4] y) { c = Conv<pads = [1, 1, 1, 1]>(x, w) y, = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) }",
        {"w": (4, 4, 3, 3)},
    ),
    "dead-branch": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { d = MatMul(x, v) e = Softmax(d) y = MatMul(x, w) }", _SQUARE
    ),
    "unused-weights": Specimen(_MLP, {**_SQUARE, "u": (64, 64), "k": ints(1, 2)}),
    "weight-under-two-ops": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
        {"w": (64, 64)},
    ),
    "weight-on-both-axes": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = Gemm<transB = 1>(x, w) b = Relu(a) y = Gemm(b, w) }",
        {"w": (64, 64)},
    ),
    "weight-twice-in-bytes": Specimen(_MLP, _SQUARE, edit=_twice),
    "bias-under-two-ops": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = Gemm(x, w, b) c = Relu(a) y = Gemm(c, v, b) }",
        {**_SQUARE, "b": (64,)},
    ),
    "bias-also-data": Specimen(
        "(float[N, 64] x) => (float[N, 64] y, float[N, 64] z) { a = Gemm(x, w, b) y = Relu(a) z = Mul(x, b) }",
        {"w": (64, 64), "b": (64,)},
    ),
    "weight-also-data": Specimen(
        "(float[64, 64] x) => (float[64, 64] y, float[64, 64] z) { y = MatMul(x, w) z = Add(x, w) }",
        {"w": (64, 64)},
    ),
    "weight-is-its-own-bias": Specimen(
        "(float[N, 64] x) => (float[64, 64] y) { a = MatMul(x, w) s = ReduceMean<axes = [0], keepdims = 1>(a) y = Add(s, w) }",
        {"w": (64, 64)},
    ),
    "both-operands-one-input": Specimen(
        "(float[64, 64] x) => (float[64, 64] y) { a = MatMul(x, x) b = MatMul(a, w) y = Mul(b, b) }",
        {"w": (64, 64)},
    ),
    "residuals": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) b = Add(a, x) c = Relu(b) d = MatMul(c, v) e = Add(d, b) f = Add(e, x) y = Relu(f) }",
        _SQUARE,
    ),
    "collisions": Specimen(
        _MLP,
        _SQUARE,
        edit=renamed(
            x="w_scale",
            w="w",
            a="w_quantized",
            b="w_zero_point",
            v="w_scale_1",
            y="w_quantized_quantized",
            a_node="w_DequantizeLinear",
            b_node="w_QuantizeLinear",
            y_node="w_float",
        ),
    ),
    "collisions-of-activations": Specimen(
        _MLP,
        _SQUARE,
        edit=renamed(
            w="x_scale",
            a="x_quantized",
            b="x_zero_point",
            v="x_float",
            y="x_dequantized",
            a_node="x",
            b_node="y_node_quantized",
            y_node="x_DynamicQuantizeLinear",
        ),
    ),
    "odd-names": Specimen(
        _MLP,
        _SQUARE,
        edit=renamed(
            x="in put",
            w="/model/0/w:0",
            a="quo\"te'",
            b="new\nline\ttab",
            v="模型;weights?",
            y="ü\\back",
            a_node="{a}%s",
            b_node="--force",
            y_node="*",
        ),
    ),
    "long-names": Specimen(
        _MLP, _SQUARE, edit=renamed(x="x" * 3000, w="w" * 5000, a="a" * 5000, y="y" * 300, a_node="n" * 5000)
    ),
    "numbers-as-names": Specimen(
        _MLP,
        _SQUARE,
        edit=renamed(x="0", w="1", a="2", b="3", v="4", y="5", a_node="0", b_node="1", y_node="2"),
    ),
    "nameless-nodes": Specimen(_MLP, _SQUARE, edit=_nameless),
    "one-name-for-all-nodes": Specimen(
        _MLP, _SQUARE, edit=_all_nodes_alike, refused="two nodes with same node name"
    ),
    "documented": Specimen(_MLP, _SQUARE, edit=_documented),
    "many-imports": Specimen(_MLP, _SQUARE, edit=_many_imports),
    "long-name-of-the-standard": Specimen(
        _MLP, _SQUARE, edit=_standard_by_its_long_name, refused="No Op registered"
    ),
    "stale-shapes": Specimen(_MLP, _SQUARE, edit=_stale),
    "shapes-of-nothing": Specimen(_MLP, _SQUARE, edit=_unused_info),
    "input-without-shape": Specimen(
        _MLP,
        _SQUARE,
        edit=shapeless("x"),
        feeds={"x": lambda r: r.standard_normal((r.integers(1, 9), 64)).astype(np.float32)},
    ),
    "output-without-shape": Specimen(_MLP, _SQUARE, edit=shapeless("y")),
    "no-rank": Specimen(
        "(float[N, 64] x, int64[3] s) => (float[A, B, C] y) { r = Reshape(x, s) a = MatMul(r, w) b = Add(a, c) d = Relu(b) e = MatMul(d, w) y = Add(c, e) }",
        {"w": (64, 64), "c": (64,)},
        feeds={"s": lambda r: ints(1, -1, 64)},
    ),
    "rank-from-data": Specimen(
        "(float[N, 64] x, int64[K] s) => (float[A, 64] y) { t = Concat<axis = 0>(s, k) r = Reshape(x, t) a = MatMul(r, w) b = Add(a, c) d = Relu(b) e = Gemm(x, w) g = Add(d, c) h = ReduceSum<keepdims = 0>(g) y = Add(e, h) }",
        {"w": (64, 64), "c": (64,), "k": ints(-1, 64)},
        feeds={"s": lambda r: np.ones(r.integers(1, 4), np.int64)},
    ),
    "all-axes-free": Specimen(
        "(float[B, C, H, W] x) => (float[B, C, H, W] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }",
        {"w": (8, 8, 3, 3)},
        lengths={"C": 8},
    ),
    "output-says-less": Specimen(
        "(float[N, 64] x) => (float[A, B] y) { a = MatMul(x, w) y = Softmax(a) }", {"w": (64, 64)}
    ),
    "output-says-wrong-rank-names": Specimen(
        "(float[N, 64] x) => (float[N, N] y) { y = MatMul(x, w) }", {"w": (64, 64)}
    ),
    "two-thousand-nodes": Specimen(f"(float[N, 64] x) => (float[N, 64] y) {{ {_chain(2000)} }}", _SQUARE),
    "two-hundred-readers": Specimen(
        f"(float[N, 64] x) => (float[N, 64] y) {{ {_wide(200)} }}",
        {"w": (64, 64), **{f"c{i}": (64,) for i in range(200)}},
    ),
    "typed-fields": Specimen(_MLP, _SQUARE, edit=_raw_and_typed),
    "beside-its-weights": Specimen(_MLP, _SQUARE, file=True),
    "bias-behind-its-weights": Specimen(
        "(float[N, 64] x) => (float[N, 64] y) { y = Gemm(x, w, b) }",
        {"w": (64, 64), "b": floats(*range(64))},
        file=True,
        opset=12,
    ),
    "scalar-everything": Specimen(
        "(float x) => (float y) { a = Mul(x, k) b = Add(a, k) y = Sigmoid(b) }",
        {"k": scalar(0.7)},
        idle=ALL - {"fp16"},
    ),
    "rank-0-and-64": Specimen(
        "(float x, float[N, 64] z) => (float[N, 64] y) { a = Mul(x, z) y = MatMul(a, w) }", {"w": (64, 64)}
    ),
    "odd-and-shapeless": Specimen(
        _MLP, _SQUARE, edit=edits(shapeless("y"), renamed(a="")), refused="invalid"
    ),
}
