"""The audit finds the nodes that the runtime runs in another way than planned, and barriers mend them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import qtool
from qtool.evaluate.audit import Audit, audit, write_audited
from qtool.graph.save import staged
from qtool.plan.candidate import Candidate
from qtool.plan.model import Dequantizer, EditKind
from qtool.rewrite.write import written
from tests.graphs import node, samples, weights, write_samples
from tests.plan.build import model
from tests.plan.flow import candidate
from tests.plan.test_barriers import BETWEEN, graph

CNN = [
    node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
    node("Relu", ["a"], ["r"]),
    node("Conv", ["r", "w1"], ["b"], pads=[1, 1, 1, 1]),
    node("Sigmoid", ["b"], ["s"]),
    node("Conv", ["s", "w2"], ["y"], pads=[1, 1, 1, 1]),
]
MLP = [
    node("Gemm", ["x", "v0", "d"], ["g"]),
    node("Relu", ["g"], ["r"]),
    node("Softmax", ["r"], ["s"]),
    node("MatMul", ["s", "v1"], ["y"]),
]
CONSTANTS = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(3)}
CONSTANTS |= {"v0": weights(64, 64), "v1": weights(64, 64, seed=1), "d": weights(64, seed=2)}
INPUTS = {"cnn": [1, 16, 8, 8], "mlp": [24, 64]}


def _built(name: str, opset: int = 17) -> onnx.ModelProto:
    nodes = CNN if name == "cnn" else MLP
    used = {i for n in nodes for i in n.input}
    return model(
        nodes, {"x": INPUTS[name]}, ["y"], {k: v for k, v in CONSTANTS.items() if k in used}, opset=opset
    )


def _candidate(proto: onnx.ModelProto, **options: Any) -> Candidate:
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    return candidate(proto, samples(4, x=shape), options.pop("target", "cpu-avx2"), **options)


def _audited(made: Candidate, tmp_path: Path, mend: bool = True) -> tuple[Candidate, Audit | None]:
    with staged(tmp_path / "q.onnx") as staging:
        done = write_audited(made, staging, lambda other, optimized: None, mend=mend)
        staging.commit()
    return done


def _without_barriers(made: Candidate) -> Candidate:
    kept = tuple(e for e in made.plan.edits if "BARRIER" not in e.kind.name)
    return replace(made, plan=replace(made.plan, edits=kept))


WAYS: dict[str, dict[str, Any]] = {
    "static": {},
    "qoperator": {"format": "qoperator"},
    "dynamic": {"mode": "dynamic", "include": ["op:Gemm", "op:MatMul"]},
    "weight-only": {"mode": "weight-only"},
    "4-bit": {"mode": "weight-only", "bits": 4, "prefer": "speed", "include": ["op:Gemm", "op:MatMul"]},
}


@pytest.mark.parametrize(
    ("name", "way"),
    # The network of convolutions has no product to include.
    [(n, w) for n in INPUTS for w in WAYS if n != "cnn" or "include" not in WAYS[w]],
)
def test_models_as_they_are_written_run_as_planned(tmp_path: Path, name: str, way: str) -> None:
    made = _candidate(_built(name), **WAYS[way])
    assert made.plan.sites
    _, outcome = _audited(made, tmp_path)
    assert outcome is not None
    assert (outcome.deviations, outcome.barriers) == ((), ())
    assert outcome.kernels


@pytest.mark.parametrize("between", sorted(BETWEEN.keys() - {"MaxPool"}))  # which is exact in integers
def test_a_float_node_that_the_runtime_quantizes_is_found_and_mended(tmp_path: Path, between: str) -> None:
    made = _candidate(graph(between, 1))
    bare = _without_barriers(made)
    _, outcome = _audited(bare, tmp_path, mend=False)
    assert outcome is not None
    assert [(d.node, d.planned) for d in outcome.harmful] == [("between", "float")]
    assert "does not run all nodes as planned" in " ".join(outcome.warnings)
    mended, after = _audited(bare, tmp_path)
    assert after is not None
    assert (after.harmful, after.barriers) == ((), ("f",))
    assert mended.plan.edits == made.plan.edits
    assert any(n.op_type == "Max" for n in onnx.load(tmp_path / "q.onnx").graph.node)


def test_an_int8_product_that_the_runtime_does_not_fuse_is_found_and_mended(tmp_path: Path) -> None:
    bare = _without_barriers(_candidate(_built("mlp")))
    _, outcome = _audited(bare, tmp_path, mend=False)
    assert outcome is not None
    assert [(d.node, d.planned, d.what) for d in outcome.harmful] == [("Gemm_g", "int8", "runs in float")]
    mended, after = _audited(bare, tmp_path)
    assert after is not None
    assert not after.harmful
    assert [e.kind for e in mended.plan.edits] == [EditKind.RESULT_BARRIER]


def test_a_barrier_that_does_not_help_is_taken_back(tmp_path: Path) -> None:
    """No integer kernel has this op, so that Q and DQ stand around a float one."""
    proto = _built("cnn")
    proto.graph.node[3].op_type = "Tanh"
    made = _candidate(proto, include=["op:Tanh"])
    done, outcome = _audited(made, tmp_path)
    assert outcome is not None
    assert [(d.op, d.kernels, d.what) for d in outcome.harmful] == [("Tanh", ("Tanh",), "runs in float")]
    assert done.plan == made.plan


def test_weights_of_one_scale_in_place_of_one_a_channel_are_found(tmp_path: Path) -> None:
    planned, other = (_candidate(_built("cnn"), per_tensor=per_tensor) for per_tensor in (False, True))
    with staged(tmp_path / "q.onnx") as staging:
        staging.write(written(other.model.model, other.plan))
        outcome = audit(staging.path, planned.model.view, planned.plan)
    assert {(d.op, d.what) for d in outcome.deviations} == {
        ("Conv", "has one scale for its weight, not one a channel")
    }


def test_stored_weights_that_become_floats_at_every_run_are_found(tmp_path: Path) -> None:
    made = _candidate(_built("mlp", 21), mode="weight-only")
    sites = tuple(replace(s, dequantizer=Dequantizer.OPERATOR) for s in made.plan.sites)
    with staged(tmp_path / "q.onnx") as staging:
        staging.write(written(made.model.model, replace(made.plan, sites=sites)))
        outcome = audit(staging.path, made.model.view, made.plan)
    assert {d.op for d in outcome.deviations} == {"Gemm", "MatMul"}
    assert all("at every run" in d.what for d in outcome.deviations)


def test_an_op_without_weight_between_integers_is_no_cause_for_a_warning(tmp_path: Path) -> None:
    """It gives what the file describes, in floats or in integers."""
    _, outcome = _audited(_candidate(_built("cnn"), exclude=["op:Sigmoid"]), tmp_path)
    assert outcome is not None
    assert [(d.op, d.exact) for d in outcome.deviations] == [("Sigmoid", True)]
    assert (outcome.warnings, outcome.barriers) == ((), ())


def test_the_scale_of_a_dynamic_quantization_is_no_integer(tmp_path: Path) -> None:
    """As in files of onnxruntime's dynamic quantization, whose scales are multiplied in float."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("Cast", ["q"], ["i"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["s", "c"], ["m"]),
        node("Mul", ["i", "m"], ["y"]),
    ]
    made = _candidate(model(nodes, {"x": [4, 8]}, ["y"], {"c": weights(1)}))
    _, outcome = _audited(made, tmp_path)
    assert outcome is not None
    assert not outcome.deviations


