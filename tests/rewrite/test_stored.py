"""Weights that are integers in the file alone: what they unpack to, in every form that says it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from qtool.numerics.qparams import unfold
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.model import Kind, Site
from qtool.plan.scheme import BLOCKS, WIDE_OPSET
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import INT8, UINT2, UINT4, PerBlock, PerChannel, PerRowOfLast, PerRun
from qtool.tables.targets import TARGETS
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model
from tests.rewrite.flow import FIRST_REFERENCE_OPSET, Written, ran, run, sqnr, write
from tests.targets import COMMON
from tests.tiers import in_turn

FLOORS = {8: 33.0, 4: 12.0, 2: 4.0}
RESTORING = ("Cast", "Sub", "Mul", "Reshape", "Slice", "DequantizeLinear")


@dataclass(frozen=True)
class Layer:
    """One node with weights that only its file has in fewer bits: inputs x and w (and r)."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    r: tuple[int, ...] = ()


LAYERS: dict[str, Layer] = {
    "matmul": Layer("MatMul", (2, 128), (128, 64)),
    "matmul-3d": Layer("MatMul", (2, 3, 128), (128, 64)),
    "matmul-odd-rows": Layer("MatMul", (2, 300), (300, 7)),
    "matmul-prime-rows": Layer("MatMul", (2, 97), (97, 64)),
    "matmul-one-column": Layer("MatMul", (2, 1024), (1024, 1)),
    "matmul-odd-count": Layer("MatMul", (2, 33), (33, 33)),
    "matmul-of-a-stack": Layer("MatMul", (3, 2, 64), (3, 64, 33)),
    "gemm-transB": Layer("Gemm", (2, 128), (64, 128), {"transB": 1}),
    "gemm-transB-odd": Layer("Gemm", (2, 99), (33, 99), {"transB": 1}),
    "gemm-transA": Layer("Gemm", (128, 2), (128, 64), {"transA": 1}),
    "conv-1x1": Layer("Conv", (1, 64, 5, 5), (32, 64, 1, 1)),
    "conv-3x3": Layer("Conv", (1, 16, 7, 7), (32, 16, 3, 3)),
    "conv-3x3-odd": Layer("Conv", (1, 15, 7, 7), (9, 15, 3, 3)),
    "conv-5x5-stem": Layer("Conv", (1, 3, 9, 9), (32, 3, 5, 5)),
    "conv-1d": Layer("Conv", (1, 33, 16), (16, 33, 3)),
    "conv-3d": Layer("Conv", (1, 8, 5, 5, 5), (8, 8, 3, 3, 3)),
    "depthwise": Layer("Conv", (1, 128, 7, 7), (128, 1, 3, 3), {"group": 128}),
    "grouped": Layer("Conv", (1, 64, 7, 7), (32, 16, 3, 3), {"group": 4}),
    "transposed-conv": Layer("ConvTranspose", (1, 24, 5, 5), (24, 33, 2, 2)),
    "lstm": Layer("LSTM", (5, 1, 32), (1, 96, 32), {"hidden_size": 24}, r=(1, 96, 24)),
    "lstm-odd": Layer("LSTM", (5, 1, 33), (1, 68, 33), {"hidden_size": 17}, r=(1, 68, 17)),
    "gru-both-ways": Layer("GRU", (5, 1, 32), (2, 72, 32), {"hidden_size": 24, "direction": "bidirectional"}, r=(2, 72, 24)),
    "rnn": Layer("RNN", (5, 1, 64), (1, 32, 64), {"hidden_size": 32}, r=(1, 32, 32)),
}  # fmt: skip


def build(layer: Layer) -> onnx.ModelProto:
    constants = {"w": weights(*layer.w)}
    inputs, outputs = ["x", "w"], ["y"]
    if layer.r:
        constants["r"] = weights(*layer.r, seed=1)
        inputs.append("r")
    return model(
        [node(layer.op, inputs, outputs, name="n", **layer.attributes)], {"x": layer.x}, ["y"], constants
    )


def written(name: str, bits: int, block: int, target: str) -> Written:
    layer = LAYERS[name]
    options = {"bits": bits, "block": block}
    return write(build(layer), samples(2, x=layer.x), target, mode="weight-only", **options)


def restored(done: Written, site: Site) -> np.ndarray:
    """The weight of a site in the graph, by the plan."""
    value = done.candidate.model.view.values[site.value].const_value
    assert value is not None
    assert site.qparams is not None
    spec = site.spec
    q = quantize(value.numpy(), site.qparams, spec.qtype, spec.granularity)
    return dequantize(q, site.qparams, spec.granularity)


def probe(done: Written, site: Site) -> bytes:
    """The model with the restored weight as its only output, and no input."""
    proto = done.proto
    (name, index) = (site.uses or ())[0]
    user = next(n for n in proto.graph.node if n.name == name)
    wanted = user.input[index]
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(wanted, TensorProto.FLOAT, None))
    del proto.graph.input[:]
    kept = [n for n in proto.graph.node if n.op_type in RESTORING]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto.SerializeToString()


