"""The experts of com.microsoft's MoE: their weights are stored in few bits, in blocks of what they sum over."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.plan.model import Plan
from qtool.plan.resolve import dequantized
from qtool.tables.targets import TARGETS
from tests.graphs import node, samples, weights
from tests.rewrite.flow import ran, run, sqnr, write

EXPERTS, WIDTH, INNER = 4, 64, 96
SAMPLES = samples(4, x=(5, WIDTH), router=(5, EXPERTS))


def experts(**attributes: object) -> onnx.ModelProto:
    attributes = {"activation_type": "silu", "k": 2} | attributes
    wide = 2 if attributes["activation_type"] == "swiglu" else 1  # a gate beside each value
    constants = {
        "up": weights(EXPERTS, wide * INNER, WIDTH),
        "up_bias": weights(EXPERTS, wide * INNER, seed=2),
        "down": weights(EXPERTS, WIDTH, INNER, seed=1),
    }
    moe = node(
        "MoE",
        ["x", "router", "up", "up_bias", "down"],
        ["y"],
        domain="com.microsoft",
        **attributes,
    )
    graph = helper.make_graph(
        [moe],
        "experts",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", w])
            for n, w in (("x", WIDTH), ("router", EXPERTS))
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(("bits", "share", "floor"), [(8, 0.3, 30.0), (4, 0.2, 15.0)])
def test_their_weights_are_stored_in_few_bits(bits: int, share: float, floor: float) -> None:
    proto = experts()
    done = write(proto, SAMPLES, TARGETS["cpu"], mode="weight-only", bits=bits)
    assert len(done.data) < share * proto.ByteSize() + 4000
    assert sqnr(run(proto, SAMPLES), run(done.data, SAMPLES)) > floor
    assert ran(done.data).keys() == {"MoE"}, "the runtime restores them when it loads the model"


@pytest.mark.parametrize(
    ("attributes", "bits"),
    [
        ({}, 4),
        ({"normalize_routing_weights": 1}, 4),
        ({"activation_type": "swiglu", "swiglu_fusion": 1}, 4),
        ({"activation_type": "relu", "normalize_routing_weights": 1}, 8),
        ({"activation_type": "gelu"}, 2),
    ],
    ids=str,
)
def test_the_kernel_of_blocks_equals_experts_of_the_same_integers(attributes: dict, bits: int) -> None:
    """It rounds activations to 8 bits at run time, which costs 1%."""
    proto = experts(**attributes)
    packed = write(proto, SAMPLES, TARGETS["cpu"], mode="weight-only", bits=bits, block=32, prefer="speed")
    restored = proto_of_integers(proto, packed.plan)
    assert ran(packed.data).keys() == {
        "QMoE",
        *([] if "normalize_routing_weights" in attributes else ["Softmax"]),
    }
    assert sqnr(run(restored, SAMPLES), run(packed.data, SAMPLES)) > 33


@pytest.mark.parametrize("attributes", [{"use_sparse_mixer": 1}], ids=str)
def test_experts_without_a_kernel_keep_their_operator(attributes: dict) -> None:
    done = write(experts(**attributes), SAMPLES, TARGETS["cpu"], mode="weight-only", bits=4, prefer="speed")
    (skip,) = done.plan.skips
    assert "sparse mixer" in skip.reason.detail
    assert not done.plan.operators


def proto_of_integers(proto: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The float model with the weights that the integers of a plan stand for."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    sites = {site.value: site for site in plan.sites}
    for tensor in copy.graph.initializer:
        if tensor.name in sites:
            array = dequantized(sites[tensor.name], numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy
