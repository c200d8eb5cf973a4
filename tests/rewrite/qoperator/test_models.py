"""Complete models with integer operators against their QDQ form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qtool.tables.qoperators import (
    ELEMENTWISE,
    MICROSOFT,
    MOVES,
)
from tests.exact import exact
from tests.graphs import SAMPLE_MODELS, SHARED_MODELS
from tests.rewrite.flow import run, sqnr, write
from tests.rewrite.qoperator.forms import fuse
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn, nightly


def qdq_form(
    proto: onnx.ModelProto, samples: Sequence[dict[str, np.ndarray]], target: str
) -> onnx.ModelProto:
    """The QDQ model of the rule-based plan."""
    return write(proto, samples, target).proto


def zoo_case(case: str, target: str) -> tuple[list[dict[str, np.ndarray]], onnx.ModelProto, float]:
    """The samples of a case, its QDQ model, and that one's SQNR."""
    proto, samples = CASES[case].build(), list(CASES[case].samples())
    qdq = qdq_form(proto, samples, target)
    return samples, qdq, sqnr(run(proto, samples), run(qdq, samples))


LOST_DB = 1.0


@pytest.mark.parametrize(("case", "target", "contrib"), in_turn(CASES, ("cpu", "generic"), (True, False)))
def test_zoo(case: str, target: str, contrib: bool) -> None:
    samples, qdq, wanted = zoo_case(case, target)
    expected = run(CASES[case].build(), samples)
    hold(qdq, fuse(qdq, contrib), contrib, samples, expected, wanted)


def hold(
    qdq: onnx.ModelProto,
    made: onnx.ModelProto,
    contrib: bool,
    samples: Sequence[dict[str, np.ndarray]],
    expected: Sequence[dict[str, np.ndarray]],
    wanted: float,
) -> None:
    """Hold a model with integer operators against its QDQ form, whose SQNR is `wanted`."""
    assert left_over(made, contrib) == []
    assert made.graph.input == qdq.graph.input and made.graph.output == qdq.graph.output
    names = [n.name for n in made.graph.node] + [o for n in made.graph.node for o in n.output if o]
    names += [t.name for t in made.graph.initializer]
    assert max(Counter(names).values()) == 1
    before, after = ({o.domain for o in m.opset_import} for m in (qdq, made))
    assert after - before <= ({MICROSOFT} if contrib else set())
    assert {n.domain for n in made.graph.node} <= after
    # As given, integer operators saturate on a CPU without VNNI (tests/conftest.py); optimized, they do not.
    for optimize in (True, False) if exact() else (True,):
        assert sqnr(expected, run(made, samples, optimize)) >= wanted - LOST_DB


def left_over(model: onnx.ModelProto, contrib: bool) -> list[str]:
    """The nodes between DQs and a Q that have a known integer form: read from the file, by rules of its own."""
    made = {o: n for n in model.graph.node for o in n.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    outputs = {o.name for o in model.graph.output}

    def params(node: onnx.NodeProto) -> tuple[Any, ...] | None:
        scale, zero = (constants.get(n) for n in node.input[1:3]) if len(node.input) > 2 else (None, None)
        if scale is None or zero is None or zero.dtype.itemsize != 1:
            return None
        return scale.tobytes(), zero.tobytes(), zero.dtype.name

    def source(name: str) -> tuple[Any, ...] | None:
        node = made.get(name)
        return params(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def quantizes(name: str, clamps: bool = True) -> tuple[Any, ...] | None:
        consumers = readers.get(name, [])
        if name in outputs or len(consumers) != 1:
            return None
        if consumers[0].op_type in ("Relu", "Clip") and clamps:
            return quantizes(consumers[0].output[0], clamps=False)
        return params(consumers[0]) if consumers[0].op_type == "QuantizeLinear" else None

    left = []
    for node in model.graph.node:
        read, written = [source(name) for name in node.input], quantizes(node.output[0])
        if node.op_type in ("MatMul", "Gemm") or (node.op_type == "Conv" and written):
            left += [node.name] if all(read[:2]) else []
        for scales, indices in forms_of(node.op_type, contrib):
            operands = read if indices is None else [read[i] for i in indices]
            results = [quantizes(o, clamps=scales == "any scale") for o in node.output if o in readers]
            if all(operands) and all(results) and results:
                left += [node.name] if scales == "any scale" or len({*operands, *results}) == 1 else []
    return left


def test_left_over_finds_every_node_of_a_qdq_model() -> None:
    left = left_over(zoo_case("mobile-block", "generic")[1], contrib=True)
    assert sorted(left) == sorted(
        n.name for n in CASES["mobile-block"].build().graph.node if n.op_type in ("Conv", "Add")
    )


def forms_of(op: str, contrib: bool) -> list[tuple[str, tuple[int, ...] | None]]:
    """The forms of an op without weights: whether its scales may differ, and the inputs that have them."""
    forms: list[tuple[str, tuple[int, ...] | None]] = []
    if op in MOVES or op in ("Relu", "Clip"):
        forms.append(("one scale", MOVES.get(op, (0,))))
    if op in ELEMENTWISE and contrib:
        forms.append(("any scale", ELEMENTWISE[op].operands))
    return forms


def sample_files(folder: Path, count: int) -> list[dict[str, np.ndarray]]:
    arrays = []
    for path in sorted(folder.glob("*.npz"))[:count]:
        with np.load(path) as data:
            arrays.append({k: data[k] for k in data.files})
    return arrays


MODELS = {
    **{name: SAMPLE_MODELS / name for name in ("cnn", "lstm", "transformer")},
    **{name: SHARED_MODELS / name for name in ("resnet20_cifar10", "ultraface_rfb320", "lprnet", "magika", "mnist_opset8", "minilm_l6_v2")},
}  # fmt: skip


LARGE = ("minilm_l6_v2", "ultraface_rfb320")


@pytest.mark.parametrize(
    ("name", "target"), in_turn((m for m in MODELS if nightly() or m not in LARGE), ("cpu", "generic"))
)
def test_trained_models(name: str, target: str) -> None:
    folder = MODELS[name]
    if not (folder / "model.onnx").is_file():
        pytest.skip(f"{folder} is absent")
    proto, calibration, evaluation = (
        onnx.load(folder / "model.onnx"),
        sample_files(folder / "calib", 6),
        sample_files(folder / "eval", 3),
    )
    expected = run(proto, evaluation)
    qdq = qdq_form(proto, calibration, target)
    wanted = sqnr(expected, run(qdq, evaluation))
    for contrib in (True, False):
        hold(qdq, fuse(qdq, contrib), contrib, evaluation, expected, wanted)
