"""Nothing is left behind, and nothing is sent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.program import run
from tests.graphs import ROOT, samples, write_samples
from tests.rewrite.zoo import CASES


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_no_file_appears_but_the_output(tmp_path: Path) -> None:
    """Not under HOME, not in the current folder, not beside the input, not in the temporary folder."""
    for name in ("home", "here", "in", "out", "tmp"):
        (tmp_path / name).mkdir()
    model = tmp_path / "in" / "model.onnx"
    model.write_bytes(CASES["mobile-block"].build().SerializeToString())
    calib = write_samples(tmp_path / "in" / "calib", samples(9, x=(1, 16, 8, 8)))
    before = files(tmp_path / "in")
    home = str(tmp_path / "home")
    env = {"HOME": home, "TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home,
           "XDG_DATA_HOME": home, "XDG_STATE_HOME": home, "USERPROFILE": home, "LOCALAPPDATA": home}  # fmt: skip
    env["ORT_DISABLE_TELEMETRY"] = "0"
    quantized = run(
        "quantize", model, "-o", tmp_path / "out" / "q.onnx", "--calib", calib, cwd=tmp_path / "here", env=env
    )
    assert quantized.returncode == 0, quantized.stderr
    compared = run(
        "compare", model, tmp_path / "out" / "q.onnx", "--data", calib, cwd=tmp_path / "here", env=env
    )
    assert compared.returncode == 0, compared.stderr
    left = {name: files(tmp_path / name) for name in ("home", "here", "tmp", "out")}
    assert left == {"home": set(), "here": set(), "tmp": set(), "out": {"q.onnx"}}
    assert files(tmp_path / "in") == before


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    """In the source: the assignment stands before the import."""
    body = ast.parse((ROOT / "qtool" / "session.py").read_text(encoding="utf-8")).body
    lines = {
        kind: node.lineno
        for node in body
        for kind, is_it in (
            ("set", isinstance(node, ast.Assign) and "ORT_DISABLE_TELEMETRY" in ast.unparse(node)),
            ("import", isinstance(node, ast.Import) and "onnxruntime" in ast.unparse(node)),
        )
        if is_it
    }
    assert lines["set"] < lines["import"]


def test_telemetry_is_off_whatever_the_environment_said() -> None:
    """At run time: what onnxruntime sees at the moment of its import."""
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import qtool.session
"""
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
