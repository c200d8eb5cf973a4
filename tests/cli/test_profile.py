"""`qtool profile`, as a user runs it, of one kernel besides those that are always timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qtool.cli.main import cli
from qtool.commands import profile as profiling
from qtool.plan.cost_table import SCHEMA, read_table
from qtool.runtime.kernels.traced import Pace
from qtool.tables.kernels import EDGES, KERNELS
from tests.cli.program import run


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process, on few kernels."""
    brief = profiling.Effort(1, Pace(1, 0, 1), 2)
    monkeypatch.setattr(profiling, "EFFORTS", {"fast": brief, "balanced": brief})
    monkeypatch.setattr(profiling, "KERNELS", {row: KERNELS[row] for row in ("MaxPool", *EDGES)})
    return lambda *arguments: CliRunner().invoke(
        cli, ["profile", *map(str, arguments)], standalone_mode=False, catch_exceptions=False
    )


def test_it_prints_a_row_a_kernel_and_writes_the_table(
    profile: Callable[..., Result], tmp_path: Path
) -> None:
    done = profile("-o", tmp_path / "costs.json")
    for word in (
        "op",
        "float us",
        "int8 us",
        "MaxPool",
        "QuantizeLinear",
        "onnxruntime",
        str(tmp_path / "costs.json"),
    ):
        assert word in done.stdout
    assert read_table(tmp_path / "costs.json").threads == 1


def test_json_is_the_file(profile: Callable[..., Result], tmp_path: Path) -> None:
    done = profile("-o", tmp_path / "costs.json", "--json", "--effort", "fast", "--threads", 2)
    assert done.stdout == (tmp_path / "costs.json").read_text()
    document = json.loads(done.stdout)
    assert (document["schema"], document["threads"]) == (SCHEMA, 2)


def test_quiet_prints_nothing(profile: Callable[..., Result], tmp_path: Path) -> None:
    assert profile("-o", tmp_path / "costs.json", "-q").output == ""


def test_mistakes_are_found_before_anything_is_timed(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    for arguments, code, word in (
        ((), 2, "--output"),
        (("-o", "there.json"), 2, "--force"),
        (("-o", "none/costs.json"), 5, "does not exist"),
        (("-o", "-"), 2, "stdin, stdout"),
        (("-o", "costs.json", "--effort", "most"), 2, "balanced"),
        (("-o", "costs.json", "--threads", "0"), 2, "threads"),
    ):
        done = run("profile", *arguments, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert word in done.stderr
        assert done.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["there.json"]
