"""action.yml: its steps are run as GitHub runs them, with the inputs as variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.graphs import ROOT, SAMPLE_MODELS

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
INPUT = re.compile(r"\$\{\{ inputs\.(\w+) \}\}")


def quantized(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step that quantizes."""
    (folder / "model.onnx").symlink_to(SAMPLE_MODELS / "cnn" / "model.onnx")
    (folder / "calib").symlink_to(SAMPLE_MODELS / "cnn" / "calib")
    values = {name: row.get("default", "") for name, row in ACTION["inputs"].items()}
    values |= {"model": "model.onnx", "calib": "calib", **inputs}
    step = STEPS["Quantize"]
    env = {name: INPUT.sub(lambda m: values[m[1]], text) for name, text in step["env"].items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [step["shell"], "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
        env={**os.environ, **env, "PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(folder / "summary")},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_no_input_is_part_of_a_script() -> None:
    """It would be run as code."""
    assert not any("${{" in step.get("run", "") for step in STEPS.values())


@pytest.mark.nightly
def test_it_writes_the_model_the_page_and_the_summary(tmp_path: Path) -> None:
    done = quantized(tmp_path, options="--effort fast --timing table --exclude 'op:Gemm'")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "int8.onnx").exists()
    page = (tmp_path / "qtool-report" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "--exclude op:Gemm" in page
    assert (tmp_path / "summary").read_text(encoding="utf-8").startswith("## ✅ qtool quantize")
    kept = INPUT.sub(
        lambda m: ACTION["inputs"][m[1]]["default"], STEPS["Keep the results"]["with"]["path"]
    ).split()
    assert all((tmp_path / name).exists() for name in kept)


@pytest.mark.nightly
def test_a_failed_gate_fails_the_step_and_leaves_the_page(tmp_path: Path) -> None:
    (tmp_path / "gates.txt").write_text("sqnr<200\n", encoding="utf-8")
    done = quantized(tmp_path, gates="gates.txt", options="--effort fast --timing table")
    assert done.returncode == 1
    assert "::error title=gate failed" in done.stdout
    assert not (tmp_path / "int8.onnx").exists()
    assert (tmp_path / "qtool-report" / "report.html").exists()
