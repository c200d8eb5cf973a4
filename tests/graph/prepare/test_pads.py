"""A Pad before a convolution or pool becomes its padding, where the result stays the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare import PASSES
from qtool.graph.prepare.pads import fold_pads
from qtool.graph.prepare.unused import drop_unused
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graphs import model, node, weights

SHAPE = ("n", 3, 7, 6)
RIGHT_BELOW = [0, 0, 0, 0, 0, 0, 1, 1]
AROUND = [0, 0, 1, 2, 0, 0, 2, 1]
CONV = {"strides": [2, 2]}
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}


def padded(
    op: str,
    attributes: dict[str, object],
    pads: list[int] = RIGHT_BELOW,
    *,
    fill: float | None = None,
    before: str = "",
    pad: onnx.NodeProto | None = None,
    axes: list[int] | None = None,
    others: list[onnx.NodeProto] | None = None,
    outputs: list[str] | None = None,
) -> onnx.ModelProto:
    """x (-> an op) -> Pad -> the op."""
    source = "r" if before else "x"
    inputs = [source, "pads"] if fill is None else [source, "pads", "fill"]
    nodes = [
        *([node(before, ["x"], ["r"])] if before else []),
        pad or node("Pad", inputs, ["p"]),
        node(op, ["p", "w"] if op.startswith("Conv") else ["p"], ["y"], **attributes),
        *(others or []),
    ]
    constants = {"pads": np.array(pads), "fill": np.float32(fill or 0), "w": weights(3, 3, 3, 3)}
    constants["axes"] = np.array(axes or [])
    read = {i for n in nodes for i in n.input}
    held = {k: v for k, v in constants.items() if k in read}
    return model(nodes, {"x": SHAPE}, outputs or ["y"], held, opset=18)


@pytest.mark.parametrize(
    ("op", "attributes", "options"),
    [
        ("Conv", CONV, {}),
        ("Conv", {}, {"pads": AROUND, "fill": 0.0}),
        ("Conv", {"auto_pad": "VALID"}, {"pads": AROUND}),
        ("Conv", {"pads": [1, 0, 1, 0]}, {"pads": AROUND}),
        ("Conv", {"dilations": [2, 2]}, {"pads": AROUND}),
        ("AveragePool", POOL, {"pads": AROUND}),
        ("AveragePool", {**POOL, "pads": [1, 0, 0, 1], "count_include_pad": 1}, {}),
        ("MaxPool", POOL, {"fill": -np.inf}),
        ("MaxPool", POOL, {"fill": float(np.finfo(np.float32).min), "pads": AROUND}),
        ("MaxPool", POOL, {"before": "Relu"}),
        ("MaxPool", POOL, {"before": "Sigmoid", "fill": 0.0}),
    ],
)
def test_a_pad_becomes_padding(op: str, attributes: dict[str, object], options: dict[str, object]) -> None:
    proto = padded(op, attributes, **options)  # type: ignore[arg-type]
    made, _ = applied(proto, fold_pads, drop_unused)
    assert ops(made) == [*([options["before"]] if "before" in options else []), op]
    assert_alike(proto, made)


def test_axes_may_be_named() -> None:
    pad = node("Pad", ["x", "pads", "", "axes"], ["p"])
    proto = padded("Conv", CONV, [1, 0, 2, 1], pad=pad, axes=[-1, 2])
    made, _ = applied(proto, fold_pads, drop_unused)
    assert ops(made) == ["Conv"]
    assert_alike(proto, made)


def test_a_pad_that_others_read_stays_for_them() -> None:
    proto = padded("Conv", CONV, others=[node("Relu", ["p"], ["z"])], outputs=["y", "z"])
    made, _ = applied(proto, fold_pads, drop_unused)
    assert ops(made) == ["Pad", "Conv", "Relu"]
    assert made.graph[1].inputs[0] is made.graph.inputs[0]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("op", "attributes", "options"),
    [
        ("Conv", CONV, {"fill": 1.0}),
        ("Conv", CONV, {"pads": [0, 0, -1, 0, 0, 0, 0, 1]}),
        ("Conv", CONV, {"pads": [1, 0, 0, 0, 0, 0, 0, 0]}),
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
        ("Conv", CONV, {"pad": node("Pad", ["x", "pads"], ["p"], mode="reflect")}),
        ("ConvTranspose", {}, {}),
        ("AveragePool", {**POOL, "pads": [1, 1, 1, 1]}, {}),
        ("AveragePool", {**POOL, "ceil_mode": 1}, {}),
        ("AveragePool", POOL, {"pads": [0, 0, 3, 0, 0, 0, 0, 0]}),
        ("AveragePool", POOL, {"fill": -np.inf}),
        ("MaxPool", POOL, {}),
        ("MaxPool", POOL, {"fill": -1.0}),
        ("MaxPool", {**POOL, "pads": [1, 1, 1, 1]}, {"before": "Relu"}),
    ],
)
def test_every_other_pad_stays(op: str, attributes: dict[str, object], options: dict[str, object]) -> None:
    assert_untouched(padded(op, attributes, **options), fold_pads)  # type: ignore[arg-type]


def test_computed_pads_stay() -> None:
    proto = padded("Conv", CONV)
    del proto.graph.initializer[0]
    proto.graph.input.append(onnx.helper.make_tensor_value_info("pads", onnx.TensorProto.INT64, [8]))
    assert_untouched(proto, fold_pads)


def chain(source: str, result: str) -> list[onnx.NodeProto]:
    """F.pad(x, [0, 1, 0, 1]) as PyTorch traces it, its length from the Shape of x."""
    return [
        node("Shape", [source], ["shape"]),
        node("Shape", ["shape"], ["rank"]),
        node("Gather", ["rank", "zero"], ["axes"]),
        node("Mul", ["axes", "two"], ["all"]),
        node("Sub", ["all", "four"], ["missing"]),
        node("Cast", ["missing"], ["n32"], to=onnx.TensorProto.INT32),
        node("Cast", ["n32"], ["n64"], to=onnx.TensorProto.INT64),
        node(
            "ConstantOfShape", ["n64"], ["zeros"], value=onnx.numpy_helper.from_array(np.zeros(1, np.int64))
        ),
        node("Concat", ["last", "zeros"], ["pairs"], axis=0),
        node("Reshape", ["pairs", "rows"], ["table"]),
        node("Slice", ["table", "minus", "end", "zero", "minus"], ["flipped"]),
        node("Transpose", ["flipped"], ["turned"], perm=[1, 0]),
        node("Reshape", ["turned", "minus"], ["pads"]),
        node("Pad", [source, "pads"], [result]),
    ]


def test_the_chain_that_exporters_leave_is_folded_with_its_pad() -> None:
    proto = model(
        [*chain("x", "p"), node("Conv", ["p", "w"], ["y"], strides=[2, 2])],
        {"x": SHAPE},
        ["y"],
        {
            "w": weights(4, 3, 3, 3),
            "zero": np.array([0]),
            "two": np.array([2]),
            "four": np.array([4]),
            "last": np.array([0, 1, 0, 1]),
            "rows": np.array([-1, 2]),
            "minus": np.array([-1]),
            "end": np.array([-(2**63) + 1]),
        },
    )
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["Conv"]
    assert list(made.graph[0].attributes["pads"].as_ints()) == [0, 0, 1, 1]
    assert_alike(proto, made)
