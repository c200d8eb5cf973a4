"""A cost table of this machine, of few kernels and as briefly as can be: no test depends on its times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import qtool
from qtool.commands import profile as profiling
from qtool.plan.cost_table import read_table
from qtool.runtime.kernels.traced import Pace
from qtool.tables.kernels import EDGES, KERNELS, Kind


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run or three of two sizes."""
    monkeypatch.setitem(profiling.EFFORTS, "balanced", profiling.Effort(1, Pace(1, 0, 1), 2))


def test_the_table_has_the_chosen_rows_and_the_edges(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    table = qtool.profile(
        tmp_path / "costs.json",
        qtool.Profiling(rows=["Relu", "LSTM"], threads=1),
        lambda stage, done, total: progress.append((done, total)),
    )
    wanted = {(row, kind) for row in ("Relu", "LSTM", *EDGES) for kind in KERNELS[row].runs}
    assert {(timed.row, timed.kind) for timed in table.rows} == wanted
    assert {len(timed.points) for timed in table.rows} == {2}
    assert table.dispatch > 0
    assert table.untimed == ()
    assert table.onnxruntime
    assert read_table(tmp_path / "costs.json") == table
    assert [done for done, _ in progress] == list(range(1, progress[-1][1] + 1))


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    qtool.profile(options=qtool.Profiling(rows=["Relu"]))
    assert list(tmp_path.iterdir()) == []


def test_unsupported_kernels_are_reported_and_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = replace(KERNELS["Relu"], runs={Kind.FLOAT: ("QLinearRelu",)})
    monkeypatch.setitem(profiling.KERNELS, "Relu", other)
    table = qtool.profile(options=qtool.Profiling(rows=["Relu"]))
    assert {timed.row for timed in table.rows} == set(EDGES)
    assert {(u.row, u.kind) for u in table.untimed} == {("Relu", Kind.FLOAT)}
    assert all("Relu" in u.ran.split() for u in table.untimed)


@pytest.mark.parametrize(
    "options",
    [qtool.Profiling(threads=0), qtool.Profiling(effort="much"), qtool.Profiling(rows=["Conv/4x4"])],
)
def test_impossible_options_are_usage_errors(options: qtool.Profiling) -> None:
    with pytest.raises(qtool.UsageError):
        qtool.profile(options=options)


def test_an_existing_file_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text("mine")
    with pytest.raises(qtool.UsageError, match="exists"):
        qtool.profile(path, qtool.Profiling(rows=["Relu"]))
    assert path.read_text() == "mine"
    table = qtool.profile(path, qtool.Profiling(rows=["Relu"], force=True))
    assert read_table(path) == table


def test_this_machine_has_a_name() -> None:
    assert profiling.machine().cpu
