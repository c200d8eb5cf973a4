"""`qtool bench`, as a user runs it. No test depends on a speed, only on how speeds are reported."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from tests.cli.conftest import Workplace
from tests.cli.program import Program, run, run_bytes
from tests.graphs import model, node, samples, weights, write_samples

BRIEF = ("--max-time", "0.5")


def bench(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return run("bench", *arguments, *BRIEF, **options)


def chain(name: str = "x", width: int = 32) -> onnx.ModelProto:
    """Two products."""
    nodes = [
        node("MatMul", [name, "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": weights(width, 64), "v": weights(64, 8, seed=1)}
    return model(nodes, {name: ["n", width]}, {"y": ["n", 8]}, constants)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Models that take each other's samples, and models that do not."""
    for file, made in (("a", chain()), ("renamed", chain("input")), ("wider", chain(width=48))):
        onnx.save(made, tmp_path / f"{file}.onnx")
    write_samples(tmp_path / "samples", samples(3, x=(2, 32)))
    return tmp_path


@pytest.mark.nightly
def test_the_table_has_a_row_a_model_and_ops_and_nodes_side_by_side(place: Workplace, tmp_path: Path) -> None:
    integers = tmp_path / "io.onnx"
    words = ["--calib", place.calib, "--target", "generic", "--io", "int8"]
    assert run("quantize", place.model, "-o", integers, *words).returncode == 0
    done = bench(place.model, place.quantized, integers, "--data", place.calib, "--profile-ops")
    assert done.returncode == 0, done.stderr
    for word in (
        "p50 ms",
        "p99 ms",
        "load ms",
        "file bytes",
        "verdict",
        "1 thread; 8 samples of",
        "in turns",
    ):
        assert word in done.stdout
    for word in ("model.onnx share", "int8.onnx nodes", "QuantizeLinear", "slowest nodes", "between nodes"):
        assert word in done.stdout
    assert all(str(path) in done.stdout for path in (place.model, place.quantized, integers))
    assert "warning: less than 6 rounds" in done.stderr  # in half a second


def test_json_holds_every_measurement(place: Workplace, tmp_path: Path) -> None:
    """External data is in the size."""
    kept = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 64}
    onnx.save_model(onnx.load(place.quantized), tmp_path / "ext.onnx", **kept)
    words = ["--data", place.calib, "--json", "--profile-ops", "--threads", 2]
    done = bench(place.model, tmp_path / "ext.onnx", *words)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["threads"], document["synthetic"]) == ("qtool.bench/1", 2, False)
    first, second = document["models"]
    assert (first["speedup"], first["verdict"], first["size_ratio"]) == (None, "", 1.0)
    assert second["bytes"] == sum((tmp_path / name).stat().st_size for name in ("ext.onnx", "w.bin"))
    assert second["size_ratio"] == second["bytes"] / place.model.stat().st_size
    assert second["speedup"]["median"] > 0
    for one in (first, second):
        latency, memory, times = one["latency"], one["memory"], one["op_times"]
        assert latency["p50"] > 0  # of few inferences there are no higher percentiles
        assert latency["inferences"] > 0 < one["load_ms"]
        assert memory["idle"] <= memory["loaded"] <= memory["peak"]
        assert sum(op["share"] for op in times["ops"]) == pytest.approx(1)
        assert all(n["ms"] <= times["ms"] for n in times["slowest"])
    assert {"QuantizeLinear", "DequantizeLinear"} & {op["op"] for op in second["op_times"]["ops"]}