@pytest.mark.parametrize("options", [{"target": "generic"}, {"mode": "fp16"}], ids=["generic", "fp16"])
def test_files_that_are_not_for_kernels_of_a_cpu_are_not_audited(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    assert _audited(_candidate(_built("cnn"), **options), tmp_path)[1] is None


def test_outputs_that_the_optimizations_change_are_an_alarm() -> None:
    (line,) = Audit(3, sqnr=24.4, unoptimized=37.1).warnings
    assert "24.4 dB" in line
    assert "37.1 dB" in line
    for sqnr, unoptimized in ((36.0, 37.0), (37.0, 24.0), (float("inf"), float("inf")), (None, None)):
        assert not Audit(3, sqnr=sqnr, unoptimized=unoptimized).warnings


def test_the_report_tells_of_nodes_that_deviate(tmp_path: Path) -> None:
    proto = _built("cnn")
    proto.graph.node[3].op_type = "Tanh"
    calib = write_samples(tmp_path / "calib", samples(12, x=INPUTS["cnn"]))
    options = qtool.Options(
        calib=calib,
        target="cpu-avx2",
        timing="table",
        effort="fast",
        include=["op:Tanh"],
        explain=["op:Tanh"],
    )
    report = qtool.quantize(proto, tmp_path / "q.onnx", options).report
    assert report.audit is not None
    assert report.audit.sqnr == pytest.approx(report.audit.unoptimized, abs=1)
    assert any("Tanh" in w and "as planned" in w for w in report.warnings)
    assert "runs in float (Tanh)" in report.explained[0].why
    assert "### Not run as planned" in report.to_markdown()


def test_the_bias_of_an_int8_product_may_be_added_in_float(tmp_path: Path) -> None:
    nodes = [
        node("Squeeze", ["x"], ["s"]),
        node("MatMul", ["s", "v0"], ["m"]),
        node("Add", ["m", "d"], ["y"]),
    ]
    proto = model(nodes, {"x": ["n", 24, 64]}, ["y"], {k: CONSTANTS[k] for k in ("v0", "d")})
    made = candidate(proto, samples(4, x=(2, 24, 64)), "cpu-avx2")
    assert "Add_y" in made.plan.forms
    _, outcome = _audited(made, tmp_path)
    assert outcome is not None and outcome.deviations == ()
