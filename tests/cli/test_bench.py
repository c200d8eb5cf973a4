"""`qtool bench`, as a user runs it. How fast anything is, is no test's business: only that it is told, and how."""

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


def bench(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return run("bench", *arguments, *BRIEF, **how)


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


def test_the_table_has_a_row_a_model_and_says_how_it_was_timed(place: Workplace) -> None:
    done = bench(place.model, place.quantized, "--data", place.calib)
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
    for path in (place.model, place.quantized):
        assert done.stdout.count(str(path)) == 2  # latency, cost
    assert "can't be told: too few rounds" in done.stdout  # in half a second
    assert "warning: less than 6 rounds" in done.stderr


def test_json_is_one_document_with_all_of_it(place: Workplace) -> None:
    done = bench(
        place.model, place.quantized, "--data", place.calib, "--json", "--profile-ops", "--threads", 2
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["threads"], document["synthetic"]) == ("qtool.bench/1", 2, False)
    first, second = document["models"]
    assert (first["speedup"], first["verdict"], first["size_ratio"]) == (None, "", 1.0)
    assert second["size_ratio"] == place.quantized.stat().st_size / place.model.stat().st_size
    assert second["speedup"]["median"] > 0
    for one in (first, second):
        latency, memory, times = one["latency"], one["memory"], one["op_times"]
        assert 0 < latency["p50"] <= latency["p90"]
        assert latency["inferences"] > 0 < one["load_ms"]
        assert memory["idle"] <= memory["loaded"] <= memory["peak"]
        assert sum(op["share"] for op in times["ops"]) == pytest.approx(1)
        assert all(n["ms"] <= times["ms"] for n in times["slowest"])
    assert {"QuantizeLinear", "DequantizeLinear"} & {op["op"] for op in second["op_times"]["ops"]}


def test_ops_and_nodes_are_side_by_side(place: Workplace) -> None:
    done = bench(place.model, place.quantized, "--data", place.calib, "--profile-ops")
    assert done.returncode == 0, done.stderr
    for word in (
        "model.onnx share",
        "int8.onnx share",
        "int8.onnx nodes",
        "QuantizeLinear",
        "slowest nodes",
        "between nodes",
    ):
        assert word in done.stdout


def test_one_model_has_latency_and_nothing_to_be_held_against(here: Path) -> None:
    done = bench("a.onnx", "--data", "samples", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict" not in done.stdout
    assert "a.onnx" in done.stdout


def test_the_same_path_twice_is_two_models(here: Path) -> None:
    done = bench("a.onnx", "a.onnx", "--data", "samples", "--json", "--profile-ops", cwd=here)
    assert [m["path"] for m in json.loads(done.stdout)["models"]] == ["a.onnx", "a.onnx"]
    shown = bench("a.onnx", "a.onnx", "--data", "samples", "--profile-ops", cwd=here).stdout
    assert "a.onnx #1 ms" in shown
    assert "a.onnx #2 ms" in shown


def test_random_samples_do_and_are_said_to_be_made_up(here: Path) -> None:
    done = bench("a.onnx", "--data", "random:2", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 samples of random:2, made up: it says nothing of accuracy" in done.stdout
    gated = bench("a.onnx", "a.onnx", "--data", "random:2", "--fail-if", "size>1", "--json", cwd=here)
    assert gated.returncode == 0, gated.stderr
    assert json.loads(gated.stdout)["synthetic"] is True


def test_integers_are_fed_to_a_model_that_takes_them(place: Workplace, tmp_path: Path) -> None:
    made = run(
        "quantize",
        place.model,
        "-o",
        tmp_path / "io.onnx",
        "--calib",
        place.calib,
        "--target",
        "generic",
        "--io",
        "int8",
    )
    assert made.returncode == 0, made.stderr
    done = bench(place.model, tmp_path / "io.onnx", "--data", place.calib)
    assert done.returncode == 0, done.stderr


def test_external_data_is_in_the_size(here: Path) -> None:
    onnx.save_model(
        chain(), here / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=64
    )
    done = bench("a.onnx", "ext.onnx", "--data", "samples", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    size = sum((here / name).stat().st_size for name in ("ext.onnx", "w.bin"))
    assert json.loads(done.stdout)["models"][1]["bytes"] == size


def test_a_model_on_stdin_is_called_so(here: Path) -> None:
    words = ["bench", "-", "a.onnx", "--data", "samples", *BRIEF, "--fail-if", "size<2"]
    done = run_bytes(*words, cwd=here, given=(here / "a.onnx").read_bytes())
    assert done.returncode == 1, done.stderr
    assert b"stdin " in done.stdout
    assert b"qtool-" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("gate", "code", "words"),
    [
        ("size>0.5", 0, ""),
        ("size>0.01", 1, "int8.onnx: size>0.01: size is 0."),
        ("speedup<0.0001", 1, "inconclusive: 0 to inf with 95% certainty"),  # of too few rounds
        ("speedup<1000", 1, "(time of the first model / its own)"),
    ],
)
def test_gates_exit_with_one_and_say_why(place: Workplace, gate: str, code: int, words: str) -> None:
    done = bench(place.model, place.quantized, "--data", place.calib, "--fail-if", gate, "-q")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert ("gate failed" in done.stderr) == bool(code)


A = ["a.onnx", "--data", "samples"]
MISTAKES: list[tuple[list[Any], int, list[str]]] = [
    ([], 2, ["bench needs a model", "qtool bench model.onnx int8.onnx --data SRC"]),
    (["a.onnx"], 2, ["bench needs samples", "--data random:8", "--shape"]),
    (["b.onnx", "--data", "samples"], 3, ["model 'b.onnx' does not exist"]),
    (["a.onnx", "a.onx", "--data", "samples"], 3, ["model 'a.onx' does not exist", "'a.onnx'"]),
    (["a.onnx", "samples/000.npz", "--data", "samples"], 3, ["000.npz: not a readable ONNX model"]),
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
def test_mistakes_are_named_with_what_to_do(
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
    assert done.stderr.startswith("error: gather.onnx: onnxruntime failed: ")


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


def test_no_file_appears_anywhere(here: Path) -> None:
    before = sorted(here.rglob("*"))
    tmp = here.with_name(here.name + "-tmp")
    tmp.mkdir()
    assert bench(*A, "--profile-ops", cwd=here, env={"TMPDIR": str(tmp)}).returncode == 0
    assert sorted(here.rglob("*")) == before
    assert list(tmp.iterdir()) == []


def test_python_has_the_same_for_paths_and_for_models_in_memory(here: Path) -> None:
    how = qtool.Benching(max_time=0.3, fail_if=["size>1"])
    found = qtool.bench([here / "a.onnx", chain()], samples(2, x=(2, 32)), how)
    assert isinstance(found, qtool.Bench)
    assert [m.path for m in found.models] == [str(here / "a.onnx"), "model"]
    assert (found.samples, found.failed) == (2, ())
    assert len(qtool.bench(chain(), "random:2", qtool.Benching(max_time=0.2)).models) == 1
    with pytest.raises(qtool.UsageError, match="number of threads"):
        qtool.bench(chain(), "random:2", qtool.Benching(threads=0))
    with pytest.raises(qtool.UsageError, match="needs a model"):
        qtool.bench([], "random:2")
