"""`qtool tune` and `--explain`, by the installed program: what is printed, written and refused."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Workplace
from tests.cli.program import run as run_quietly
from tests.graphs import ROOT, SAMPLE_MODELS

# A front is measured; times are not.
run = partial(run_quietly, env={"QTOOL_EFFORT": "balanced"})

CNN = SAMPLE_MODELS / "cnn"
SHARED = ROOT.parent / "shared" / "models"
BRIEFLY = ("--samples", 12, "--recover", "none")


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@dataclass(frozen=True)
class Tuned:
    """A run of tune with all that it writes."""

    folder: Path
    stdout: str
    report: Mapping[str, Any]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    done = run(
        "tune", CNN / "model.onnx", "--calib", CNN / "calib", "-o", folder / "q.onnx", "--save-plan",
        folder / "plan.json", "--svg", folder / "front.svg", "--report", folder / "run.json", "--points", 4,
        "--explain", "op:Gemm", "--gate", "none", "--samples", 16, "--recover", "gptq",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Tuned(folder, done.stdout, json.loads((folder / "run.json").read_text()))


def test_every_point_is_in_the_table_and_in_the_picture(tuned: Tuned) -> None:
    trials = tuned.report["trials"]
    names = {t["name"] for t in trials}
    assert tuned.report["command"] == "tune"
    assert 3 <= len(names) == len(trials) <= 7
    assert "float" in names
    assert {*tuned.report["front"]} <= names
    for trial in trials:
        assert any(line.startswith(trial["name"]) for line in tuned.stdout.splitlines())
    picture = (tuned.folder / "front.svg").read_text(encoding="utf-8")
    assert all(name in picture for name in tuned.report["front"])


def test_the_written_size_is_the_reported_size(tuned: Tuned) -> None:
    size = (tuned.folder / "q.onnx").stat().st_size
    assert tuned.report["quantized"]["bytes"] == size
    if chosen := tuned.report["chosen"]:  # unless the last race, on all samples, has decided otherwise
        assert next(t["bytes"] for t in tuned.report["trials"] if t["name"] == chosen) == size


def test_the_saved_plan_gives_the_same_bytes_and_still_explains(tuned: Tuned, tmp_path: Path) -> None:
    done = run(
        "quantize", CNN / "model.onnx", "--plan", tuned.folder / "plan.json", "-o", tmp_path / "r.onnx",
        "--explain", "op:Gemm", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.onnx").read_bytes() == (tuned.folder / "q.onnx").read_bytes()
    assert json.loads(done.stdout)["explained"] == tuned.report["explained"]


def test_explain_shows_the_measured_times(tuned: Tuned) -> None:
    (node,) = tuned.report["explained"]
    assert node["op"] == "Gemm"
    region = node["region"]
    assert node["node"] in region["nodes"]
    assert min(region["float_us"], region["int8_us"]) >= 0
    assert node["why"] in " ".join(tuned.stdout.split())


def test_a_saved_run_is_shown_again(tuned: Tuned) -> None:
    done = run("report", tuned.folder / "run.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == tuned.stdout


def test_without_output_nothing_is_written(tmp_path: Path) -> None:
    shutil.copy(CNN / "model.onnx", tmp_path)
    done = run(
        "tune", "model.onnx", "--calib", CNN / "calib", "--points", 1, *BRIEFLY, "--json",
        cwd=tmp_path, env={"TMPDIR": str(tmp_path), "QTOOL_EFFORT": "balanced"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert left(tmp_path) == ["model.onnx"]
    assert not report["written"]
    assert all(t["interval"] is None for t in report["trials"])
    assert report["comparison"]["sqnr"] > 20


def test_weight_only_tunes_bits(tmp_path: Path) -> None:
    done = run(
        "tune", CNN / "model.onnx", "--calib", CNN / "calib", "--mode", "weight-only", "--points", 3, "--json",
        "-o", tmp_path / "w.onnx", "--max-size", "110KB", *BRIEFLY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["trials"]) == 4
    assert len({t["bytes"] for t in report["trials"]}) == 4
    assert (tmp_path / "w.onnx").stat().st_size <= 110_000


def test_1_a_failed_gate_leaves_no_model_and_the_picture(tmp_path: Path) -> None:
    done = run(
        "tune", CNN / "model.onnx", "--calib", CNN / "calib", "-o", tmp_path / "q.onnx", "--points", 1, "--svg",
        tmp_path / "f.svg", "--save-plan", tmp_path / "p.json", "--max-size", 10, *BRIEFLY,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "gate failed: --max-size 10 bytes" in done.stderr
    assert left(tmp_path) == ["f.svg"]


A = ["model.onnx", "--calib", "calib"]
MISTAKES: list[tuple[list[Any], int, list[str]]] = [
    ([], 2, ["Missing argument 'MODEL'"]),
    (["model.onnx"], 2, ["needs samples", "--calib SRC"]),
    (["model.onnx", "--calib", "none"], 2, ["tune measures errors and times on samples"]),
    (["model.onnx", "--calib", "random:8"], 2, ["random data", "--calib SRC"]),
    (["model.onx", "--calib", "calib"], 3, ["model 'model.onx' does not exist", "model.onnx"]),
    (["model.onnx", "--calib", "nowhere"], 4, ["'nowhere' does not exist"]),
    ([*A, "--mode", "fp16"], 2, ["nothing to tune", "qtool quantize --mode fp16"]),
    ([*A, "--target", "generic"], 2, ["another runtime"]),
    ([*A, "--acts", "uint8"], 2, ["--acts", "leave them out"]),
    ([*A, "-o", "model.onnx"], 2, ["is the input"]),
    ([*A, "-o", "there.onnx"], 2, ["exists", "--force"]),
    ([*A, "-o", "q.onnx", "--svg", "q.onnx"], 2, ["--svg 'q.onnx' is the output"]),
    ([*A, "--svg", "a.x", "--save-plan", "a.x"], 2, ["--svg 'a.x' is --save-plan"]),
    ([*A, "--svg", "no/f.svg"], 5, ["'no' does not exist"]),
    ([*A, "--svg", "model.onnx", "--force"], 2, ["is the input"]),
    ([*A, "--points", 0], 2, ["--points"]),
    ([*A, "--explain", "hea/Gemm"], 2, ["--explain 'hea/Gemm': no node has that name", "did you mean"]),
    ([*A, "--explain", "op:Gem"], 2, ["the model has no such op", "Gemm"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    shutil.copy(CNN / "model.onnx", folder)
    shutil.copytree(CNN / "calib", folder / "calib")
    (folder / "there.onnx").write_bytes(b"old")
    return folder


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES)
def test_usage_errors_have_a_message_and_a_hint(
    here: Path, arguments: list[Any], code: int, words: list[str]
) -> None:
    before = left(here)
    done = run("tune", *arguments, cwd=here)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert [word for word in words if word not in done.stderr] == []
    assert left(here) == before


@pytest.mark.parametrize("pattern", ["op:MatMul", "*"])
def test_a_dry_run_explains_by_the_tables(place: Workplace, pattern: str) -> None:
    done = run("quantize", place.model, "--dry-run", "--json", "--explain", pattern)
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["explained"]
    assert nodes
    assert all(node["why"] and node["region"] is None for node in nodes)


def test_without_explain_nothing_is_explained(place: Workplace) -> None:
    done = run("quantize", place.model, "--dry-run", "--json")
    assert json.loads(done.stdout)["explained"] == []


@pytest.mark.nightly
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared models here")
def test_no_name_of_a_model_is_in_the_code() -> None:
    """Neither a model's name nor that of a node or file of it decides anything."""
    import onnx

    names = {path.name for path in SHARED.iterdir() if path.is_dir()}
    for path in SHARED.glob("*/*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        names |= {n.name for n in graph.node if len(n.name) > 12}
        names.add(path.name) if path.name != "model.onnx" else None
    words: set[str] = set()
    for path in (ROOT / "qtool").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bodies = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        told = {id(n.body[0].value) for n in bodies if n.body and isinstance(n.body[0], ast.Expr)}
        for one in ast.walk(tree):
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in told:
                words |= {one.value, *one.value.split()}
    assert names & words == set()


@pytest.mark.nightly
def test_the_table_has_every_mode_and_the_metric(tmp_path: Path) -> None:
    done = run(
        "tune", CNN / "model.onnx", "--calib", CNN / "calib", "--data", CNN / "eval", "--labels", CNN / "labels.json",
        "--metric", "top5_accuracy", "--table", "--timing", "table", "--report", tmp_path / "t.json", *BRIEFLY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "t.json").read_text())
    names = ["FP32", "FP16", "int8 dynamic", "int8 static", "int8 weights", "int4 weights"]
    assert [row["name"] for row in document["rows"]] == names
    assert all(row["metrics"]["top5_accuracy"] > 0.9 and not row["failed"] for row in document["rows"])
    assert all(any(line.startswith(name) for line in done.stdout.splitlines()) for name in names)
    sizes = {row["name"]: row["bytes"] for row in document["rows"]}
    assert sizes["int4 weights"] < sizes["int8 weights"] < sizes["FP16"] < sizes["FP32"]


def test_2_a_table_is_of_no_single_mode(tmp_path: Path) -> None:
    for words in (
        ["-o", tmp_path / "q.onnx"],
        ["--mode", "dynamic"],
        ["--fail-if", "sqnr<1"],
        ["--report", "t.xml"],
    ):
        done = run("tune", CNN / "model.onnx", "--calib", CNN / "calib", "--table", *words)
        assert done.returncode == 2, words
        assert left(tmp_path) == []