CASES = in_turn(product(LAYERS, WEIGHT_BITS), (0, BLOCKS[0], BLOCKS[-1]), COMMON)


@pytest.mark.parametrize(("name", "bits", "block", "target"), CASES)
def test_each_layer(name: str, bits: int, block: int, target: str) -> None:
    done = written(name, bits, block, target)
    onnx.checker.check_model(done.proto, full_check=True)
    stored = [s for s in done.plan.sites if s.kind is Kind.STORED]
    assert stored
    for site in stored:
        _restores_the_weight_of_the_plan(done, site)
    _is_written_as_the_target_reads_it(done, name, bits)
    _holds_the_bits_of_the_plan_alone(done, LAYERS[name])
    wanted = run(done.original, done.samples)
    for optimize in (True, False):
        got = run(done.data, done.samples, optimize)
        assert [o["y"].shape for o in got] == [o["y"].shape for o in wanted]
        assert block > BLOCKS[0] or sqnr(wanted, got) > FLOORS[bits]
    if TARGETS[target].onnxruntime:
        assert not ran(done.data).keys() & set(RESTORING) - {"Reshape"}, "restored at every run, not at load"


def _restores_the_weight_of_the_plan(done: Written, site: Site) -> None:
    """To the bit: in the runtime, folded at load and not, and in the reference of the specification."""
    wanted, data = restored(done, site), probe(done, site)
    for optimize in (True, False):
        np.testing.assert_array_equal(next(iter(run(data, [{}], optimize)[0].values())), wanted)
    proto = onnx.load_from_string(data)
    has_dq = any(n.op_type == "DequantizeLinear" for n in proto.graph.node)
    if not has_dq or proto.opset_import[0].version >= FIRST_REFERENCE_OPSET:
        np.testing.assert_array_equal(ReferenceEvaluator(proto).run(None, {})[0], wanted)


def _is_written_as_the_target_reads_it(done: Written, name: str, bits: int) -> None:
    """Cast -> Mul is folded at load by onnxruntime; DequantizeLinear is standard."""
    ops = Counter(n.op_type for n in done.proto.graph.node)
    stored = [s for s in done.plan.sites if s.kind is Kind.STORED]
    centred = sum(s.spec.symmetric for s in stored)
    if TARGETS[done.plan.target].onnxruntime:
        blocked = sum(isinstance(s.spec.granularity, PerBlock | PerRun) for s in stored)
        wanted = {"Cast": len(stored) * 2 - centred, "Sub": len(stored) - centred, "Mul": len(stored)}
        wanted["Reshape"] = blocked
        wanted["Slice"] = sum(_lacks(s, done) > 0 for s in stored)
    else:
        runs = sum(isinstance(s.spec.granularity, PerRun) for s in stored)
        # onnxruntime 1.31 reads the rows of such a matrix wrongly, where they end within a byte.
        cast = bits == 2 and name in ("matmul-odd-rows", "matmul-one-column", "matmul-odd-count")
        cast = cast and stored[0].spec.qtype is UINT2
        words = {"Cast": 2, "Sub": 1, "Mul": 1, "Reshape": 1} if cast else {"DequantizeLinear": len(stored)}
        wanted = {"Reshape": runs, **words}
    assert {k: v for k, v in wanted.items() if v} == {k: ops[k] for k in RESTORING if ops[k]}


def _lacks(site: Site, done: Written) -> int:
    """The values that the last blocks of a weight lack."""
    value = done.candidate.model.view.values[site.value].const_value
    assert value is not None
    return unfold(value.numpy(), site.spec.granularity).size - value.size


