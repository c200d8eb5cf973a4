"""A written-out HardSigmoid is recognized by its numbers, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.hard_sigmoid import fuse_hard_sigmoids
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.unused import drop_unused
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graphs import model, node

PASSES = (infer_shapes, fuse_hard_sigmoids)
CONSTANTS = {
    k: np.float32(v)
    for k, v in {"zero": 0, "one": 1, "three": 3, "six": 6, "sixth": 1 / 6, "fifth": 0.2, "half": 0.5}.items()
}
SHIFT, CLIP = node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"])
FORMS = {
    "HardSwish, divided last": [
        SHIFT,
        CLIP,
        node("Mul", ["x", "c"], ["m"]),
        node("Div", ["m", "six"], ["y"]),
    ],
    "HardSwish, divided first": [
        SHIFT,
        CLIP,
        node("Div", ["c", "six"], ["d"]),
        node("Mul", ["d", "x"], ["y"]),
    ],
    "HardSwish, a factor": [SHIFT, CLIP, node("Mul", ["sixth", "c"], ["d"]), node("Mul", ["x", "d"], ["y"])],
    "Keras": [
        node("Mul", ["fifth", "x"], ["s"]),
        node("Add", ["half", "s"], ["a"]),
        node("Clip", ["a", "zero", "one"], ["y"]),
    ],
    "Keras, divided": [
        node("Div", ["x", "three"], ["s"]),
        node("Sub", ["s", "half"], ["a"]),
        node("Clip", ["a", "zero", "one"], ["y"]),
    ],
    "its shift folded before": [node("Clip", ["x", "zero", "six"], ["c"]), node("Div", ["c", "six"], ["y"])],
}


def net(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",), **changed: object) -> onnx.ModelProto:
    read = {name for n in nodes for name in n.input}
    constants = {k: np.asarray(v, np.float32) for k, v in {**CONSTANTS, **changed}.items() if k in read}
    return model(nodes, {"x": (2, 3, 4, 4)}, outputs, constants)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_fused(form: str) -> None:
    proto = net(FORMS[form])
    made, note = applied(proto, *PASSES)
    assert "1 written-out HardSigmoid" in note
    drop_unused(made)
    assert ops(made) == ["HardSigmoid", *["Mul"] * ("Swish" in form)]
    wide = [{"x": np.linspace(-9, 9, 96, dtype=np.float32).reshape(2, 3, 4, 4)}]
    assert_alike(proto, made, wide)


@pytest.mark.parametrize(
    "proto",
    [
        net([SHIFT, CLIP, node("Div", ["c", "half"], ["y"])]),
        net([SHIFT, CLIP, node("Div", ["six", "c"], ["y"])]),
        net([SHIFT, CLIP, node("Sub", ["c", "sixth"], ["y"])]),
        net([SHIFT, CLIP, node("Div", ["c", "six"], ["y"])], ("y", "c")),
        net([SHIFT, CLIP, node("Div", ["c", "six"], ["y"])], zero=-1),
        net([SHIFT, CLIP, node("Div", ["c", "six"], ["y"])], six=[[[[[6]]]]]),
        net([node("Clip", ["x", "zero", "one"], ["y"])]),
        net([node("Clip", ["x", "zero", "six"], ["c"]), node("Relu", ["c"], ["y"])]),
    ],
    ids=[
        "another-divisor",
        "divides",
        "no-product",
        "read-twice",
        "bounds",
        "broadcasts",
        "unit-clip",
        "relu6",
    ],
)
def test_others_stay(proto: onnx.ModelProto) -> None:
    assert_untouched(proto, *PASSES)


def test_a_shift_per_channel_stays_before_the_clip() -> None:
    made, _ = applied(net(FORMS["HardSwish, divided last"], three=np.ones((3, 1, 1))), *PASSES, drop_unused)
    assert ops(made)[0] == "Add"