@pytest.mark.nightly
def test_the_page_and_the_document_are_files(here: Path) -> None:
    words = ("a.onnx", "--data", "random:2", "--report", "b.html", "--report", "b.json")
    done = bench(*words, cwd=here)
    assert done.returncode == 0, done.stderr
    assert (here / "b.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    document = json.loads((here / "b.json").read_text(encoding="utf-8"))
    assert document["arguments"][:3] == ["qtool", "bench", "a.onnx"]
    done = bench(*words, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--force" in done.stderr


@pytest.mark.nightly
def test_one_model_has_latency_only_and_no_file_appears(here: Path) -> None:
    before = sorted(here.rglob("*"))
    tmp = here.with_name(here.name + "-tmp")
    tmp.mkdir()
    done = bench(*A, "--profile-ops", cwd=here, env={"TMPDIR": str(tmp)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict" not in done.stdout
    assert "a.onnx" in done.stdout
    assert sorted(here.rglob("*")) == before
    assert list(tmp.iterdir()) == []


@pytest.mark.nightly
def test_random_samples_do_and_the_same_path_twice_is_two_models(here: Path) -> None:
    done = bench("a.onnx", "a.onnx", "--data", "random:2", "--profile-ops", "--fail-if", "size>1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "2 samples of random:2, made up: it says nothing of accuracy" in done.stdout
    assert "a.onnx #1 ms" in done.stdout
    assert "a.onnx #2 ms" in done.stdout


@pytest.mark.nightly
def test_a_model_on_stdin_is_named_stdin(here: Path) -> None:
    words = ["bench", "-", "a.onnx", "--data", "samples", *BRIEF, "--fail-if", "size<2"]
    done = run_bytes(*words, cwd=here, content=(here / "a.onnx").read_bytes())
    assert done.returncode == 1, done.stderr
    assert b"stdin " in done.stdout
    assert b"qtool-" not in done.stdout + done.stderr


def test_each_failed_gate_says_why(place: Workplace) -> None:
    gates = ["size>0.5", "size>0.01", "speedup<0.0001", "speedup<1000"]
    words = [word for gate in gates for word in ("--fail-if", gate)]
    done = bench(place.model, place.quantized, "--data", place.calib, *words, "-q")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.count("gate failed") for line in done.stderr.splitlines()].count(1) == 3
    for said in (
        "int8.onnx: size>0.01: size is 0.",
        "inconclusive: 0 to inf with 95% certainty",  # of too few rounds
        "(time of the first model / its own)",
    ):
        assert said in done.stderr


A = ["a.onnx", "--data", "samples"]
MISTAKES: list[tuple[list[Any], int, list[str]]] = [
    ([], 2, ["bench needs a model", "qtool bench model.onnx int8.onnx --data SRC"]),
    (["a.onnx"], 2, ["bench needs samples", "--data random:8", "--shape"]),
    (["b.onnx", "--data", "samples"], 3, ["model 'b.onnx' does not exist"]),
    (["a.onnx", "a.onx", "--data", "samples"], 3, ["model 'a.onx' does not exist", "'a.onnx'"]),
    (["a.onnx", "samples/000.npz", "--data", "samples"], 3, ["000.npz: a numpy archive"]),
    (["a.onnx", "renamed.onnx", "--data", "samples"], 3, ["renamed.onnx has no input 'x', which a.onnx has (it has: input)"]),
    (["a.onnx", "wider.onnx", "--data", "samples"], 4, ["wider.onnx: samples/000.npz: input 'x' has shape (2, 32); the model wants (n, 48)"]),
    (["renamed.onnx", "--data", "samples"], 4, ["000.npz has no input 'input' (it has: x)", "--map 'x=input'"]),
    (["a.onnx", "--data", "nowhere"], 4, ["'nowhere' does not exist"]),
    (["a.onnx", "--data", "random:0"], 2, ["'random:0': how many samples?"]),
    ([*A, "--fail-if", "speedup<1"], 2, ["nothing to hold the model against", "qtool bench A B"]),
    ([*A, "a.onnx", "--fail-if", "sqnr<20"], 2, ["bench does not measure sqnr", "metrics here: speedup, size"]),
    ([*A, "a.onnx", "--fail-if", "sped<20"], 2, ["no metric 'sped'", "speedup"]),
    ([*A, "--threads", "0"], 2, ["--threads", "0 is not in the range"]),
    ([*A, "--max-time", "0"], 2, ["--max-time", "0.0 is not in the range"]),
    ([*A, "--preset", "unit"], 2, ["--preset is for samples of the kind images"]),
    (["-", "-", "--data", "samples"], 2, ["only one model can come from stdin"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES)
def test_usage_errors_have_a_message_and_a_hint(
    here: Path, arguments: list[Any], code: int, words: list[str]
) -> None:
    done = run("bench", *arguments, cwd=here)
    assert (done.returncode, done.stdout) == (code, "")
    for word in words:
        assert word in done.stderr


def test_a_model_that_fails_on_the_samples_is_named(here: Path) -> None:
    """An index beyond the table: the runtime finds out when it runs."""
    made = model(
        [node("Gather", ["t", "x"], ["y"])],
        {"x": [2]},
        ["y"],
        {"t": weights(4, 3)},
        input_type=onnx.TensorProto.INT64,
    )
    onnx.save(made, here / "gather.onnx")
    np.savez(here / "far.npz", x=np.array([0, 9], np.int64))
    (here / "far").mkdir()
    (here / "far.npz").rename(here / "far" / "0.npz")
    done = bench("gather.onnx", "--data", "far", cwd=here)
    assert done.returncode == 6
    assert done.stderr.startswith("error: far/0.npz: gather.onnx: onnxruntime failed: ")


def test_interrupted_it_leaves_nothing_behind(here: Path) -> None:
    tmp = here / "tmp"
    tmp.mkdir()
    words = ["bench", "a.onnx", "a.onnx", "--data", "samples", "--max-time", "60"]
    process = Program(*words, cwd=here, env={"TMPDIR": str(tmp)})
    while not any(tmp.iterdir()):  # until it is at work
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors.split()) == (130, [b"error:", b"interrupted"])
    assert list(tmp.iterdir()) == []


@pytest.mark.nightly
def test_python_has_the_same_for_paths_and_for_models_in_memory(here: Path) -> None:
    options = qtool.Benching(max_time=0.3, fail_if=["size>1"])
    result = qtool.bench([here / "a.onnx", chain()], samples(2, x=(2, 32)), options)
    assert isinstance(result, qtool.Bench)
    assert [m.path for m in result.models] == [str(here / "a.onnx"), "model"]
    assert (result.samples, result.failed) == (2, ())
    assert len(qtool.bench(chain(), "random:2", qtool.Benching(max_time=0.2)).models) == 1
    with pytest.raises(qtool.UsageError, match="number of threads"):
        qtool.bench(chain(), "random:2", qtool.Benching(threads=0))
    with pytest.raises(qtool.UsageError, match="needs a model"):
        qtool.bench([], "random:2")
