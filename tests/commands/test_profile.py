"""A cost table of this machine, of few kernels and as briefly as can be: what it says is no test's business."""

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


def test_the_table_has_the_rows_that_were_asked_for_and_the_edges(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = qtool.profile(
        tmp_path / "costs.json",
        qtool.Profiling(rows=["Relu", "LSTM"], threads=1),
        lambda stage, done, total: seen.append((done, total)),
    )
    wanted = {(row, kind) for row in ("Relu", "LSTM", *EDGES) for kind in KERNELS[row].runs}
    assert {(timed.row, timed.kind) for timed in found.rows} == wanted
    assert {len(timed.points) for timed in found.rows} == {2}
    assert found.dispatch > 0
    assert found.untimed == ()
    assert found.onnxruntime
    assert read_table(tmp_path / "costs.json") == found
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    qtool.profile(options=qtool.Profiling(rows=["Relu"]))
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_the_runtime_does_not_run_is_said_and_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = replace(KERNELS["Relu"], runs={Kind.FLOAT: ("QLinearRelu",)})
    monkeypatch.setitem(profiling.KERNELS, "Relu", other)
    found = qtool.profile(options=qtool.Profiling(rows=["Relu"]))
    assert {timed.row for timed in found.rows} == set(EDGES)
    assert {(u.row, u.kind) for u in found.untimed} == {("Relu", Kind.FLOAT)}
    assert all("Relu" in u.ran.split() for u in found.untimed)


@pytest.mark.parametrize(
    "how", [qtool.Profiling(threads=0), qtool.Profiling(effort="much"), qtool.Profiling(rows=["Conv/4x4"])]
)
def test_what_can_not_be_is_a_mistake_of_usage(how: qtool.Profiling) -> None:
    with pytest.raises(qtool.UsageError):
        qtool.profile(options=how)


def test_an_existing_file_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text("mine")
    with pytest.raises(qtool.UsageError, match="exists"):
        qtool.profile(path, qtool.Profiling(rows=["Relu"]))
    assert path.read_text() == "mine"
    found = qtool.profile(path, qtool.Profiling(rows=["Relu"], force=True))
    assert read_table(path) == found


def test_this_machine_has_a_name() -> None:
    assert profiling.machine().cpu
