"""The documentation holds what it says: commands run, options, files and links exist, every key is described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import qtool
from qtool.cli.main import cli
from qtool.commands.data import InputSeen, SampleSeen, ShapeSeen, Survey
from qtool.data.decoder_inputs import ROLES
from qtool.data.statistics import Figures
from qtool.evaluate.compare import Accuracy, Comparison
from qtool.evaluate.evaluator import Gain
from qtool.evaluate.gates import Gate, GateResult
from qtool.evaluate.latency import Ratio
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.placement.trials import Trial
from qtool.plan.model import RegionNote, Skip
from qtool.report.json import DERIVED
from qtool.report.model import SCHEMA as REPORT_SCHEMA
from qtool.report.model import CoverageRow, Explained, ModelFile, ReasonCount, Report, Selection, Timing
from qtool.report.schema import kinds_of
from qtool.report.survey import SURVEY
from qtool.tables.images import PRESETS, RESIZES
from qtool.tables.reasons import Reason
from tests.doc_blocks import PAGES, blocks_of, prose_of
from tests.graphs import ROOT, SAMPLE_MODELS

ids = [str(page.relative_to(ROOT)) for page in PAGES]

# Options of other programs that the pages name.
FOREIGN = {
    "--model",
    "--files",
    "--augment",
    "--nightly",
    "--strict",
    "--save-inputs",
    "--rival",
    "--efforts",
    "--regions",
    "--graph",
    "--array",
    "--head",
    "--address",
    "--disable-usage-stats",
    "--wrap",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the examples speak of."""
    names = {
        "model.onnx": "model.onnx", "samples": "calib", "calib": "calib", "held_out": "eval", "eval": "eval",
        "labels.json": "labels.json",
    }  # fmt: skip
    for name, original in names.items():
        (tmp_path / name).symlink_to(SAMPLE_MODELS / "cnn" / original)
    (tmp_path / "gates.txt").write_text("sqnr<20\n", encoding="utf-8")
    # What the commands find is tested elsewhere; that they run is tested here.
    (tmp_path / "qtool.toml").write_text('[quantize]\neffort = "fast"\n', encoding="utf-8")
    return tmp_path


# Pages about a model that the reader has quantized already.
QUANTIZED = {"accuracy-dropped.md", "metrics.md", "slower-than-expected.md"}


@pytest.mark.nightly
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_its_commands_run(page: Path, folder: Path) -> None:
    """All blocks of a page, in one folder and in order, as a reader would run them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "QTOOL_TIME_LIMIT": "0"}
    if page.name in QUANTIZED:
        qtool.quantize(
            folder / "model.onnx",
            folder / "int8.onnx",
            qtool.Options(calib=str(folder / "calib"), effort="fast"),
        )
    for block in blocks_of(page):
        if block.reason or block.language not in ("bash", "python"):
            continue
        shell = ["bash", "--norc", "-e", "-o", "pipefail", "-c"]
        command = [*shell, block.text] if block.language == "bash" else [sys.executable, "-c", block.text]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page.name}:{block.line}\n{block.text}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A command elsewhere would be run by no test."""
    command = re.compile(r"^ *(?:\$ )?(?:qtool|pip|make|python) \w", re.MULTILINE)
    elsewhere = [b for b in blocks_of(page) if b.language not in ("bash", "console", "yaml", "python")]
    indented = re.findall(r"^    .*$", prose_of(page), re.MULTILINE)
    assert [b.line for b in elsewhere if command.search(b.text)] == []
    assert [line for line in indented if command.search(line)] == []


def options() -> Iterator[str]:
    """Every long option of every command."""
    for command in (cli, *cli.commands.values()):
        for param in command.params:
            yield from (name for name in (*param.opts, *param.secondary_opts) if name.startswith("--"))
    yield from ("--help", "--version")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_option_it_names_exists(page: Path) -> None:
    code = [*re.findall(r"`[^`\n]+`", prose_of(page))]
    code += [
        b.text for b in blocks_of(page) if b.language in ("bash", "console", "yaml") and "qtool" in b.text
    ]
    named = {name for text in code for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert sorted(named - set(options()) - FOREIGN) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_it_names_exists(page: Path) -> None:
    """Paths of this repository in code spans; folders of the package may leave out `qtool/`."""
    spans = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", prose_of(page))
    ours = {path.name for path in (*ROOT.iterdir(), *(ROOT / "qtool").iterdir()) if path.is_dir()}
    missing = [
        name
        for name in spans
        if name.split("/")[0] in ours and not (ROOT / name).exists() and not (ROOT / "qtool" / name).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_it_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(named) - targets) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_its_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose_of(page))
    generated = {"reference/commands.md", "reference/python.md", "reference/tables.md"}
    assert [link for link in links if not (page.parent / link).exists() and link not in generated] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6 * 1024


def section(file: str, heading: str) -> str:
    """The part of a document under a heading."""
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    (part,) = (part for part in text.split("\n#") if part.lstrip("# ").startswith(heading))
    return part


def test_every_key_of_the_survey_is_described() -> None:
    described = section("report.md", "`data --json`")
    assert SURVEY.schema in described
    names = {f.name for part in (Survey, InputSeen, ShapeSeen, SampleSeen, Figures) for f in fields(part)}
    assert sorted(n for n in names if f"`{n}`" not in described.replace("[]`", "`")) == []


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


def test_every_key_of_the_report_is_described() -> None:
    described = section("report.md", "`--json`").replace("[]`", "`")
    assert REPORT_SCHEMA in described
    for part in REPORT:
        assert [name for name in kinds_of(part) if f"`{name}`" not in described] == [], part
        marked = [name for name in DERIVED.get(part, {}) if f"`{name}`*" not in described]
        assert marked == [], "what follows from the rest has a *"


def test_all_preprocessing_is_described() -> None:
    images, text = section("sources.md", "images"), section("sources.md", "text")
    words = [*(f"--preset {name}" for name in PRESETS), *RESIZES, "preprocessor_config.json"]
    assert [word for word in words if word not in images] == []
    assert [names[0] for names in ROLES.values() if f"`{names[0]}`" not in text] == []
