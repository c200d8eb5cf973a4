"""Every graph of the zoo on every target: valid, faithful, and the same to every runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from qtool.graph.save import to_bytes
from qtool.plan.model import WEIGHTS, Kind
from qtool.rewrite.write import rewrite
from qtool.tables.forms import Form
from qtool.tables.qtypes import PerTensor
from qtool.tables.targets import TARGETS
from tests.rewrite.flow import Written, evaluate, ran, run, sqnr, write, written
from tests.rewrite.zoo import CASES
from tests.targets import COMMON
from tests.tiers import in_turn

# Two forms of one computation may round a tie apart here and there. A runtime that computes
# something else (a Q moved, a bias at another scale) shows as noise like that of quantization itself.
APART_FROM_NOISE_DB = 6.0
MATRIX_PRODUCTS = ("MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize(("case", "target"), in_turn(CASES, COMMON))
def test_each_graph(case: str, target: str) -> None:
    """Each tiny graph, on each target in turn: the file, what it computes, and what the runtime makes of it."""
    result = written(case, target)
    _keeps_the_interface(result)
    _has_sound_constants(result)
    _has_biases_at_the_product_of_their_scales(result)
    _holds_every_weight_once(result)
    _is_repeatable(result, CASES[case].build())
    expected = run(result.original, result.samples)
    plain, fused = (run(result.data, result.samples, optimize) for optimize in (False, True))
    for got in (plain, fused):
        assert all(np.isfinite(v).all() for o in got for v in o.values())
        assert all(a[k].shape == b[k].shape for a, b in zip(expected, got, strict=True) for k in a)
        assert sqnr(expected, got) >= CASES[case].floor
    assert sqnr(plain, fused) >= sqnr(expected, plain) + APART_FROM_NOISE_DB
    if TARGETS[target].onnxruntime:
        _runs_in_int8_exactly_what_was_planned(result)
    else:
        assert {o.domain for o in result.proto.opset_import} <= {"", "ai.onnx"}
        assert sqnr(plain, evaluate(result.data, result.samples)) >= 100


def _keeps_the_interface(result: Written) -> None:
    """The file passes the full check, and has the inputs and outputs of the model and unique names."""
    onnx.checker.check_model(result.proto, full_check=True)
    before, after = result.original.graph, result.proto.graph
    assert [(i.name, i.type) for i in after.input] == [(i.name, i.type) for i in before.input]
    assert [o.name for o in after.output] == [o.name for o in before.output]
    types = [[o.type.tensor_type.elem_type for o in g.output] for g in (before, after)]
    assert types[0] == types[1]
    values = [o for n in after.node for o in n.output if o]
    values += [t.name for t in after.initializer] + [i.name for i in after.input]
    for names in ([n.name for n in after.node], values):
        assert max(Counter(names).values()) == 1


def _is_repeatable(result: Written, original: onnx.ModelProto) -> None:
    """The plan gives the same bytes once more, and neither model is changed."""
    assert result.original == original
    before = to_bytes(result.candidate.model.model)
    assert to_bytes(rewrite(result.candidate.model.model, result.plan)) == result.data
    assert to_bytes(result.candidate.model.model) == before


def _has_sound_constants(result: Written) -> None:
    """Scales of a tensor have rank 0, signed zero points are 0, weights stay within the target's range.

    The runtime fuses nothing around a scale of shape [1]. u8 x s8 saturates on AVX2 beyond 7 bits, and -128
    would make -x less precise than x.
    """
    for site in result.plan.sites:
        if site.qparams is not None and isinstance(site.spec.granularity, PerTensor):
            assert site.qparams.scale.shape == site.qparams.zero_point.shape == ()
    limit = TARGETS[result.plan.target].weight.qmax
    graph = result.proto.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {n.output[0]: n for n in graph.node}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert [constants[name].shape for name in node.input[1:]] == [(), ()]
        if node.op_type == "DequantizeLinear" and len(node.input) > 2:
            zero = constants[node.input[2]]
            assert zero.dtype != np.int8 or not zero.any()
        dq = producers.get(node.input[1]) if node.op_type in ("Conv", "MatMul", "Gemm") else None
        if dq is not None and dq.op_type == "DequantizeLinear":
            weight = constants.get(dq.input[0])
            if weight is not None and weight.dtype == np.int8:
                assert np.abs(weight.astype(int)).max(initial=0) <= limit


def _has_biases_at_the_product_of_their_scales(result: Written) -> None:
    """The runtime takes s_x * s_w for granted; any other scale is silently ignored."""
    graph = result.proto.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {n.output[0]: n for n in graph.node}
    checked = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in producers:
            continue
        bias = producers[node.input[2]]
        if bias.op_type == "DequantizeLinear":
            x_scale, w_scale = (constants[producers[value].input[1]] for value in node.input[:2])
            wanted = (x_scale * w_scale).astype(np.float32)
            np.testing.assert_array_equal(constants[bias.input[1]], wanted)
            checked += 1
    ops = {n.name: n.op_type for n in graph.node}
    biased = [s for s in result.plan.sites if s.kind is Kind.BIAS]
    assert checked == sum(ops[s.uses[0][0]] != "Add" for s in biased if s.uses)


def _holds_every_weight_once(result: Written) -> None:
    """One initializer for each weight and granularity, however many nodes read it, and no floats of it."""
    wanted = {(s.value, s.spec) for s in result.plan.sites if s.kind in WEIGHTS}

    def integers(graph: onnx.GraphProto) -> int:
        matrices = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
        nested = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
        return sum("_zero_point" not in t.name for t in matrices) + sum(map(integers, nested))

    assert integers(result.proto.graph) == len(wanted)
    floats = {
        t.name for t in result.proto.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1
    }
    assert not floats & {value for value, _ in wanted}


def _runs_in_int8_exactly_what_was_planned(result: Written) -> None:
    """No node of the plan stays float, and the runtime quantizes none on its own."""
    ops = ran(result.data)
    nodes = result.candidate.model.view.node_by_name
    planned = Counter(nodes[n].op_type for n, form in result.plan.forms.items() if form is Form.INT8)
    assert ops["QLinearConv"] == planned["Conv"]
    assert sum(ops[op] for op in MATRIX_PRODUCTS) == planned["MatMul"] + planned["Gemm"]


def test_stored_weights_are_folded_by_the_runtime() -> None:
    """int8 -> Cast -> Mul costs nothing at run time: no such node is left after optimization."""
    case = CASES["shared-weights"]
    result = write(case.build(), case.samples(), "cpu", mode="weight-only")
    assert [s.value for s in result.plan.sites if s.kind is Kind.STORED]
    left = ran(result.data).keys()
    assert not left & {"Cast", "Mul", "DequantizeLinear"}


def test_a_weight_both_in_int8_and_stored_is_right_in_both() -> None:
    """The 4 bits of one consumer must not change the integers of the other."""
    case = CASES["shared-weights"]
    for target in COMMON:
        both = write(case.build(), case.samples(), target)
        half = write(case.build(), case.samples(), target, sets=["Conv_c1=int4"])
        expected = run(both.original, both.samples)
        kinds = {s.kind for s in half.plan.sites if s.value == "w"}
        assert kinds == {Kind.WEIGHT, Kind.STORED}
        assert sqnr(expected, run(half.data, half.samples)) >= 15, target
