"""Every graph of the zoo on every target: valid, faithful, and the same to every runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from qtool.graph.save import to_bytes
from qtool.plan.model import WEIGHTS, Kind
from qtool.rewrite.write import rewrite
from qtool.tables.forms import Form
from qtool.tables.qtypes import PerTensor
from qtool.tables.targets import TARGETS
from tests.rewrite.flow import Written, evaluate, run, sqnr, write, written
from tests.rewrite.zoo import CASES

# Two forms of one computation may round a tie apart here and there. A runtime that computes
# something else (a Q moved, a bias at another scale) shows as noise like that of quantization itself.
APART_FROM_NOISE_DB = 6.0
MATRIX_PRODUCTS = ("MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")


@pytest.fixture(params=[(c, t) for c in CASES for t in TARGETS], ids=lambda p: f"{p[0]}-{p[1]}")
def result(request: pytest.FixtureRequest) -> Written:
    """Each case on each target."""
    return written(*request.param)


@pytest.fixture
def floor(request: pytest.FixtureRequest) -> float:
    return CASES[request.node.callspec.params["result"][0]].floor


def test_passes_the_full_check(result: Written) -> None:
    onnx.checker.check_model(result.proto, full_check=True)


def test_keeps_input_and_output_names_types_and_order(result: Written) -> None:
    before, after = result.original.graph, result.proto.graph
    assert [(i.name, i.type) for i in after.input] == [(i.name, i.type) for i in before.input]
    assert [o.name for o in after.output] == [o.name for o in before.output]
    types = [[o.type.tensor_type.elem_type for o in g.output] for g in (before, after)]
    assert types[0] == types[1]


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_runs_near_fp32_and_finite(result: Written, floor: float, optimize: bool) -> None:
    expected = run(result.original, result.samples)
    got = run(result.data, result.samples, optimize)
    assert all(np.isfinite(v).all() for o in got for v in o.values())
    assert all(a[k].shape == b[k].shape for a, b in zip(expected, got, strict=True) for k in a)
    assert sqnr(expected, got) >= floor


def test_optimizations_change_nothing_but_ties(result: Written) -> None:
    expected = run(result.original, result.samples)
    plain = run(result.data, result.samples, optimize=False)
    fused = run(result.data, result.samples, optimize=True)
    assert sqnr(plain, fused) >= sqnr(expected, plain) + APART_FROM_NOISE_DB


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_generic_means_the_same_to_the_reference(case: str) -> None:
    result = written(case, "generic")
    assert (
        sqnr(run(result.data, result.samples, optimize=False), evaluate(result.data, result.samples)) >= 100
    )


@pytest.mark.parametrize("case", CASES)
def test_generic_is_standard_onnx(case: str) -> None:
    assert {o.domain for o in written(case, "generic").proto.opset_import} <= {"", "ai.onnx"}


def test_original_and_prepared_models_stay_as_they_were(result: Written) -> None:
    case = next(c for c, row in CASES.items() if written(c, result.plan.target).data == result.data)
    assert result.original == CASES[case].build()
    before = to_bytes(result.candidate.model.model)
    rewrite(result.candidate.model.model, result.plan)
    assert to_bytes(result.candidate.model.model) == before


def test_same_plan_gives_the_same_bytes(result: Written) -> None:
    assert to_bytes(rewrite(result.candidate.model.model, result.plan)) == result.data


def test_scales_are_rank_0_exactly_where_they_are_per_tensor(result: Written) -> None:
    """The runtime fuses nothing around a scale of shape [1]."""
    for site in result.plan.sites:
        if site.qparams is not None and isinstance(site.spec.granularity, PerTensor):
            assert site.qparams.scale.shape == site.qparams.zero_point.shape == ()
    constants = {t.name: t for t in result.proto.graph.initializer}
    for node in result.proto.graph.node:
        if node.op_type == "QuantizeLinear":
            assert [list(constants[name].dims) for name in node.input[1:]] == [[], []]


def test_signed_zero_points_are_zero(result: Written) -> None:
    constants = {t.name: t for t in result.proto.graph.initializer}
    for node in result.proto.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) > 2:
            zero = constants[node.input[2]]
            assert zero.data_type != TensorProto.INT8 or not numpy_helper.to_array(zero).any()


def test_weights_stay_within_the_target_s_range(result: Written) -> None:
    """u8 x s8 saturates on AVX2 beyond 7 bits; -128 would make -x less precise than x."""
    limit = TARGETS[result.plan.target].weight.qmax
    constants = {t.name: numpy_helper.to_array(t) for t in result.proto.graph.initializer}
    made = {n.output[0]: n for n in result.proto.graph.node}
    for node in result.proto.graph.node:
        weights = [node.input[1]] if node.op_type in ("Conv", "MatMul", "Gemm") else []
        sources = [made[w].input[0] for w in weights if w in made and made[w].op_type == "DequantizeLinear"]
        for name in sources:
            if name in constants and constants[name].dtype == np.int8:
                assert np.abs(constants[name].astype(int)).max(initial=0) <= limit


def test_int32_biases_lie_at_the_product_of_their_scales_in_the_file(result: Written) -> None:
    """The runtime takes s_x * s_w for granted; any other scale is silently ignored."""
    graph = result.proto.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made = {n.output[0]: n for n in graph.node}

    def scale_of(value: str) -> np.ndarray:
        node = made[value]
        return constants[node.input[1]]

    checked = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in made:
            continue
        bias = made[node.input[2]]
        if bias.op_type == "DequantizeLinear":
            wanted = scale_of(node.input[0]) * scale_of(node.input[1])
            np.testing.assert_array_equal(constants[bias.input[1]], wanted.astype(np.float32))
            checked += 1
    biased = [s for s in result.plan.sites if s.kind is Kind.BIAS]
    ops = {n.name: n.op_type for n in graph.node}
    assert checked == sum(ops[s.uses[0][0]] != "Add" for s in biased if s.uses)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", [t for t, row in TARGETS.items() if row.onnxruntime])
def test_onnxruntime_runs_in_int8_exactly_what_was_planned(case: str, target: str, tmp_path: Path) -> None:
    """Nothing that was placed stays float, and the runtime quantizes nothing on its own."""
    result = written(case, target)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(result.data, options, providers=["CPUExecutionProvider"])
    ran = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    nodes = result.candidate.model.view.node_by_name
    planned = Counter(nodes[n].op_type for n, form in result.plan.forms.items() if form is Form.INT8)
    assert ran["QLinearConv"] == planned["Conv"]
    assert sum(ran[op] for op in MATRIX_PRODUCTS) == planned["MatMul"] + planned["Gemm"]


def test_every_weight_s_integers_are_in_the_file_once(result: Written) -> None:
    """One initializer for each weight and granularity, however many nodes read it."""
    wanted = {(s.value, s.spec) for s in result.plan.sites if s.kind in WEIGHTS}

    def integers(graph: onnx.GraphProto) -> int:
        own = sum(t.data_type == TensorProto.INT8 and len(t.dims) > 1 for t in graph.initializer)
        own -= sum(t.name.split("_zero_point")[0] != t.name for t in graph.initializer if len(t.dims) > 1)
        return own + sum(
            integers(a.g) for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH
        )

    assert integers(result.proto.graph) == len(wanted)


def test_no_float_weight_is_left_that_the_plan_quantized(result: Written) -> None:
    floats = {
        t.name for t in result.proto.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1
    }
    everywhere = {s.value for s in result.plan.sites if s.kind in WEIGHTS}
    assert not floats & everywhere


def test_names_stay_unique(result: Written) -> None:
    graph = result.proto.graph
    names = [n.name for n in graph.node]
    values = [o for n in graph.node for o in n.output if o]
    values += [t.name for t in graph.initializer] + [i.name for i in graph.input]
    assert max(Counter(names).values()) == max(Counter(values).values()) == 1


def test_stored_weights_are_folded_by_the_runtime(tmp_path: Path) -> None:
    """int8 -> Cast -> Mul costs nothing at run time: no such node is left after optimization."""
    case = CASES["shared-weights"]
    result = write(case.build(), case.samples(), "cpu", mode="weight-only")
    assert [s.value for s in result.plan.sites if s.kind is Kind.STORED]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(result.data, options, providers=["CPUExecutionProvider"])
    left = {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not left & {"Cast", "Mul", "DequantizeLinear"}


def test_a_weight_both_in_int8_and_stored_is_right_in_both() -> None:
    """What one of two readers has in 4 bits must not change the integers of the other."""
    case = CASES["shared-weights"]
    for target in TARGETS:
        both = write(case.build(), case.samples(), target)
        half = write(case.build(), case.samples(), target, sets=["Conv_c1=int4"])
        expected = run(both.original, both.samples)
        kinds = {s.kind for s in half.plan.sites if s.value == "w"}
        assert kinds == {Kind.WEIGHT, Kind.STORED}
        assert sqnr(expected, run(half.data, half.samples)) >= 15, target
