"""Every outcome of a gate through the installed program, and second opinions on what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.program import run, run_installed
from tests.graphs import ROOT, model, node, weights

SHARED = ROOT.parent / "shared"
SCORER = SHARED / "tools" / "score.py"
ROWS = 200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, one that agrees on all 200 rows but not in value, and one that never agrees."""
    folder = tmp_path_factory.mktemp("judged")
    w = weights(8, 8)
    for name, matrix in {"a": w, "near": w * np.float32(1.01), "far": -w}.items():
        proto = model(
            [node("MatMul", ["x", "w"], ["logits"])], {"x": ("n", 8)}, {"logits": ("n", 8)}, {"w": matrix}
        )
        onnx.save(proto, folder / f"{name}.onnx")
    (folder / "eval").mkdir()
    for i in range(4):
        x = np.random.default_rng(i).standard_normal((ROWS // 4, 8)).astype(np.float32)
        np.savez(folder / "eval" / f"{i}.npz", x=x)
    (folder / "metrics.py").write_text(
        "def share(fp32, quantized):\n"
        "    return (fp32['logits'].argmax(-1) == quantized['logits'].argmax(-1)).mean()\n"
    )
    (folder / "gates.txt").write_text("sqnr<20\nlogits:top1<0.9\n")
    return folder


OUTCOMES = {
    "held": ("near", ["--fail-if", "sqnr<20"], 0, ""),
    "held on one output": ("near", ["--fail-if", "logits:cosine<0.99"], 0, ""),
    "failed": ("far", ["--fail-if", "sqnr<20"], 1, "sqnr is -6.02"),
    "failed on one output": ("far", ["--fail-if", "logits:top1<0.5"], 1, "top1 is 0"),
    "inconclusive": ("near", ["--fail-if", "top1<0.99"], 1, "inconclusive: 0.9812 to 1"),
    "conclusive": ("near", ["--fail-if", "top1<0.98"], 0, ""),
    "from a file, held": ("near", ["--gates", "{place}/gates.txt"], 0, ""),
    "from a file, failed": ("far", ["--gates", "{place}/gates.txt"], 1, "sqnr<20"),
    "nothing to judge": ("near", ["--fail-if", "accuracy<0.5"], 1, "nothing to judge"),
    "of one's own, held": ("near", ["--metric", "{place}/metrics.py:share", "--fail-if", "share<1"], 0, ""),
    "of one's own, failed": ("far", ["--metric", "{place}/metrics.py:share", "--fail-if", "share<1"], 1, "share is 0"),
    "of the precision, failed": ("near", ["--gate", "auto"], 1, "sqnr<50"),
    "no such metric": ("near", ["--fail-if", "sqrn<20"], 2, "sqnr"),
    "no such output": ("near", ["--fail-if", "logit:sqnr<20"], 2, "logits"),
    "no such file of gates": ("near", ["--gates", "{place}/none.txt"], 2, "none.txt"),
    "size": ("near", ["--fail-if", "size>0.5"], 1, "size is 1"),
}  # fmt: skip


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_gate_outcomes_have_exit_codes_and_messages(place: Path, outcome: str) -> None:
    other, words, code, said = OUTCOMES[outcome]
    words = [w.format(place=place) for w in words]
    done = run("compare", place / "a.onnx", place / f"{other}.onnx", "--data", place / "eval", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    if code == 1:
        assert done.stderr.splitlines()[-1].startswith("gate failed: ")
        assert "4 samples" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("other", "shipped"), [("near", True), pytest.param("far", False, marks=pytest.mark.nightly)]
)
def test_a_gate_decides_in_a_shell(place: Path, other: str, shipped: bool) -> None:
    words = [place / "a.onnx", place / f"{other}.onnx", "--data", place / "eval", "--fail-if", "sqnr<20"]
    shell = 'set -o pipefail; "$@" | head -1 >/dev/null && echo shipped'
    done = run_installed("compare", *words, shell=shell)
    assert ("shipped" in done.stdout) == shipped, done.stderr


def test_a_reference_file_replaces_the_fp32_model(place: Path, tmp_path: Path) -> None:
    kept = tmp_path / "golden.npz"
    both = run(
        "compare",
        place / "a.onnx",
        place / "near.onnx",
        "--data",
        place / "eval",
        "--json",
        "--save-ref",
        kept,
    )
    assert both.returncode == 0, both.stderr
    words = ["--data", place / "eval", "--load-ref", kept, "--json"]
    alone = run("compare", place / "near.onnx", *words)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["comparison"] == json.loads(both.stdout)["comparison"]
    assert run("compare", place / "far.onnx", *words, "--fail-if", "sqnr<20").returncode == 1
    twice = run("compare", place / "a.onnx", place / "near.onnx", *words)
    assert twice.returncode == 2
    assert "one model only" in twice.stderr
    one = run("compare", place / "near.onnx", "--data", place / "eval")
    assert one.returncode == 2
    assert "two models" in one.stderr


@pytest.mark.skipif(not SCORER.exists(), reason="the shared models are absent")
@pytest.mark.parametrize(
    "name", ["mnist_opset8", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("magika", "dtln1"))]
)
def test_an_independent_scorer_agrees(name: str, tmp_path: Path) -> None:
    folder, out = SHARED / "models" / name, tmp_path / "q.onnx"
    made = run("quantize", folder / "model.onnx", "-o", out, "--mode", "weight-only", "--bits", "4", "-q")
    assert made.returncode == 0, made.stderr
    ours = run("compare", folder / "model.onnx", out, "--data", folder / "eval", "--json", "--threads", 1)
    theirs = subprocess.run(
        [sys.executable, SCORER, folder / "model.onnx", out, folder / "eval", "--repeat", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(ours.stdout)["comparison"]["sqnr"]
    assert measured == pytest.approx(json.loads(theirs.stdout)["sqnr_db_worst"], abs=0.01)
