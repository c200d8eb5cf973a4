"""Nothing is left behind, and nothing is sent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import run, run_installed
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
    quantized = run_installed(
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
    """In the source: every import of onnxruntime stands in the block that sets the variable."""
    body = ast.parse((ROOT / "qtool" / "runtime/library.py").read_text(encoding="utf-8")).body
    blocks = [node for node in body if isinstance(node, ast.With) and "_telemetry_off()" in ast.unparse(node)]
    imports = [
        node
        for top in body
        for node in ast.walk(top)
        if isinstance(node, ast.Import | ast.ImportFrom) and "onnxruntime" in ast.unparse(node)
    ]
    assert imports
    assert set(imports) == {node for block in blocks for node in block.body}


def test_telemetry_is_off_for_any_environment() -> None:
    """At run time: what onnxruntime sees at the moment of its import."""
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import qtool.runtime.session
"""
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize("before", [None, "0"])
def test_importing_the_session_leaves_environment_and_default_logger_alone(before: str | None) -> None:
    """onnxruntime reads the variable once, when it is imported; the process keeps its own environment."""
    code = """
import os, sys
before = dict(os.environ)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime.capi._pybind_state":
            import onnxruntime.capi.onnxruntime_pybind11_state as native
            set_severity = native.set_default_logger_severity
            native.set_default_logger_severity = lambda *a: print("severity set") or set_severity(*a)
sys.meta_path.insert(0, Watch())
import qtool.runtime.session
print(dict(os.environ) == before)
"""
    env = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    env |= {} if before is None else {"ORT_DISABLE_TELEMETRY": before}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
