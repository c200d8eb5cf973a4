"""Weight and bias sites: one for each quantization, at scales that fit together."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.plan.model import Kind
from qtool.plan.storage import storage_granularity
from qtool.runtime.session import Session
from qtool.tables.modes import MODES
from qtool.tables.qtypes import PerBlock, PerChannel
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate, drafted, sites
from tests.rewrite.zoo import CASES


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_a_weight_in_a_constant_node_is_a_weight(target: str) -> None:
    tensor = numpy_helper.from_array(weights(32, 32), "value")
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], ["y"])]
    plan = drafted(model(nodes, {"x": [4, 32]}, ["y"]), target)
    assert set(sites(plan, Kind.WEIGHT)) == {"w"}


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_a_weight_behind_a_constant_transpose_is_a_weight(target: str) -> None:
    nodes = [node("Transpose", ["v"], ["w"], perm=[1, 0]), node("MatMul", ["x", "w"], ["y"])]
    plan = drafted(model(nodes, {"x": [4, 32]}, ["y"], {"v": weights(48, 32)}), target)
    assert "MatMul_y" in plan.forms


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_weights_inside_if_are_stored_as_int8(target: str) -> None:
    plan = drafted(CASES["if-weights"].build(), target)
    stored = sites(plan, Kind.STORED)
    assert set(stored) == {"yes_w", "no_w"}


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_shared_weights_are_one_site(target: str) -> None:
    plan = drafted(CASES["shared-weights"].build(), target)
    (site,) = (s for s in plan.sites if s.kind is Kind.WEIGHT)
    assert site.uses == (("Conv_c0", 1), ("Conv_c1", 1))


CHANNEL_AXES = {
    "Conv": ([node("Conv", ["x", "w"], ["y"])], {"x": [1, 24, 8, 8]}, weights(32, 24, 1, 1), 0),
    "ConvTranspose": ([node("ConvTranspose", ["x", "w"], ["y"])], {"x": [1, 24, 8, 8]}, weights(24, 32, 2, 2), 1),
    "MatMul": ([node("MatMul", ["x", "w"], ["y"])], {"x": [4, 24]}, weights(24, 32), 1),
    "Gemm": ([node("Gemm", ["x", "w"], ["y"])], {"x": [4, 24]}, weights(24, 32), 1),
    "Gemm-transB": ([node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": [4, 24]}, weights(32, 24), 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANNEL_AXES)
def test_weights_have_one_scale_for_each_output_channel(case: str) -> None:
    nodes, inputs, w, axis = CHANNEL_AXES[case]
    shape = next(iter(inputs.values()))
    proto = model(nodes, inputs, ["y"], {"w": w})
    plan = candidate(proto, samples(3, x=shape), "generic").plan
    site = sites(plan, Kind.WEIGHT)["w"]
    assert site.spec.granularity == PerChannel(axis)
    assert site.qparams is not None
    assert site.qparams.scale.shape == (32,)


def test_the_bias_of_a_dead_channel_survives() -> None:
    """gamma 0 leaves weight 0 and a live bias; at scale 0 the bias would saturate or vanish."""
    row = CASES["dead-channels"]
    done = candidate(row.build(), row.samples())
    for bias in (s for s in done.plan.sites if s.kind is Kind.BIAS):
        value = done.model.view.values[bias.value].const_value
        assert value is not None
        assert bias.qparams is not None
        array = value.numpy().astype(np.float64).reshape(-1)
        integers = np.rint(array / bias.qparams.scale)
        assert np.abs(integers).max() < 2**31 - 1
        error = np.abs(integers * bias.qparams.scale - array)
        assert (error <= bias.qparams.scale * (0.5 + 1e-6)).all()
        assert error.max() <= 1e-3 * np.abs(array).max()


def tied(bias: bool, w: np.ndarray) -> onnx.ModelProto:
    """A table read by a Gather (stored) and by a Gemm (int8)."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        node("Gemm", ["m", "table", *(["b"] if bias else [])], ["y"], transB=1),
    ]
    constants = {"table": w} | ({"b": weights(len(w))} if bias else {})
    return model(nodes, {"ids": ["N", "T"]}, ["y"], constants, input_type=TensorProto.INT64)


