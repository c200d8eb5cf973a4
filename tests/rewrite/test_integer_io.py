"""A model that takes and gives integers: what it computes, and what its metadata says of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from qtool.evaluate.float_io import with_float_io
from qtool.graph.save import to_bytes
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.model import Kind, Site
from qtool.plan.scheme import ACTIVATION_TYPES
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.rewrite.integer_io import METADATA_KEY, io_params
from qtool.rewrite.write import rewrite
from qtool.runtime.session import Session
from qtool.tables.qtypes import INT8, PER_TENSOR, UINT8, QType, TensorSpec
from qtool.tables.targets import TARGETS
from tests.exact import exact, exact_products
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model
from tests.rewrite.flow import Written, run, sqnr, write
from tests.targets import COMMON
from tests.tiers import examples, in_turn

LAW = settings(deadline=None, max_examples=examples(100), derandomize=True, database=None)
IO = ("uint8", "int8")
TENSOR = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
IMAGE: dict[str, Sequence[int | str]] = {"x": [1, 16, 6, 6]}
KERNELS = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(3)}


@dataclass(frozen=True)
class Graph:
    """A graph, the shapes of its samples, and which of its ports stay as they are."""

    nodes: list[onnx.NodeProto]
    outputs: tuple[str, ...] = ("y",)
    inputs: dict[str, Sequence[int | str]] = field(default_factory=lambda: IMAGE)
    constants: dict[str, np.ndarray] = field(default_factory=lambda: KERNELS)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    floats: frozenset[str] = frozenset()


def conv(source: str, out: str, index: int = 0) -> onnx.NodeProto:
    return node("Conv", [source, f"w{index}"], [out], **CONV)


MATRIX = {"w": weights(64, 48), "b": weights(48), "v": weights(48, 32, seed=1)}
GRAPHS: dict[str, Graph] = {
    "one-conv": Graph([conv("x", "y")]),
    "two-convs": Graph([conv("x", "a"), node("Relu", ["a"], ["r"]), conv("r", "y", 1)]),
    "relu-at-the-end": Graph([conv("x", "a"), node("Relu", ["a"], ["y"])]),
    "float-first": Graph([node("Sin", ["x"], ["s"]), conv("s", "y")]),
    "float-last": Graph([conv("x", "a"), node("Sin", ["a"], ["y"])]),
    "all-float": Graph([node("Sin", ["x"], ["y"])]),
    "two-readers-of-the-input": Graph([conv("x", "a"), node("Sin", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]),
    "output-read-on": Graph([conv("x", "y"), conv("y", "z", 1)], ("z", "y")),
    "outputs-int8-and-float": Graph([conv("x", "y"), node("Sin", ["y"], ["z"])], ("y", "z")),
    "maxpool-first": Graph([node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]), conv("p", "y")]),
    "maxpool-last": Graph([conv("x", "a"), node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2])]),
    "float-maxpool-last": Graph(
        [conv("x", "a"), node("Sin", ["a"], ["s"]), node("MaxPool", ["s"], ["y"], kernel_shape=[2, 2])]
    ),
    "reshape-last": Graph([conv("x", "a"), node("Flatten", ["a"], ["y"])]),
    "two-inputs": Graph(
        [conv("x", "a"), conv("z", "b", 1), node("Add", ["a", "b"], ["y"])], inputs={**IMAGE, "z": [1, 16, 6, 6]}
    ),
    "matmul": Graph(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), node("Relu", ["a"], ["r"]), node("MatMul", ["r", "v"], ["y"])],
        inputs={"x": ["N", 64]}, constants=MATRIX, shapes={"x": (5, 64)},
    ),
    "gemm": Graph([node("Gemm", ["x", "w", "b"], ["y"])], inputs={"x": ["N", 64]}, constants=MATRIX, shapes={"x": (5, 64)}),
    "an-input-handed-through": Graph(
        [conv("x", "y")], ("y", "z"), inputs={**IMAGE, "z": [1, 16, 6, 6]}, floats=frozenset({"z"})
    ),
}  # fmt: skip
EVERY = in_turn(GRAPHS, IO, COMMON)


@cache
def written(name: str, io: str, target: str, **choices: Any) -> Written:
    graph = GRAPHS[name]
    proto = model(graph.nodes, graph.inputs, graph.outputs, graph.constants, output_rank=4)
    for output in proto.graph.output:
        for fed in proto.graph.input:
            if fed.name == output.name:
                output.CopyFrom(fed)
    shapes = graph.shapes or {k: tuple(v) for k, v in graph.inputs.items()}
    return write(proto, samples(4, **shapes), target, io=io, **choices)


def described(proto: onnx.ModelProto) -> dict[str, Any]:
    return json.loads({p.key: p.value for p in proto.metadata_props}[METADATA_KEY])


def params(row: dict[str, Any]) -> QParams:
    return QParams(np.asarray(row["scale"], np.float32), np.asarray(row["zero_point"], np.int64))


def full_range(io: str) -> QType:
    limits = np.iinfo(io)
    return QType(io, io, 8, int(limits.min), int(limits.max))


@pytest.mark.parametrize(("name", "io", "target"), EVERY)
def test_each_graph(name: str, io: str, target: str) -> None:
    graph, done = GRAPHS[name], written(name, io, target)
    _keeps_names_order_and_shapes(graph, done, io)
    rows = described(done.proto)
    _describes_each_integer(graph, done, rows, io)
    wanted = run(done.original, done.samples)
    fed = [
        {k: quantize(v, params(rows[k]), full_range(io)) if k in rows else v for k, v in s.items()}
        for s in done.samples
    ]
    for optimize in (True, False):
        raw = run(done.data, fed, optimize)
        got = [{k: dequantize(v, params(rows[k])) if k in rows else v for k, v in o.items()} for o in raw]
        assert sqnr(wanted, got) > 25 or not exact()


def _keeps_names_order_and_shapes(graph: Graph, done: Written, io: str) -> None:
    """Float inputs and outputs become integers, and nothing else about them changes."""
    onnx.checker.check_model(done.proto, full_check=True)
    before, after = done.original.graph, done.proto.graph
    for old, new in ((before.input, after.input), (before.output, after.output)):
        assert [v.name for v in new] == [v.name for v in old]
        types = [v.type.tensor_type.elem_type for v in new]
        assert types == [TensorProto.FLOAT if v.name in graph.floats else TENSOR[io] for v in old]
    assert [v.type.tensor_type.shape for v in after.input] == [v.type.tensor_type.shape for v in before.input]


def _describes_each_integer(graph: Graph, done: Written, rows: dict[str, Any], io: str) -> None:
    """The metadata has the type, scale and zero point of each; users read it in the runtime, too."""
    assert rows.keys() == {*graph.inputs, *graph.outputs} - graph.floats
    limits = np.iinfo(io)
    for row in rows.values():
        assert row.keys() == {"type", "scale", "zero_point"}
        assert row["type"] == io
        assert row["scale"] > 0
        assert np.float32(row["scale"]) == row["scale"]
        assert limits.min <= row["zero_point"] <= limits.max
    assert json.loads(Session(done.data).metadata[METADATA_KEY]) == rows


@pytest.mark.parametrize(("name", "target"), in_turn(GRAPHS, COMMON))
def test_both_types_say_the_same(name: str, target: str) -> None:
    """uint8 and int8 integers of one value are 128 apart, at one scale; the outputs agree to the bit."""
    a, b = written(name, "uint8", target), written(name, "int8", target)
    rows = described(a.proto), described(b.proto)
    for port, row in rows[0].items():
        assert rows[1][port]["scale"] == row["scale"]
        assert rows[1][port]["zero_point"] == row["zero_point"] - 128
    sessions = [with_float_io(Session(w.data, threads=1)) for w in (a, b)]
    for sample in a.samples:
        for x, y in zip(*(s.run(sample) for s in sessions), strict=True):
            np.testing.assert_array_equal(x, y)


def shown(done: Written) -> list[str]:
    """The float ops between the ports and the first and last integers."""
    producers = {o: n.op_type for n in done.proto.graph.node for o in n.output}
    readers = Counter(n.op_type for n in done.proto.graph.node for i in n.input if i == "x")
    return [*readers, producers["y"]]


@pytest.mark.parametrize(
    ("name", "io", "target"), in_turn(product(["one-conv", "two-convs", "gemm"], IO), COMMON)
)
def test_no_integer_is_quantized_twice(name: str, io: str, target: str) -> None:
    """A port of the activations' own type is read by the DQ and made by the Q; another needs one pair more."""
    done = written(name, io, target)
    assert shown(done) == ["DequantizeLinear", "QuantizeLinear"]
    held = Counter(n.op_type for n in done.proto.graph.node)
    plan_ports = 2
    own = TARGETS[target].activation.name == io
    sites = [s for s in done.plan.sites if s.kind is Kind.ACTIVATION]
    assert held["QuantizeLinear"] == len(sites) - 1 + (0 if own else plan_ports)


