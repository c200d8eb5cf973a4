"""The experts of com.microsoft's MoE: their weights are stored in few bits, in blocks of what they sum over."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.tables.targets import TARGETS
from tests.graphs import node, samples, weights
from tests.rewrite.flow import ran, run, sqnr, write

EXPERTS, WIDTH, INNER = 4, 64, 96
SAMPLES = samples(4, x=(5, WIDTH), router=(5, EXPERTS))


def experts() -> onnx.ModelProto:
    constants = {
        "up": weights(EXPERTS, INNER, WIDTH),
        "up_bias": weights(EXPERTS, INNER, seed=2),
        "down": weights(EXPERTS, WIDTH, INNER, seed=1),
    }
    moe = node(
        "MoE",
        ["x", "router", "up", "up_bias", "down"],
        ["y"],
        domain="com.microsoft",
        k=2,
        activation_type="silu",
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
