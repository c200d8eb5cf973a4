"""Common idioms: near FP32 in every mode, in int8 where that is faster, in float for a stated reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from qtool.graph.view import float_constant
from qtool.plan.eligible import rule_of
from qtool.plan.model import WEIGHTS
from qtool.tables.modes import MODES
from tests.rewrite.flow import Written, ran, run, sqnr, write
from tests.sweep.zoo_idioms import IDIOMS
from tests.tiers import in_turn

FLOORS = {"static": 25.0, "dynamic": 30.0, "weight-only": 38.0}


@dataclass(frozen=True)
class OnCpu:
    """The ops of an idiom on a CPU.

    Args:
        ops: what onnxruntime runs, and how many of each; 0: none of them.
        floats: op -> what its reason for staying float says.
    """

    ops: dict[str, int]
    floats: dict[str, str] = field(default_factory=dict)


def _convs(count: int, ops: dict[str, int] | None = None, **floats: str) -> OnCpu:
    return OnCpu({"QLinearConv": count, "Conv": 0, "FusedConv": 0, **(ops or {})}, floats)


def _gemms(op: str, count: int, ops: dict[str, int] | None = None, **floats: str) -> OnCpu:
    return OnCpu({op: count, "Gemm": 0, "FusedGemm": 0, "MatMul": 0, **(ops or {})}, floats)


_NO_KERNEL = "no int8 kernel"
ON_CPU: dict[str, OnCpu] = {
    "conv-1d": _convs(2),
    "conv-3d": _convs(2),
    "conv-transpose": _convs(2, {"ConvTranspose": 1}, ConvTranspose="no int8 ConvTranspose kernel"),
    "conv-grouped": _convs(2, {"FusedConv": 1}, Conv="grouped convolution is 0.3x as fast"),
    "conv-dilated": _convs(3),
    "conv-auto-pad": _convs(4),
    "gemm-alpha-beta": _gemms("QGemm", 2),
    "gemm-trans-a": _gemms("QGemm", 2, {"Transpose": 0}),
    "gemm-any-c": _gemms("QGemm", 3, {"Add": 1}, Tanh=_NO_KERNEL),
    "matmul-stack": _gemms("MatMulIntegerToFloat", 2),
    "matmul-two-activations": _gemms("MatMulIntegerToFloat", 3, {"FusedMatMul": 1, "MatMul": 1}, MatMul="two activations", Softmax="0.16x"),
    "mlp-with-a-float-head": _gemms("QGemm", 3, {"QLinearAdd": 1}, Softmax="0.16x"),
    "prelu": _convs(4, {"PRelu": 0, "QLinearAdd": 1}),
    "prelu-one-slope": _convs(2, {"QLinearLeakyRelu": 1, "PRelu": 0}),
    "silu": _convs(2, {"QLinearSigmoid": 1, "QLinearMul": 1}),
    "hard-swish": _convs(2, HardSwish=_NO_KERNEL),
    "tanh": _convs(2, {"Tanh": 1}, Tanh=_NO_KERNEL),
    "gelu": _convs(2, {"Erf": 1}, Erf="no quantized form", Div="an operand is a constant"),
    "channel-shuffle": _convs(2, {"DequantizeLinear": 1, "Reshape": 2}),
    "depth-to-space": _convs(3, {"DequantizeLinear": 1, "DepthToSpace": 1}),
    "squeeze-excite": _convs(4, {"QLinearGlobalAveragePool": 1}, Mul="0.5-0.7x"),
    "squeeze-excite-hard": _convs(4, {"QLinearGlobalAveragePool": 1}, Mul="0.5-0.7x", HardSigmoid=_NO_KERNEL),
    "concat-heads": _convs(3, {"Concat": 1}, Concat="isolated"),
    "concat-unlike": _convs(5, {"QLinearConcat": 1}, Concat="no one scale suits"),
    "concat-clamped": _convs(4, {"QLinearConcat": 1}, Concat="the clamp of 'e' to 0..inf stays"),
    "residuals": _convs(4, {"QLinearAdd": 2, "Relu": 0, "DequantizeLinear": 1}),
    "residuals-before-relu": _convs(4, {"QLinearAdd": 2, "Relu": 0}),
    "average-pool": _convs(2, {"AveragePool": 1, "QLinearAveragePool": 0}, AveragePool="0.04-0.1x"),
    "average-pool-dilated": _convs(2, {"AveragePool": 1}, AveragePool="dilations"),
    "max-pool": _convs(2, {"NhwcMaxPool": 1, "DequantizeLinear": 1}),
    "spatial-attention": _convs(2, {"Softmax": 1, "QLinearSoftmax": 0}, Softmax="0.16x"),
    "lstm": _gemms("MatMulIntegerToFloat", 1, {"DynamicQuantizeLSTM": 1}),
    "gru": _gemms("MatMulIntegerToFloat", 1, {"GRU": 1}, GRU="no int8 GRU kernel"),
    "if": _gemms("MatMulIntegerToFloat", 3, {"DynamicQuantizeLinear": 1}, Relu="can't be observed"),
}  # fmt: skip


def test_every_idiom_has_an_expectation() -> None:
    assert {f"idiom-{name}" for name in ON_CPU} == IDIOMS.keys()


@pytest.mark.parametrize(("idiom", "target", "mode"), in_turn(ON_CPU, ["cpu", "generic"], FLOORS))
def test_stays_near_fp32(idiom: str, target: str, mode: str) -> None:
    specimen = IDIOMS[f"idiom-{idiom}"]
    result = write(specimen.model(), specimen.samples(), target, mode=mode)
    _stores_every_large_weight(result, mode)
    expected = run(result.original, result.samples)
    for optimize in (True, False):
        got = run(result.data, result.samples, optimize)
        assert all(np.isfinite(v).all() for o in got for v in o.values())
        assert sqnr(expected, got) >= FLOORS[mode]


def _stores_every_large_weight(result: Written, mode: str) -> None:
    """Every large weight takes 8 bits, and every other node has a reason."""
    plan, view = result.plan, result.candidate.model.view
    explained = {s.node for s in plan.skips if str(s.reason)}
    stored = {s.value for s in plan.sites if s.kind in WEIGHTS}
    for node in view.nodes:
        rule = rule_of(node)
        if rule is None or node.name in plan.forms:
            continue
        assert node.name in explained or not any(v.dtype == 1 for v in node.outputs), node.name
        for value in (node.inputs[i] for i in rule.weight if i < len(node.inputs)):
            array = float_constant(value)
            if value is not None and array is not None and array.size >= MODES[mode].storage_min_elements:
                assert value.name in stored, value.name


@pytest.mark.parametrize("idiom", ON_CPU)
def test_cpus_run_fast_ops_in_int8(idiom: str) -> None:
    """Ops that are faster in int8 run in int8, and those in float have their reason."""
    specimen = IDIOMS[f"idiom-{idiom}"]
    result = write(specimen.model(), specimen.samples(), "cpu", mode="static")
    ops, wanted = ran(result.data), ON_CPU[idiom].ops
    assert {op: ops[op] for op in wanted} == wanted, ops
    for op, words in ON_CPU[idiom].floats.items():
        skips = result.plan.skips
        assert any(words in str(s.reason) for s in skips if s.op == op), (op, skips)
