"""The inputs and outputs of a node that become float16 with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from qtool.graph.load import from_model
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.view import View, opset_of
from qtool.plan.fp16.ports import ports_of
from qtool.plan.model import Fp16Node
from qtool.tables.float16 import CONTRIB, NEVER
from tests.graphs import node
from tests.plan.build import model

IMAGE = (1, 4, 8, 8)
F = np.float32


def ports(proto: onnx.ModelProto) -> Fp16Node | str | None:
    """Of the last node."""
    loaded = from_model(proto).model
    infer_shapes(loaded)
    return ports_of(View(loaded).main_nodes[-1], opset_of(loaded))


def one(
    op: str, inputs: dict[str, np.ndarray], outputs: int = 1, opset: int = 21, **attributes: object
) -> onnx.ModelProto:
    """A model of one node that reads x and constants."""
    names = [f"y{i}" for i in range(outputs)]
    made = node(op, ["x", *inputs], names, **attributes)
    return model([made], {"x": IMAGE}, names, inputs, opset=opset)


ROWS = {
    "Relu": (one("Relu", {}), Fp16Node((0,), (0,))),
    "Conv": (one("Conv", {"w": np.ones((4, 4, 1, 1), F), "b": np.ones(4, F)}), Fp16Node((0, 1, 2), (0,))),
    "Reshape": (one("Reshape", {"s": np.array([-1])}), Fp16Node((0,), (0,))),
    "Resize": (one("Resize", {"roi": np.ones(0, F), "scales": np.ones(4, F)}), Fp16Node((0,), (0,))),
    "GridSample": (one("GridSample", {"grid": np.zeros((1, 8, 8, 2), F)}), Fp16Node((0,), (0,))),
    "Shape": (one("Shape", {}), None),
    "Greater": (one("Greater", {"c": np.ones(1, F)}), Fp16Node((0, 1), ())),
    "ArgMax": (one("ArgMax", {}, axis=1), Fp16Node((0,), ())),
    "TopK": (one("TopK", {"k": np.array([2])}, 2), Fp16Node((0,), (0,))),
    "Split": (one("Split", {}, 2, axis=1, num_outputs=2), Fp16Node((0,), (0, 1))),
    "Range": (model([node("Range", ["a", "b", "c"], ["y"])], {}, ["y"], {k: F(i) for i, k in enumerate("abc")}), "its output 'y' can't be float16"),
    "LayerNormalization": (one("LayerNormalization", {"s": np.ones(8, F)}, 1), Fp16Node((0, 1), (0,))),
    "LayerNormalization-mean": (one("LayerNormalization", {"s": np.ones(8, F)}, 2), "its output 'y1' can't be float16"),
    "Cast-to-integers": (one("Cast", {}, to=TensorProto.INT64), None),
    "QuantizeLinear": (one("QuantizeLinear", {"s": F(1), "z": np.int8(0)}), "it quantizes, with float32 scales"),
    "ScatterND": (one("ScatterND", {"i": np.zeros((1, 4), np.int64), "u": np.ones(1, F)}), Fp16Node((0, 2), (0,))),
    "ScatterND-add": (one("ScatterND", {"i": np.zeros((1, 4), np.int64), "u": np.ones(1, F)}, reduction="add"), NEVER["ScatterND/reduction=add"]),
    "RoiAlign": (one("RoiAlign", {"r": np.ones((1, 4), F), "i": np.array([0])}), NEVER["RoiAlign"]),
    "EyeLike": (model([node("EyeLike", ["x"], ["y"])], {"x": (3, 3)}, ["y"]), NEVER["EyeLike"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_ports(case: str) -> None:
    proto, wanted = ROWS[case]
    assert ports(proto) == wanted


@pytest.mark.parametrize("op", sorted(k.partition("::")[2] for k in CONTRIB)[::3])
def test_contrib_ops_follow_the_table(op: str) -> None:
    made = helper.make_node(op, ["x", "c"], ["y0"], domain="com.microsoft", name="own")
    proto = model([made, node("Relu", ["y0"], ["z"])], {"x": IMAGE}, ["z"], {"c": np.ones(8, F)})
    loaded = from_model(proto).model
    own = View(loaded).node_by_name["own"]
    infer_shapes(loaded)
    if own.outputs[0].type is None:
        assert ports_of(own, 17) == "the type of 'y0' is not known"
        own.outputs[0].type = own.inputs[0].type  # type: ignore[union-attr]
    assert ports_of(own, 17) == Fp16Node((0, 1), (0,))


def test_ops_of_other_domains_stay_float32() -> None:
    made = helper.make_node("Thing", ["x"], ["y"], domain="somebody", name="own")
    proto = model([made], {"x": IMAGE}, ["y"])
    assert ports(proto) == "no schema tells whether somebody::Thing computes in float16"


def test_sequences_stay_float32() -> None:
    nodes = [node("SplitToSequence", ["x"], ["s"], axis=1), node("ConcatFromSequence", ["s"], ["y"], axis=1)]
    loaded = from_model(model(nodes, {"x": IMAGE}, ["y"])).model
    indexed = View(loaded)
    indexed.values["s"].type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))
    for each in indexed.nodes:
        assert ports_of(each, 17) == "it handles sequences or optionals, whose tensors stay float32"
