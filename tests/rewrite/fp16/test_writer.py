"""Networks in float16: sound whatever the pattern, and as near to FP32 as float16 allows."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan import serial
from qtool.plan.eligible import CONTROL_FLOW
from qtool.plan.fp16.ports import ports_of
from qtool.rewrite.write import rewrite
from tests import graphs
from tests.rewrite.flow import evaluate, run, sqnr
from tests.rewrite.fp16.blocks import BLOCKS, SHAPE, network
from tests.rewrite.fp16.flow import (
    FLOAT,
    FLOAT16,
    Converted,
    check,
    close,
    converted,
    stored_types,
    with_types,
)
from tests.tiers import examples, in_turn

SAMPLES = graphs.samples(4, x=SHAPE)

# The reference lacks what only onnxruntime has (FastGelu).
STANDARD = sorted(set(BLOCKS) - {"tanh-gelu"})


@pytest.mark.parametrize(("block", "io"), in_turn(sorted(BLOCKS), ["float", "float16"]))
def test_a_block_between_products(block: str, io: str) -> None:
    made = converted(network(["linear", block, "linear"]), SAMPLES, io=io)
    check(made)
    assert close(made, SAMPLES) >= 45
    assert any(n.startswith("MatMul") for n in made.fp16_nodes)


@pytest.mark.parametrize("block", STANDARD)
def test_the_reference_agrees(block: str) -> None:
    made = converted(network(["linear", block, "matmul"]), SAMPLES)
    assert sqnr(run(made.original, SAMPLES), evaluate(made.data, SAMPLES)) >= 40


# Behind a step, rounding can be as large as the value: no SQNR holds for any chain of these.
STEPS = {"integers", "where"}
# A norm of what is cast from float16: onnxruntime 1.31 refuses the very model that is given.
REFUSED = ("fp16-island", "written-norm")
CHAINS = st.lists(st.sampled_from(sorted(BLOCKS.keys() - STEPS)), min_size=1, max_size=5).filter(
    lambda blocks: REFUSED not in itertools.pairwise(blocks)
)


@settings(max_examples=examples(80), deadline=None)
@given(CHAINS, st.integers(0, 99), st.booleans(), st.sampled_from(["float", "float16"]))
def test_any_chain(blocks: list[str], seed: int, extra: bool, io: str) -> None:
    made = converted(network(blocks, seed, extra_output=extra), SAMPLES[:2], io=io)
    check(made)
    close(made, SAMPLES[:2])
    ports = (*made.proto.graph.input, *made.proto.graph.output)
    assert {v.type.tensor_type.elem_type for v in ports} == {FLOAT16 if io == "float16" else FLOAT}


@settings(max_examples=examples(80), deadline=None)
@given(CHAINS, st.integers(0, 99), st.data())
def test_any_requested_nodes(blocks: list[str], seed: int, data: st.DataObject) -> None:
    proto = network([*blocks, "linear"], seed)
    names = sorted(converted(proto).model.view.node_by_name)
    assigned = data.draw(st.sets(st.sampled_from(names), min_size=1))
    made = converted(proto, SAMPLES[:2], mode="weight-only", sets=[f"{n}=fp16" for n in assigned])
    check(made)
    close(made, SAMPLES[:2])
    assert made.fp16_nodes <= assigned
    assert not assigned - made.fp16_nodes - made.reasons.keys() - _without_floats(made)


@settings(max_examples=examples(40), deadline=None)
@given(CHAINS, st.integers(0, 99))
def test_a_saved_plan_gives_the_same_bytes(blocks: list[str], seed: int) -> None:
    proto = network(blocks, seed)
    made = converted(proto, SAMPLES[:2])
    text = serial.to_json(made.plan)
    loaded = serial.from_json(text, "plan")
    assert serial.to_json(loaded) == text
    assert json.loads(text)["fp16"]["nodes"].keys() == made.fp16_nodes
    assert with_types(rewrite(made.model.model, loaded)) == made.data


def test_converting_twice_changes_nothing() -> None:
    made = converted(network(["linear", "residual", "layer-norm", "linear"]), SAMPLES)
    second = converted(made.proto, SAMPLES)
    assert stored_types(second.proto) == stored_types(made.proto)
    assert run(second.data, SAMPLES)[0]["y"].tobytes() == run(made.data, SAMPLES)[0]["y"].tobytes()


def test_weights_are_rounded_to_nearest() -> None:
    proto = network(["linear"])
    before = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    made = converted(proto, SAMPLES)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    (name,) = [k for k, v in after.items() if v.dtype == np.float16 and v.shape == (8, 8)]
    assert np.array_equal(after[name], before[name].astype(np.float16))


def _without_floats(made: Converted) -> set[str]:
    """The nodes that float16 is no question for; of If and Loop, it is one for those inside."""
    nodes = made.model.view.nodes
    return {n.name or "" for n in nodes if n.op_type in CONTROL_FLOW or ports_of(n, 17) is None}
