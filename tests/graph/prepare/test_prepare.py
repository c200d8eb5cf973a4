"""The whole recipe: the same results, a model that is not touched, and nothing left to do afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.graph.load import from_proto
from qtool.graph.prepare import ONNXRUNTIME_PASSES, PASSES, prepare
from qtool.graph.prepare.opset import QDQ_OPSET
from qtool.graph.view import View, opset_of
from tests.graph.prepare import test_gelu, test_norms, test_opset
from tests.graph.prepare.alike import (
    Feed,
    applied,
    assert_alike,
    both_branches,
    feeds,
    foreign,
    graph_with_if,
    ops,
    subgraph,
    value_info,
)
from tests.graph.prepare.test_batchnorm import norm, statistics
from tests.graphs import model, node, samples, weights
from tests.tiers import examples

SHAPE = (1, 3, 8, 8)


def cnn() -> onnx.ModelProto:
    """Something for most passes at once."""
    return model(
        [
            node("Identity", ["x"], ["i"]),
            node("Conv", ["i", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            norm("c1", "n1"),
            node("Relu", ["n1"], ["r1"]),
            node("Slice", ["r1", "zero", "end", "two", "step"], ["s1"]),
            node("Slice", ["s1", "zero", "end", "three", "step"], ["s2"]),
            node("Conv", ["s2", "w2"], ["c2"]),
            node("Add", ["c2", "bias"], ["a2"]),
            node("AveragePool", ["a2"], ["p"], kernel_shape=[4, 4]),
            node("Flatten", ["p"], ["f"]),
            node("Transpose", ["w3"], ["w3t"], perm=[1, 0]),
            node("Gemm", ["f", "w3t", "b3"], ["g"], alpha=0.5, beta=2.0),
            node("Dropout", ["g"], ["d"]),
            node("Softmax", ["d"], ["y"]),
        ],
        {"x": SHAPE},
        ["y"],
        {
            "w1": weights(5, 3, 3, 3),
            **statistics(5),
            "w2": weights(6, 5, 1, 1),
            "bias": weights(6, 1, 1),
            "w3": weights(4, 6),
            "b3": weights(4),
            "zero": np.array([0]),
            "end": np.array([2**63 - 1]),
            "two": np.array([2]),
            "three": np.array([3]),
            "step": np.array([2]),
        },
    )


def old() -> onnx.ModelProto:
    """IR 3 and opset 8: initializers are inputs, Dropout has a ratio, axes are attributes."""
    made = test_opset.old(8)
    made.ir_version = 3
    for tensor in made.graph.initializer:
        made.graph.input.append(value_info(tensor.name, list(tensor.dims)))
    onnx.checker.check_model(made)
    return made


def branching() -> onnx.ModelProto:
    """Weights of the outer graph, constants of the inner ones; both branches use the same names."""

    def branch(op: str) -> onnx.GraphProto:
        constant = onnx.numpy_helper.from_array(np.float32(2), "k")
        return subgraph(
            [
                node("Constant", [], ["k"], value=constant),
                node("Identity", ["c"], ["i"]),
                node("Conv", ["i", "w2"], ["h"]),
                node("Mul", ["h", "k"], ["m"]),
                node(op, ["m"], ["out"]),
            ],
            {"out": (1, 4, 8, 8)},
        )

    return graph_with_if(
        [node("Conv", ["x", "w1"], ["c"])],
        branch("Relu"),
        branch("Tanh"),
        {"x": SHAPE},
        (1, 4, 8, 8),
        {"w1": weights(5, 3, 1, 1), "w2": weights(4, 5, 1, 1)},
    )


def transformer_bits() -> onnx.ModelProto:
    gelu = [*test_gelu.INNER["pow"], *test_gelu.OUTER["half-first"]]
    constants = {k: v for k, v in test_gelu.CONSTANTS.items() if any(k in n.input for n in gelu)}
    return model(
        [
            *gelu,
            node("Add", ["g", "x"], ["residual"]),
            node("LayerNormalization", ["residual", "gamma", "beta"], ["y"]),
        ],
        {"x": (2, 4, 8)},
        ["y"],
        {**constants, **test_norms.STATS},
    )


def no_elements() -> onnx.ModelProto:
    return model(
        [node("Concat", ["x", "none"], ["c"], axis=0), node("Relu", ["c"], ["y"])],
        {"x": ("n", 3)},
        {"y": ("n", 3)},
        {"none": np.zeros((0, 3), np.float32)},
    )


def passes_through() -> onnx.ModelProto:
    """An input, and a constant, that are outputs by an Identity."""
    return model(
        [node("Identity", ["x"], ["y"]), node("Identity", ["w"], ["z"])],
        {"x": (2, 3)},
        ["y", "z"],
        {"w": weights(3)},
    )


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f for f in (cnn, old, branching, transformer_bits, no_elements, passes_through)
}
RUNTIME = pytest.mark.parametrize("onnxruntime", [False, True], ids=["any-runtime", "onnxruntime"])
EVERY_MODEL = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def feeds_for(proto: onnx.ModelProto) -> list[Feed]:
    if proto.graph.input[0].name == "pick":
        return both_branches(samples(2, x=SHAPE))
    return list(feeds(proto))


def data(model_: ir.Model) -> bytes:
    return ir.to_proto(model_).SerializeToString(deterministic=True)


@RUNTIME
@EVERY_MODEL
def test_the_laws_of_preparing(make: Callable[[], onnx.ModelProto], onnxruntime: bool) -> None:
    """The same results, names and types; the original unchanged; the same bytes again; then nothing left to do."""
    proto = make()
    original = from_proto(proto)
    before = data(original)
    prepared = prepare(original, onnxruntime=onnxruntime)
    assert data(original) == before
    assert_alike(proto, prepared.model, feeds_for(proto))

    initializers = {t.name for t in proto.graph.initializer}
    inputs, outputs = prepared.model.graph.inputs, prepared.model.graph.outputs
    assert [v.name for v in inputs] == [v.name for v in proto.graph.input if v.name not in initializers]
    assert [(v.name, v.dtype) for v in outputs] == [
        (v.name, v.type.tensor_type.elem_type) for v in proto.graph.output
    ]
    view = View(prepared.model)
    assert len(view.node_by_name) == len(view.nodes)
    assert all(view.values[v.name or ""] is v for n in view.nodes for v in n.outputs)

    repeated = prepare(from_proto(proto), onnxruntime=onnxruntime)
    assert (repeated.notes, data(repeated.model)) == (prepared.notes, data(prepared.model))
    twice = prepare(prepared.model, onnxruntime=onnxruntime)
    assert (twice.notes, ops(twice.model)) == ((), ops(prepared.model))


def test_every_pass_applies_to_one_network() -> None:
    made = prepare(from_proto(cnn()))
    expected = ["Conv", "Relu", "Slice", "Conv", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"]
    assert ops(made.model) == expected
    assert len(made.notes) >= 6


def test_old_models_are_converted_and_initializers_are_not_inputs() -> None:
    made = prepare(from_proto(old())).model
    assert opset_of(made) == QDQ_OPSET
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert "BatchNormalization" not in ops(made)


def test_onnxruntime_forms_are_for_its_targets_only() -> None:
    proto = transformer_bits()
    plain, fused = (prepare(from_proto(proto), onnxruntime=o).model for o in (False, True))
    assert {n.domain for n in plain.graph} == {""}
    assert ops(fused) == ["FastGelu", "Sum", "LayerNormalization"]


@pytest.mark.parametrize("make", [cnn, transformer_bits])
def test_ops_of_another_domain_with_the_same_names_stay(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    for op in {n.op_type for n in proto.graph.node}:
        renamed = foreign(proto, op)
        del renamed.graph.value_info[:]
        prepared = prepare(from_proto(renamed), onnxruntime=True).model
        for a_model in (prepared, *(applied(renamed, step)[0] for step in ONNXRUNTIME_PASSES)):
            kept = [n.domain for n in a_model.graph if n.op_type == op]
            assert kept.count("some.vendor") == [n.op_type for n in proto.graph.node].count(op), op


@EVERY_MODEL
def test_every_pass_alone_keeps_the_results(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    for step in {*PASSES, *ONNXRUNTIME_PASSES}:
        changed = from_proto(proto)
        before = data(changed)
        step(changed)
        if data(changed) != before:
            assert_alike(proto, changed, feeds_for(proto))


# Random chains of small ops: whatever comes after whatever.

STEPS: dict[str, Callable[[str, str], list[onnx.NodeProto]]] = {
    "conv": lambda a, b: [node("Conv", [a, "w"], [b], pads=[1, 1, 1, 1])],
    "conv-bias": lambda a, b: [node("Conv", [a, "w", "cb"], [b], pads=[1, 1, 1, 1])],
    "up": lambda a, b: [node("ConvTranspose", [a, "w"], [b], pads=[1, 1, 1, 1])],
    "norm": lambda a, b: [norm(a, b)],
    "add-channel": lambda a, b: [node("Add", [a, "v"], [b])],
    "mul-channel": lambda a, b: [node("Mul", ["v", a], [b])],
    "mul-scalar": lambda a, b: [node("Mul", [a, "k"], [b])],
    "relu": lambda a, b: [node("Relu", [a], [b])],
    "identity": lambda a, b: [node("Identity", [a], [b])],
    "dropout": lambda a, b: [node("Dropout", [a], [b])],
    "residual": lambda a, b: [node("Add", [a, "x"], [b])],
    "square": lambda a, b: [node("Mul", [a, a], [b])],
    "slice-rows": lambda a, b: [node("Slice", [a, "zero", "four", "two"], [b])],
    "slice-columns": lambda a, b: [node("Slice", [a, "zero", "four", "three"], [b])],
    "transposed-twice": lambda a, b: [
        node("Transpose", [a], [f"{b}_t"], perm=[0, 1, 3, 2]),
        node("Transpose", [f"{b}_t"], [b], perm=[0, 1, 3, 2]),
    ],
}
CHAIN_CONSTANTS = {
    "w": weights(3, 3, 3, 3) * 3,
    "cb": weights(3),
    **statistics(3),
    "v": weights(1, 3, 1, 1, seed=4) + 1,
    "k": np.float32(0.5),
    "zero": np.array([0]),
    "four": np.array([4]),
    "two": np.array([2]),
    "three": np.array([3]),
}


@settings(deadline=None, max_examples=examples(25), derandomize=True, database=None)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7),
    kept=st.sets(st.integers(0, 6)),
)
def test_any_chain_of_ops_computes_the_same_and_is_not_changed(steps: list[str], kept: set[int]) -> None:
    nodes, last = [], "x"
    for index, step in enumerate(steps):
        nodes += STEPS[step](last, f"v{index}")
        last = f"v{index}"
    outputs = sorted({f"v{i}" for i in kept if i < len(steps)} | {last})
    read = {name for n in nodes for name in n.input}
    # All maps are 4 x 4, so that slices and residuals fit wherever they come.
    proto = model(
        nodes, {"x": (1, 3, 4, 4)}, outputs, {k: v for k, v in CHAIN_CONSTANTS.items() if k in read}
    )
    original = from_proto(proto)
    before = data(original)
    prepared = prepare(original, onnxruntime=True)
    assert data(original) == before
    assert_alike(proto, prepared.model, list(feeds(proto, 1)), rtol=2e-4)
