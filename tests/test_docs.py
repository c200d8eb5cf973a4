"""What the tables hold is documented: an unlisted metric, target or mode fails the build."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qtool.commands.data import InputSeen, SampleSeen, ShapeSeen, Survey
from qtool.data.seen import Figures
from qtool.evaluate.compare import Accuracy, Comparison
from qtool.evaluate.evaluator import Gain
from qtool.evaluate.gates import METRICS, Gate, GateResult
from qtool.evaluate.latency import Ratio
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.placement.choose import Trial
from qtool.plan.model import RegionNote, Skip
from qtool.report.model import SCHEMA as REPORT_SCHEMA
from qtool.report.model import CoverageRow, Explained, ModelFile, ReasonCount, Report, Selection, Timing
from qtool.report.serial import DERIVED, kinds_of
from qtool.report.survey_json import SCHEMA
from qtool.tables.images import PRESETS, RESIZES
from qtool.tables.modes import MODES
from qtool.tables.reasons import Reason
from qtool.tables.targets import TARGETS
from qtool.tables.texts import ROLES
from tests.cli.program import run
from tests.graphs import ROOT


@pytest.mark.parametrize("word", [*METRICS, *TARGETS, *MODES])
def test_the_readme_names_it(word: str) -> None:
    assert f"`{word}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def section(file: str, heading: str) -> str:
    """The part of a document under a heading."""
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    (found,) = (part for part in text.split("\n#") if part.lstrip("# ").startswith(heading))
    return found


@pytest.mark.parametrize(
    "part", [Survey, InputSeen, ShapeSeen, SampleSeen, Figures], ids=lambda p: p.__name__
)
def test_every_key_of_the_survey_is_described(part: type) -> None:
    described = section("report.md", "`data --json`")
    assert SCHEMA in described
    assert [f.name for f in fields(part) if f"`{f.name}`" not in described.replace("[]`", "`")] == []


REPORT = (
    Report,
    ModelFile,
    CoverageRow,
    Skip,
    Comparison,
    OutputMetrics,
    Accuracy,
    Timing,
    Ratio,
    GateResult,
    Gate,
    Selection,
    ReasonCount,
    Reason,
    RegionNote,
    Trial,
    Gain,
    Explained,
)


@pytest.mark.parametrize("part", REPORT, ids=lambda p: p.__name__)
def test_every_key_of_the_report_is_described(part: type) -> None:
    described = section("report.md", "`--json`").replace("[]`", "`")
    assert REPORT_SCHEMA in described
    assert [name for name in kinds_of(part) if f"`{name}`" not in described] == []
    marked = [name for name in DERIVED.get(part, {}) if f"`{name}`*" not in described]
    assert marked == [], "what follows from the rest has a *"


@pytest.mark.parametrize(
    "word", [*(f"--preset {name}" for name in PRESETS), *RESIZES, "preprocessor_config.json"]
)
def test_all_that_becomes_of_an_image_is_described(word: str) -> None:
    assert word in section("sources.md", "images")


def test_all_that_is_known_by_its_name_is_described() -> None:
    described = section("sources.md", "text")
    assert [names[0] for names in ROLES.values() if f"`{names[0]}`" not in described] == []


@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_the_help_names_every_metric(command: str) -> None:
    shown = run(command, "--help").stdout
    assert [metric for metric in METRICS if metric not in shown] == []