def _holds_the_bits_of_the_plan_alone(done: Written, layer: Layer) -> None:
    """Integers of the type in the plan, as many as the weight has, and no float copy of it."""
    held, ops = done.proto.graph.initializer, {n.op_type for n in done.proto.graph.node}
    types = {INT8: TensorProto.INT8, UINT4: TensorProto.UINT4, UINT2: TensorProto.UINT2}
    for site in (s for s in done.plan.sites if s.kind is Kind.STORED):
        value = done.candidate.model.view.values[site.value].const_value
        assert value is not None
        qtype, prefix = site.spec.qtype, f"{site.value}_quantized"
        (tensor,) = [t for t in held if t.data_type == types[qtype] and t.name.startswith(prefix)]
        size = value.size + (_lacks(site, done) if "Slice" in ops else 0)
        assert np.prod(tensor.dims) == size
        assert len(tensor.raw_data) == -(-size * qtype.bits // 8)
        assert all(t.name != site.value for t in held)
    largest = max((np.prod(t.dims, dtype=int) for t in held if t.data_type == TensorProto.FLOAT), default=0)
    assert largest < min(np.prod(layer.w), np.prod(layer.r or layer.w))


SHAPES_OF_SCALES = {
    "matmul": PerBlock(0, 32),
    "matmul-odd-rows": PerBlock(0, 30),
    "matmul-odd-count": PerBlock(0, 33),
    "gemm-transB": PerBlock(1, 32),
    "gemm-transB-odd": PerBlock(1, 33),
    "conv-1x1": PerRun(32),
    "conv-3x3": PerRun(36),
    "conv-3x3-odd": PerRun(27),
    "conv-5x5-stem": PerRun(25),
    "conv-1d": PerRun(33),
    "depthwise": None,
    "transposed-conv": PerBlock(0, 24),
    "lstm": PerBlock(2, 32),
    "lstm-odd": PerBlock(2, 33),
}


@pytest.mark.parametrize(("name", "wanted", "target"), in_turn(SHAPES_OF_SCALES.items(), COMMON))
def test_blocks_are_near_32_for_all_sizes(name: str, wanted: PerBlock | PerRun | None, target: str) -> None:
    """A weight without a divisor near 32 has 8 bits and a scale a channel."""
    done = written(name, 4, 0, target)
    site = next(s for s in done.plan.sites if s.value == "w")
    if wanted is None:
        assert site.spec.qtype is INT8
        assert isinstance(site.spec.granularity, PerChannel | PerRowOfLast)
        return
    assert (site.spec.qtype, site.spec.granularity) == (UINT4, wanted)
    assert done.proto.opset_import[0].version >= WIDE_OPSET
    assert site.qparams is not None
    value = done.candidate.model.view.values["w"].const_value
    assert value is not None
    assert site.qparams.scale.size * wanted.size == value.size
    assert unfold(value.numpy(), wanted).shape != value.numpy().shape


@pytest.mark.parametrize(("target", "bits"), in_turn(COMMON, WEIGHT_BITS))
def test_readers_of_one_weight_share_its_integers(bits: int, target: str) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    proto = model(nodes, {"x": [2, 64]}, ["y"], {"w": weights(64, 64)})
    done = write(proto, samples(2, x=(2, 64)), target, mode="weight-only", bits=bits)
    assert len([s for s in done.plan.sites if s.kind is Kind.STORED]) == 1
    read = [n.input[1] for n in done.proto.graph.node if n.op_type == "MatMul"]
    assert len(read) == 2
    assert len(set(read)) == 1


@pytest.mark.parametrize(("shift", "bits", "target"), in_turn(product([-1.0, 0.0, 1.0], WEIGHT_BITS), COMMON))
def test_weights_on_one_side_of_zero(shift: float, bits: int, target: str) -> None:
    """A zero point at an end of the range, where few bits pay for holding 0 exactly."""
    w = (rng(0).uniform(-1, 1, (128, 64)) + shift).astype(np.float32)
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": [2, 128]}, ["y"], {"w": w})
    done = write(proto, samples(2, x=(2, 128)), target, mode="weight-only", bits=bits)
    (site,) = done.plan.sites
    assert sqnr([{"w": w}], [{"w": restored(done, site)}]) > {8: 40, 4: 16, 2: 4}[bits]
    data = probe(done, site)
    for optimize in (True, False):
        np.testing.assert_array_equal(next(iter(run(data, [{}], optimize)[0].values())), restored(done, site))


def lookup(ids: int) -> onnx.ModelProto:
    nodes = [node("Gather", ["table", f"ids{i}"], [f"e{i}"]) for i in range(ids)]
    shapes = {f"ids{i}": ["N", "T"] for i in range(ids)}
    outputs = [f"e{i}" for i in range(ids)]
    return model(nodes, shapes, outputs, {"table": weights(512, 32)}, input_type=TensorProto.INT64)


@pytest.mark.parametrize("target", COMMON)
@pytest.mark.parametrize("count", [1, 2], ids=["one-reader", "two-readers"])
def test_a_lookup_restores_only_the_rows_that_are_picked(count: int, target: str) -> None:
    """The table stays int8 in memory; the rows are to the bit what the plan's table has."""
    fed = [{f"ids{i}": rng(i).integers(-512, 512, (2, 7)) for i in range(count)}]
    done = write(lookup(count), fed, target, mode="weight-only")
    (site,) = done.plan.sites
    assert site.kind is Kind.LOOKUP
    table = restored(done, site)
    held = [t for t in done.proto.graph.initializer if np.prod(t.dims) == table.size]
    assert [t.data_type for t in held] == [TensorProto.INT8]
    for optimize in (True, False):
        (got,) = run(done.data, fed, optimize)
        for i in range(count):
            np.testing.assert_array_equal(got[f"e{i}"], table[fed[0][f"ids{i}"]])
    reference = ReferenceEvaluator(done.proto).run(None, fed[0])
    np.testing.assert_array_equal(reference[0], table[fed[0]["ids0"]])
    assert numpy_helper.to_array(held[0]).min() >= -127
