"""docs/ci.md does what it says: its commands are run here, on a model of this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import qtool
from qtool.report.formats import FORMATS
from tests.doc_blocks import blocks_of
from tests.graphs import ROOT, SAMPLE_MODELS

PAGE = ROOT / "docs" / "ci.md"


def blocks(language: str) -> list[str]:
    """The blocks of code in a language."""
    return [b.text for b in blocks_of(PAGE) if b.language == language]


(GATES,) = blocks("text")
GITHUB, ACTION, GITLAB = map(yaml.safe_load, blocks("yaml"))
SHELL, LATER = blocks("bash")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the examples speak of."""
    for name in ("model.onnx", "calib", "eval", "labels.json"):
        (tmp_path / name).symlink_to(SAMPLE_MODELS / "cnn" / name)
    (tmp_path / "gates.txt").write_text(GATES, encoding="utf-8")
    return tmp_path


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run as GitHub does: `bash -e`, with a file for the summary."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }
    return subprocess.run(
        ["bash", "--norc", "-e", "-o", "pipefail", "-c", script],
        cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def steps() -> list[dict[str, Any]]:
    """The steps of the workflow that run something of ours."""
    (job,) = GITHUB["jobs"].values()
    return [step for step in job["steps"] if "run" in step and step["name"] != "Install"]


@pytest.mark.nightly
def test_the_workflow_does_its_job(folder: Path) -> None:
    assert [step["name"] for step in steps()] == ["Quantize", "Compare"]
    for step in steps():
        done = shell(step["run"], folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "::error" not in done.stdout
    kept = GITHUB["jobs"]["int8"]["steps"][-1]["with"]["path"].split()
    for pattern in kept:
        assert list(folder.glob(pattern)), pattern
    summary = (folder / "summary").read_text(encoding="utf-8")
    assert summary.count("## ✅ qtool") == 2
    assert not qtool.read_report(folder / "compare.json").failed


@pytest.mark.nightly
def test_a_failed_gate_fails_the_step_and_leaves_its_reports(folder: Path) -> None:
    (folder / "gates.txt").write_text(GATES + "sqnr<200\n", encoding="utf-8")
    (folder / "int8.onnx").symlink_to(folder / "model.onnx")
    (compare,) = (step["run"] for step in steps() if step["name"] == "Compare")
    done = shell(compare.replace("size>0.5", ""), folder)
    assert done.returncode == 1
    assert "::error title=gate failed%3A size>0.5::" in done.stdout
    assert {p.name for p in folder.glob("compare.*")} == {"compare.json", "compare.xml", "compare.csv"}


@pytest.mark.nightly
def test_the_shell_runs_every_step(folder: Path) -> None:
    done = shell(SHELL, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("every gate held\n")
    done = shell(LATER, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "summary.md").read_text(encoding="utf-8").startswith("## ✅")
    done = shell(GITLAB["int8"]["script"][0], folder)
    assert done.returncode == 0, done.stderr
    (folder / "gates.txt").write_text("sqnr<200\n", encoding="utf-8")
    done = shell(SHELL, folder)
    assert done.returncode == 1
    assert done.stdout.endswith("a gate failed\n")
    (folder / "gates.txt").write_text("sqrn<20\n", encoding="utf-8")
    done = shell(SHELL, folder)
    assert done.returncode == 2
    assert done.stdout.endswith("not judged: exit code 2\n")


def test_the_action_takes_the_inputs_of_the_example() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert ACTION["steps"][-1]["with"].keys() <= action["inputs"].keys()


def test_every_format_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\.\w+)` \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {(name, suffix) for suffix, name in rows} == {(n, row.suffix) for n, row in FORMATS.items()}