TABLES = {
    "per channel": weights(300, 32),
    "in blocks": rng(1).standard_t(2, (300, 64)).astype(np.float32),
}


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_weight_that_is_also_stored_keeps_the_scales_of_its_own_type(
    target: str, table: str, bias: bool
) -> None:
    """Tied embeddings: the Gemm's int8 and the Gather's stored int8 are two quantizations of one array."""
    w = TABLES[table]
    random = rng(2)
    ids = [{"ids": random.integers(0, len(w), (2, 5))} for _ in range(4)]
    plan = candidate(tied(bias, w), ids, target).plan
    site = sites(plan, Kind.WEIGHT)["table"]
    assert site.qparams is not None
    reach = site.qparams.scale.astype(np.float64) * site.spec.qtype.qmax
    np.testing.assert_array_less(np.abs(w).max(1) * (1 - 1e-6), reach)


@pytest.mark.parametrize(
    ("w", "wanted"),
    [
        (weights(64, 64), PerChannel(1)),
        (rng(3).standard_t(2, (4096, 8)).astype(np.float32), PerBlock),
        (np.concatenate([np.full((1, 8), 127), rng(3).uniform(-2, 2, (996, 8))]).astype(np.float32), None),
    ],
    ids=["gaussian", "heavy tails", "hopeless"],
)
def test_storage_uses_the_coarsest_block_within_its_error(w: np.ndarray, wanted: object) -> None:
    granularity = storage_granularity(w, PerChannel(1), MODES["static"].storage_floor_db)
    assert granularity == wanted or (isinstance(wanted, type) and isinstance(granularity, wanted))


@pytest.mark.parametrize(
    ("group", "outputs", "wanted"),
    [(8, 8, "int8"), (8, 16, "int8-paired"), (4, 8, "int8-paired")],
    ids=["depthwise", "multiplied", "grouped"],
)
def test_without_vnni_only_depthwise_weights_have_eight_bits(group: int, outputs: int, wanted: str) -> None:
    """The kernels of all others add two products in 16 bits."""
    convs = [
        node("Conv", ["x", "v"], ["c"], kernel_shape=[3, 3]),
        node("Conv", ["c", "w"], ["d"], group=group, kernel_shape=[3, 3]),
        node("Conv", ["d", "u"], ["y"], kernel_shape=[3, 3]),
    ]
    constants = {
        "v": weights(8, 8, 3, 3),
        "w": weights(outputs, 8 // group, 3, 3),
        "u": weights(8, outputs, 3, 3),
    }
    proto = model(convs, {"x": [1, 8, 12, 12]}, ["y"], constants)
    plan = drafted(proto, "cpu-avx2", include=["*"])
    assert sites(plan, Kind.WEIGHT)["w"].spec.qtype.name == wanted


def test_the_depthwise_kernel_sums_the_largest_products_exactly() -> None:
    """The fact behind Target.depthwise_weight, on this CPU: as the runtime's own float operators."""
    numbers = {"s": np.float32(1), "z": np.uint8(0), "t": np.float32(2000), "half": np.uint8(128)}
    weight = {
        "w": np.full((16, 1, 3, 3), 127, np.int8),
        "ones": np.ones(16, np.float32),
        "zeros": np.zeros(16, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ones", "zeros"], ["v"], axis=0),
        node("Conv", ["d", "v"], ["c"], group=16),
        node("QuantizeLinear", ["c", "t", "half"], ["r"]),
        node("DequantizeLinear", ["r", "t", "half"], ["y"]),
    ]
    data = model(nodes, {"x": [1, 16, 9, 9]}, ["y"], {**numbers, **weight}).SerializeToString()
    feed = {"x": rng().integers(240, 256, (1, 16, 9, 9)).astype(np.float32)}
    fused, plain = (Session(data, optimize=o).run(feed)[0] for o in (True, False))
    np.testing.assert_array_equal(fused, plain)
