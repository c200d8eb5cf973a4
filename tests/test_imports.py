"""The imports that each folder may have (docs/architecture.md), read from the source: also those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from qtool.tables.sources import KINDS
from tests.graphs import ROOT

PACKAGE = ROOT / "qtool"
FILES = sorted(PACKAGE.rglob("*.py"))

# A folder may import itself and what stands before it.
FOUNDATION = {"errors", "tables", "numerics"}
LOADED = FOUNDATION | {"graph", "data", "runtime", "serialize"}
PLANNED = LOADED | {"calibration", "plan", "options"}
JUDGED = PLANNED | {"rewrite", "evaluate"}
PLACED = JUDGED | {"recover", "placement"}
MAY_IMPORT = {
    "errors": set(),
    "tables": {"numerics"},
    "serialize": FOUNDATION | {"runtime"},
    "numerics": {"tables"},
    "runtime": FOUNDATION,
    "graph": FOUNDATION | {"runtime"},
    "data": FOUNDATION | {"runtime"},
    "calibration": LOADED,
    "plan": PLANNED,
    "rewrite": PLANNED,
    "evaluate": PLANNED | {"rewrite"},
    "recover": JUDGED,
    "placement": JUDGED | {"recover"},
    "report": PLACED | {"commands"},  # the results of commands, which it renders
    "commands": PLACED | {"report"},
    "cli": PLACED | {"report", "commands"},
}
RENDERERS = tuple(
    f"report/{name}.py"
    for name in (
        "terminal analysis_terminal checklist table sweep inspection difference survey bench profile placement tables folder"
    ).split()
)
ON_TOP = {"__init__", "__main__", "errors", "options"}


def room(path: Path) -> str:
    """The package or module right under qtool/ that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return modules


def rooms_imported(path: Path) -> set[str]:
    names = (n.split(".") for n in imports(path) if n == "qtool" or n.startswith("qtool."))
    return {parts[1] if len(parts) > 1 else "__init__" for parts in names}


def importers(library: str) -> set[str]:
    """The files that import a library, by their path in qtool/."""
    return {
        str(f.relative_to(PACKAGE))
        for f in FILES
        if any(n == library or n.startswith(f"{library}.") for n in imports(f))
    }


def test_every_module_is_in_a_folder_with_a_rule() -> None:
    assert {room(f) for f in FILES} == MAY_IMPORT.keys() | ON_TOP
    assert {f.stem for f in PACKAGE.glob("*.py")} == ON_TOP


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_folders_import_in_one_direction(name: str) -> None:
    broken = {
        f"{f.relative_to(PACKAGE)} imports {other}"
        for f in FILES
        if room(f) == name
        # `from qtool import x` names the package too, which is the same as importing x.
        for other in rooms_imported(f) - MAY_IMPORT[name] - {name, "__init__"}
        if (PACKAGE / other).exists() or (PACKAGE / f"{other}.py").exists()
    }
    assert not broken


def test_plan_does_not_import_rewrite_or_evaluate() -> None:
    """It receives trials as callables. Of the runtime it has the heartbeat and threads, for large weights."""
    imported = {other for f in FILES if room(f) == "plan" for other in rooms_imported(f)}
    names = {n for f in FILES if room(f) == "plan" for n in imports(f) if n.startswith("qtool.runtime")}
    assert names <= {
        *("qtool.runtime.heartbeat", "qtool.runtime.heartbeat.beat"),
        *("qtool.runtime.threads", "qtool.runtime.threads.in_threads"),
    }
    assert not imported & {
        "rewrite",
        "evaluate",
        "placement",
        "recover",
        "report",
        "commands",
        "cli",
    }


def test_only_the_shells_see_the_commands() -> None:
    """But for results that a renderer renders."""
    seeing = {room(f) for f in FILES if "commands" in rooms_imported(f)}
    assert seeing <= {"cli", "report", "commands", "__init__", "__main__"}


def test_click_is_in_cli_only() -> None:
    assert all(f.startswith("cli/") for f in importers("click"))


def test_rich_is_in_cli_and_the_terminal_renderers_only() -> None:
    assert all(f.startswith("cli/") or f in RENDERERS for f in importers("rich"))


def test_onnxruntime_is_opened_in_one_place() -> None:
    assert importers("onnxruntime") == {"runtime/library.py"}


def test_the_numerics_know_numpy_and_the_standard_library_only() -> None:
    import sys

    for path in (f for f in FILES if room(f) in ("numerics", "tables", "errors")):
        tops = {n.split(".")[0] for n in imports(path)}
        assert tops <= sys.stdlib_module_names | {"numpy", "qtool"}, path


def test_the_rival_is_never_used() -> None:
    """onnxruntime.quantization is what benchmarks compare with, not something to stand on."""
    assert not importers("onnxruntime.quantization")
    assert not any("onnxruntime.quantization" in f.read_text(encoding="utf-8") for f in FILES)


def test_torch_is_in_fine_tuning_only() -> None:
    assert all(f.startswith("recover/finetune/") for f in importers("torch"))


# Whether a Ray cluster answers at an address.
_ALLOWED = {"socket": {"runtime/ray_pool.py"}}


@pytest.mark.parametrize(
    "library", ["requests", "urllib", "http", "socket", "pickle", "random", "onnxscript"]
)
def test_no_network_no_pickle_no_chance(library: str) -> None:
    assert set(importers(library)) <= _ALLOWED.get(library, set())


def test_models_are_loaded_and_saved_in_graph_only() -> None:
    """onnx.load, onnx.save and ir.load outside graph/ would bypass its checks and its atomic writes."""
    broken = set()
    for path in (f for f in FILES if room(f) != "graph"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                if called in (
                    "onnx.load",
                    "onnx.save",
                    "ir.load",
                    "ir.save",
                    "onnx.load_model",
                    "onnx.save_model",
                ):
                    broken.add(f"{path.relative_to(PACKAGE)}: {called}")
    assert not broken


def test_commands_need_no_extra() -> None:
    """Every command is imported in a process where no library of an extra can be."""
    extras = sorted(
        {name for kind in KINDS.values() for name in kind.imports}
        | {"matplotlib", "jinja2", "markupsafe", "faster_coco_eval"}
    )
    code = (
        "import importlib, pkgutil, sys\n"
        f"sys.modules |= dict.fromkeys({extras!r})\n"
        "import qtool.cli, qtool.commands\n"
        "for package in (qtool.commands, qtool.cli):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
