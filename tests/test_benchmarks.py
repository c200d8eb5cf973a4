"""The scripts in benchmarks/ use names that exist: they are run by hand, long after a rename."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from tests.graphs import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_its_imports_exist(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qtool"):
            module = importlib.import_module(str(node.module))
            missing = [a.name for a in node.names if inspect.getattr_static(module, a.name, None) is None]
            assert missing == [], node.module
        elif isinstance(node, ast.ImportFrom) and node.module in {s.stem for s in SCRIPTS}:
            names = {
                n.name
                for n in ast.parse((script.parent / f"{node.module}.py").read_text()).body
                if hasattr(n, "name")
            }
            assert {a.name for a in node.names} <= names