@pytest.mark.parametrize(
    ("acts", "io", "symmetric", "target"),
    in_turn([t.name for t in ACTIVATION_TYPES], IO, [False, True], COMMON),
)
@exact_products
def test_any_activations_can_stand_behind_the_ports(acts: str, io: str, symmetric: bool, target: str) -> None:
    done = written("two-convs", io, target, acts=acts, symmetric=symmetric)
    session = with_float_io(Session(done.data, threads=1))
    got = [dict(zip(session.outputs, session.run(s), strict=True)) for s in done.samples]
    assert sqnr(run(done.original, done.samples), got) > 25


@pytest.mark.parametrize("target", COMMON)
@pytest.mark.parametrize("io", IO)
def test_integer_operators_take_the_ports_as_they_are(io: str, target: str) -> None:
    """With --format qoperator and the activations' own type not one Q or DQ is left."""
    acts = {"acts": io, "weights": "int8", "format": "qoperator"}
    done = written("two-convs", io, target, **acts)
    left = {n.op_type for n in done.proto.graph.node}
    assert "QLinearConv" in left
    assert not left & {"QuantizeLinear", "DequantizeLinear"}
    twin = written("two-convs", io, target, acts=io, weights="int8")
    assert described(done.proto) == described(twin.proto)
    sessions = [with_float_io(Session(w.data, threads=1)) for w in (done, twin)]
    step = described(done.proto)["y"]["scale"]
    for sample in done.samples:
        (a,), (b,) = (s.run(sample) for s in sessions)
        assert np.abs(a - b).max() <= step * 1.001


