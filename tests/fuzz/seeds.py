"""Valid models with samples, for the fuzzer to damage: of ops, control flow, functions and old formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tests.graphs import SAMPLE_MODELS, node, weights
from tests.graphs import model as made
from tests.rewrite.zoo import CASES
from tests.sweep.cases import case as suite_case
from tests.sweep.cases import names


@dataclass(frozen=True)
class Seed:
    """A valid model and samples for it.

    Args:
        document: name and bytes of a file that the program made of them.
    """

    name: str
    files: dict[str, bytes]
    samples: Sequence[dict[str, np.ndarray]]
    document: tuple[str, bytes] | None = None


def branches() -> onnx.ModelProto:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8])
        return helper.make_graph(
            [node("MatMul", ["x", f"w{name}"], [f"h{name}"]), node(op, [f"h{name}"], [name])],
            name,
            [],
            [out],
            [numpy_helper.from_array(weights(8, 8), f"w{name}")],
        )

    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh")),
    ]
    return made(nodes, {"x": (2, 8)}, {"y": (2, 8)}, {"zero": np.float32(0)})


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["v", "w"], ["m"]), node("Tanh", ["m"], ["vo"]), node("Identity", ["ci"], ["co"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("ci", TensorProto.BOOL, []), helper.make_tensor_value_info("v", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("co", TensorProto.BOOL, []), helper.make_tensor_value_info("vo", TensorProto.FLOAT, [2, 8])],
    )  # fmt: skip
    constants = {"n": np.int64(3), "t": np.bool_(True), "w": weights(8, 8)}
    return made([node("Loop", ["n", "t", "x"], ["y"], body=body)], {"x": (2, 8)}, {"y": (2, 8)}, constants)


def functions() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local",
        "Dense",
        ["a", "w"],
        ["b"],
        [node("MatMul", ["a", "w"], ["m"]), node("Relu", ["m"], ["b"])],
        opsets,
    )
    outer = helper.make_function(
        "local",
        "Twice",
        ["a", "w"],
        ["c"],
        [node("Dense", ["a", "w"], ["d"], domain="local"), node("Dense", ["d", "w"], ["c"], domain="local")],
        opsets,
    )
    proto = made([node("Relu", ["x"], ["y"])], {"x": (2, 8)}, {"y": (2, 8)}, {"w": weights(8, 8)})
    proto.graph.node[0].CopyFrom(node("Twice", ["x", "w"], ["y"], domain="local"))
    proto.opset_import.append(opsets[1])
    proto.functions.extend([inner, outer])
    return proto


def old() -> onnx.ModelProto:
    """Opset 9, initializers among the inputs, a Constant node, an opset that has to be raised."""
    value = numpy_helper.from_array(weights(8), "k")
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Constant", [], ["k"], value=value),
        node("Add", ["h", "k"], ["s"]),
        node("Squeeze", ["s3"], ["y"], axes=[0]),
    ]
    nodes.insert(3, node("Unsqueeze", ["s"], ["s3"], axes=[0]))
    return made(nodes, {"x": (2, 8), "w": (8, 8)}, {"y": (2, 8)}, {"w": weights(8, 8)}, opset=9, ir_version=3)


def quantized() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=1), node("MatMul", ["d", "w"], ["y"]),
    ]  # fmt: skip
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "wq": np.arange(64, dtype=np.int8).reshape(8, 8),
        "ws": np.full(8, 0.1, np.float32),
        "wz": np.zeros(8, np.int8),
    }
    return made(nodes, {"x": (2, 8)}, {"y": (2, 8)}, constants)


def external() -> dict[str, bytes]:
    """A model with a file beside it."""
    proto = made(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (2, 8)},
        {"y": (2, 300)},
        {"w": weights(8, 300)},
    )
    data = proto.graph.initializer[0].raw_data
    external_data_helper.set_external_data(proto.graph.initializer[0], "w.bin", 0, len(data))
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return {"m.onnx": proto.SerializeToString(), "w.bin": data}


def seeds() -> list[Seed]:
    random_x = [{"x": np.random.default_rng(i).standard_normal((2, 8)).astype(np.float32)} for i in range(4)]
    valid = [
        Seed(build.__name__, {"m.onnx": build().SerializeToString()}, random_x)
        for build in (branches, loop, functions, old, quantized)
    ]
    valid.append(Seed("external", external(), random_x))
    for name, case in CASES.items():
        valid.append(Seed(name, {"m.onnx": case.build().SerializeToString()}, list(case.samples())[:4]))
    for folder in sorted(SAMPLE_MODELS.glob("*/")):
        if (folder / "model.onnx").exists():
            files = sorted((folder / "calib").glob("*.npz"))[:4]
            samples = [dict(np.load(f)) for f in files]
            valid.append(Seed(folder.name, {"m.onnx": (folder / "model.onnx").read_bytes()}, samples))
    for name in names(every=20):  # of onnx's own suite: ops of all kinds
        case = suite_case(name)
        samples = [] if case.sample is None else [dict(case.sample)] * 2
        valid.append(Seed(name, {"m.onnx": case.model.SerializeToString()}, samples))
    return valid
