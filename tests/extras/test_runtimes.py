"""Quantize, race and judge in OpenVINO: by onnxruntime's plugin where that takes this processor, else directly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.runtime.cpu import fitting_target
from qtool.runtime.providers import precisions_here
from qtool.runtime.session import Session
from qtool.tables.runtimes import RUNTIMES
from tests.graphs import SAMPLE_MODELS, model, node

CNN, LSTM = SAMPLE_MODELS / "cnn", SAMPLE_MODELS / "lstm"
HERE = fitting_target("openvino")
# SQNR in dB between the two runtimes: OpenVINO keeps float results where onnxruntime rounds once more.
FLOOR = 30.0


def options(folder: Path = CNN, **more: object) -> qtool.Options:
    chosen = {
        "calib": folder / "calib",
        "effort": "fast",
        "threads": 1,
        "force": True,
        "gate": "none",
        **more,
    }
    return qtool.Options(**chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> qtool.Result:
    out = tmp_path_factory.mktemp("openvino") / "q.onnx"
    return qtool.quantize(CNN / "model.onnx", out, options(target=HERE))


@pytest.fixture
def file(result: qtool.Result) -> Path:
    assert result.report.quantized
    return Path(result.report.quantized.path)


def test_the_same_file_means_the_same_in_both_runtimes(file: Path) -> None:
    plain = onnxruntime.SessionOptions()  # not its int8 kernels, which saturate on a CPU without VNNI
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    first, second = onnxruntime.InferenceSession(file, plain), Session(file, threads=1, runtime="openvino")
    signal = noise = 0.0
    for sample in sorted((CNN / "eval").glob("*.npz"))[:8]:
        inputs = dict(np.load(sample))
        (expected,), (got,) = first.run(None, inputs), second.run(inputs)
        signal += float((expected.astype(float) ** 2).sum())
        noise += float(((expected.astype(float) - got) ** 2).sum())
    assert 10 * np.log10(signal / max(noise, 1e-30)) >= FLOOR


def test_the_report_names_the_runtime_and_its_lines_open_the_file(result: qtool.Result, file: Path) -> None:
    assert result.report.runtime.split(":")[0] == "openvino"
    names: dict[str, object] = {}
    exec("\n".join(result.report.opening), names)
    assert "session" in names or "model" in names


def test_the_metadata_name_precision_provider_and_options(result: qtool.Result, file: Path) -> None:
    metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert metadata["qtool.runtime"] == result.report.runtime
    assert metadata["qtool.provider"] == "OpenVINOExecutionProvider"
    device = json.loads(json.loads(metadata["qtool.provider_options"])["load_config"])["CPU"]
    assert device["INFERENCE_PRECISION_HINT"] == result.report.runtime.split(":")[1]


def test_biases_and_the_results_of_the_last_layer_stay_float(file: Path) -> None:
    graph = onnx.load(file).graph
    types = {t.name: t.data_type for t in graph.initializer}
    assert TensorProto.INT32 not in {
        types.get(n.input[0]) for n in graph.node if n.op_type == "DequantizeLinear"
    }
    producers = {name: n.op_type for n in graph.node for name in n.output}
    assert producers[graph.output[0].name] != "DequantizeLinear"


def test_a_recurrent_model_is_accepted_by_the_runtime(tmp_path: Path) -> None:
    done = qtool.quantize(LSTM / "model.onnx", tmp_path / "q.onnx", options(LSTM, target=HERE))
    assert done.ok
    assert done.report.comparison and done.report.comparison.sqnr > 20


def test_best_races_every_runtime_and_says_what_it_chose(tmp_path: Path) -> None:
    report = qtool.quantize(CNN / "model.onnx", tmp_path / "q.onnx", options(target="best")).report
    assert {t.target for t in report.targets} >= {fitting_target(), HERE}
    assert [t.target for t in report.targets if t.chosen] == [report.target]
    assert all(t.why for t in report.targets if not t.chosen)
    assert all(t.speedup for t in report.targets if t.runtime)


def test_tune_shows_one_front_over_targets() -> None:
    chosen = options(target=f"{fitting_target()},{HERE}", effort="balanced", recover="none")
    report = qtool.tune(CNN / "model.onnx", options=chosen, points=1).report
    names = {trial.name.split(":")[0] for trial in report.trials}
    assert names == {fitting_target(), HERE}
    assert report.chosen in {trial.name for trial in report.trials}


def test_other_precisions_are_candidates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenVINO computes in float32 where the processor lacks bf16: the flow is the same."""
    for module in ("qtool.runtime.providers", "qtool.placement.place"):
        monkeypatch.setattr(f"{module}.precisions_here", lambda row: list(row.precisions)[:2])
    chosen = options(LSTM, target=HERE, effort="balanced", recover="none")
    report = qtool.quantize(LSTM / "model.onnx", tmp_path / "q.onnx", chosen).report
    names = {trial.name for trial in report.trials}
    assert {"float", "float bf16"} <= names
    assert report.runtime == ("openvino:bf16" if report.chosen.endswith(" bf16") else "openvino:f32")


def test_compare_and_bench_run_in_the_runtime(file: Path) -> None:
    compared = qtool.compare(
        CNN / "model.onnx", file, CNN / "eval", qtool.Comparing(runtime="openvino", gate="none")
    )
    assert compared.comparison and compared.comparison.sqnr > 20
    benching = qtool.Benching(runtime=("onnxruntime", "openvino"), max_time=1)
    benched = qtool.bench([CNN / "model.onnx", file], CNN / "eval", benching)
    assert [m.runtime.split(":")[0] for m in benched.models] == ["onnxruntime", "openvino"]


def test_the_command_opens_the_runtime_behind_its_guard(tmp_path: Path) -> None:
    arguments = ["compare", CNN / "model.onnx", CNN / "model.onnx", "--data", CNN / "eval", "--samples", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "qtool", *arguments, "--runtime", "openvino", "--gate", "none"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "precision",
    [p for p in RUNTIMES["openvino"].precisions if p not in precisions_here(RUNTIMES["openvino"])],
)
def test_a_precision_that_the_processor_lacks_is_refused(precision: str) -> None:
    with pytest.raises(qtool.EnvironmentFailure, match=precision) as caught:
        Session(CNN / "model.onnx", runtime=f"openvino:{precision}")
    assert "f32" in caught.value.hint


def test_what_the_runtime_refuses_is_the_models_fault() -> None:
    foreign = model([node("Relu", ["x"], ["y"])], {"x": (1, 2)}, ["y"])
    foreign.graph.node[0].domain = "ai.example"
    foreign.opset_import.append(helper.make_opsetid("ai.example", 1))
    with pytest.raises(qtool.ModelError, match="OpenVINO|onnxruntime"):
        Session(foreign.SerializeToString(), runtime="openvino")
