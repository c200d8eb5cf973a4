"""The built wheel is complete: it installs on its own and runs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import qtool
from tests.graphs import ROOT


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = _run(*command, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that holds the wheel; the dependencies are those that run these tests."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but its own .pth files are not read: no editable qtool comes along.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    done = _run(*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_installed_program_prints_its_version(home: Path, tmp_path: Path) -> None:
    done = _run(home / "bin/qtool", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert qtool.__version__ in done.stdout


def test_the_module_runs_and_is_the_installed_one(home: Path, tmp_path: Path) -> None:
    done = _run(home / "bin/python", "-m", "qtool", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout
    where = _run(home / "bin/python", "-c", "import qtool; print(qtool.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(home)


def test_every_module_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    source = {str(f.relative_to(ROOT)) for f in (ROOT / "qtool").rglob("*.py")}
    assert source <= names
    assert {n.split("/")[0] for n in names} == {"qtool"}


def test_the_wheel_is_typed(wheel: Path) -> None:
    """The classifier says so; type checkers believe only the marker of PEP 561."""
    assert "qtool/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_has_the_cost_tables(wheel: Path) -> None:
    tables = {str(f.relative_to(ROOT)) for f in (ROOT / "qtool/tables/costs").glob("*.json")}
    assert tables
    assert tables <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    assert any(n.endswith("/LICENSE") for n in zipfile.ZipFile(wheel).namelist())