def test_the_plan_names_the_inputs_and_outputs_that_become_integers() -> None:
    done = written("two-convs", "uint8", "cpu").candidate
    assert done.plan.integer_ports == ("x", "y")
    assert from_json(to_json(done.plan), "plan.json").integer_ports == ("x", "y")
    assert validate_plan(done.plan, done.model.view) == ""
    assert "'r'" in validate_plan(replace(done.plan, integer_ports=("r",)), done.model.view)
    one_output = onnx.load_from_string(
        to_bytes(rewrite(done.model.model, replace(done.plan, integer_ports=("y",))))
    )
    types = [v.type.tensor_type.elem_type for v in (*one_output.graph.input, *one_output.graph.output)]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8], "the writer follows the plan"


def test_inputs_of_other_types_stay() -> None:
    nodes = [
        node("Gather", ["t", "ids"], ["e"]),
        node("Add", ["e", "x"], ["a"]),
        node("MatMul", ["a", "w"], ["y"]),
    ]
    proto = model(nodes, {"ids": [4], "x": [4, 64]}, ["y"], {"t": weights(64, 64), "w": weights(64, 48)})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    fed = [{"ids": rng(i).integers(0, 64, 4), **s} for i, s in enumerate(samples(4, x=(4, 64)))]
    done = write(proto, fed, "cpu", io="int8")
    types = {i.name: i.type.tensor_type.elem_type for i in done.proto.graph.input}
    assert types == {"ids": TensorProto.INT64, "x": TensorProto.INT8}
    assert described(done.proto).keys() == {"x", "y"}


@pytest.mark.parametrize("target", COMMON)
def test_without_integer_ports_there_is_no_metadata(target: str) -> None:
    done = written("one-conv", "float", target)
    assert METADATA_KEY not in {p.key for p in done.proto.metadata_props}


@LAW
@given(
    st.sampled_from(ACTIVATION_TYPES),
    st.sampled_from([UINT8, INT8]),
    st.floats(2**-20, 2**20, width=32),
    st.data(),
)
def test_integer_ports_cover_every_level_of_their_site(
    own: QType, io: QType, scale: float, data: st.DataObject
) -> None:
    """Every float that the site tells apart lies within half a step of an integer of the port."""
    zero = data.draw(st.integers(own.qmin, own.qmax))
    qparams = QParams(np.asarray(scale, np.float32), np.asarray(zero, np.int64))
    site = Site("x", Kind.ACTIVATION, None, TensorSpec(own, PER_TENSOR, symmetric=False), qparams=qparams)
    moved = io_params(site, io)
    q = np.linspace(own.qmin, own.qmax, 256).round().astype(own.dtype)
    x = dequantize(q, qparams)
    back = dequantize(quantize(x, moved, full_range(io.name)), moved)
    tolerance = 0.0 if own.bits == 8 else 0.5 * float(moved.scale)
    assert np.abs(back.astype(np.float64) - x).max() <= tolerance + 1e-6 * np.abs(x).max()
    assert quantize(np.zeros(1, np.float32), moved, full_range(io.name))[0] == moved.zero_point
