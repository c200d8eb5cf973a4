"""A saved report, read back and judged by other gates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import qtool
from qtool.errors import UsageError
from qtool.report.json import to_json
from qtool.report.model import Report
from qtool.report.saved import read_report, rejudge
from tests.report.made import BARE, FULL, GATED, REPORTS, SYNTHETIC


def save(report: Report, folder: Path) -> Path:
    path = folder / "run.json"
    path.write_text(to_json(report), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", REPORTS)
def test_a_file_comes_back(name: str, tmp_path: Path) -> None:
    assert to_json(read_report(save(REPORTS[name], tmp_path))) == to_json(REPORTS[name])
    assert to_json(qtool.read_report(str(tmp_path / "run.json"))) == to_json(REPORTS[name])


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"PK\x03\x04", b"{}", b"[[[["])
def test_2_a_damaged_file_is_named(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(damage)
    with pytest.raises(UsageError, match="run.json"):
        read_report(tmp_path / "run.json")


def test_2_not_a_report(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", Path("/dev/zero")):
        with pytest.raises(UsageError, match=path.name):
            read_report(path)


def test_without_gates_the_verdict_is_kept() -> None:
    assert rejudge(GATED, []) is GATED
    assert qtool.rejudge(GATED, ()) is GATED


@pytest.mark.parametrize(
    ("gate", "failed"),
    [
        ("sqnr<27.9", False), ("sqnr<28.1", True), ("scores:sqnr<30", False), ("more:sqnr<30", True),
        ("size>0.31", False), ("size>0.29", True), ("f1<0.8", False), ("f1<0.9", True),
        ("top1<0.5", False), ("top1<0.98", True), ("p99_error>0.1", True), ("nonfinite>0", True),
    ],
)  # fmt: skip
def test_new_gates_take_the_place_of_the_old(gate: str, failed: bool) -> None:
    rejudged = rejudge(GATED, [gate])
    assert [g.gate.text for g in rejudged.gates] == [gate]
    assert bool(rejudged.failed) == failed
    assert rejudged.comparison == GATED.comparison


@pytest.mark.parametrize("gate", ["accuracy<0.5", "speedup<1", "quantized<1"])
def test_gates_on_unmeasured_metrics_fail(gate: str) -> None:
    (failed,) = rejudge(GATED, [gate]).failed
    assert math.isnan(failed.value)
    assert "nothing to judge" in failed.why


@pytest.mark.parametrize("gate", ["sqnr<1", "speedup<1", "size>1", "quantized<1", "accuracy<0.1"])
def test_gates_on_a_dry_run_fail(gate: str) -> None:
    assert rejudge(BARE, [gate]).failed


def test_measurements_of_quantize_can_be_judged() -> None:
    assert not rejudge(FULL, ["quantized<4", "speedup<1.9", "size>0.4", "accuracy_drop>0.6"]).failed
    assert len(rejudge(FULL, ["quantized<5", "speedup<2.1", "size>0.2", "accuracy_drop>0.4"]).failed) == 4


def test_random_data_still_satisfies_no_gate() -> None:
    (gate,) = rejudge(SYNTHETIC, ["sqnr<1"]).failed
    assert gate.synthetic
    assert not rejudge(SYNTHETIC, ["size>0.5"]).failed, "which no sample had a say in"


@pytest.mark.parametrize("gate", ["sqrn<1", "f2<1", "nope:sqnr<1", "sqnr=1", "scores:f1<1", "scores:size>1"])
def test_2_not_a_gate(gate: str) -> None:
    with pytest.raises(UsageError):
        rejudge(GATED, [gate])
